"""What the site adds to docs/*.md, and what it refuses.

It adds the pages that lie elsewhere in the repository: the README as the first page, the results
of the benchmarks, the notebooks, the files of code that pages link to, and the help of every
command. Links
between them are those that work on a forge; here they are turned into links of the site.

It refuses to be built with a public name that no page of ``docs/api`` shows or no docstring
explains, and with anything that a browser would load from elsewhere.
"""

import argparse
import importlib
import json
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks/about.md",
    **{
        path.relative_to(ROOT).as_posix(): f"notebooks/{path.stem}.md"
        for path in sorted((ROOT / "examples").glob("*.ipynb"))
    },
}
"""Of the repository, and what they are called in the site."""
ROOMS = ("restore_jax", "restore_jax.splitting")
"""Whose public names have to be shown."""
CODE = {".py": "python", ".yml": "yaml"}
"""What is shown as code, by how its name ends, and in which language."""


def site_path(path: str) -> str | None:
    """Where a file or folder of the repository is found in the site; None: nowhere.

    >>> site_path("docs/sampler.md"), site_path("benchmarks/results/pair.md")
    ('sampler.md', 'benchmarks/results/pair.md')
    """
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/") and Path(path).suffix not in CODE:
        return path.removeprefix("docs/")
    if path.startswith("benchmarks/results/") and path.endswith((".md", ".png")):
        return path
    if (ROOT / path).is_dir():
        return f"source/{path}/index.md"
    return f"source/{path.lstrip('.')}.md" if Path(path).suffix in CODE else None


def repository_path(page: str) -> str:
    """Where a page of the site lies in the repository."""
    back = {there: here for here, there in PAGES.items()}
    if page in back:
        return back[page]
    return page if page.startswith("benchmarks/") else f"docs/{page}"


def page_text(path: str) -> str:
    """A page of the repository as Markdown; of a notebook its text and its code."""
    text = (ROOT / path).read_text()
    return notebook_page(path, json.loads(text)) if path.endswith(".ipynb") else text


def notebook_page(path: str, notebook: dict[str, Any]) -> str:
    """A notebook as a page: what it says, and its code, which was not run here.

    >>> cells = [{"cell_type": "markdown", "source": ["# T\\n", "Text."]},
    ...          {"cell_type": "code", "source": ["x = 1"]}]
    >>> print(notebook_page("examples/t.ipynb", {"cells": cells}))
    # T
    Text.
    <BLANKLINE>
    ```python
    x = 1
    ```
    <BLANKLINE>
    This page is a notebook. To run it, from a copy of the repository:
    `pip install -e '.[notebooks]' && jupyter lab examples/t.ipynb`
    <BLANKLINE>
    """
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    parts.append(
        "This page is a notebook. To run it, from a copy of the repository:\n"
        f"`pip install -e '.[notebooks]' && jupyter lab {path}`\n"
    )
    return "\n\n".join(parts)


def linked_code() -> set[str]:
    """The files of code and the folders that some page links to, from the root."""
    pages = [*PAGES, *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
    found = set()
    for page in pages:
        for _, target, _ in LINK.findall(page_text(page)):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
            if (ROOT / path).is_dir() or (Path(path).suffix in CODE and (ROOT / path).is_file()):
                found.add(path)
    return found


def source_page(path: str) -> str:
    """A file of code as a page, or what is in a folder."""
    place = ROOT / path
    unsearched = "---\nsearch:\n  exclude: true\n---\n\n"
    if place.is_dir():
        lines = [f"{unsearched}# {path}/\n", "| file | what it is |", "|---|---|"]
        for file in sorted(place.glob("*.py")):
            lines.append(f"| `{file.name}` | {_first_line(file)} |")
        return "\n".join(lines) + "\n"
    return f"{unsearched}# {path}\n\n````{CODE[place.suffix]}\n{place.read_text()}````\n"


def _first_line(file: Path) -> str:
    found = re.match(r'"""(.*?)(?:\n\n|""")', file.read_text(), re.S)
    return " ".join(found[1].split()).replace("|", r"\|") if found else ""


def flags_page() -> str:
    """The help of every command, as it is printed."""
    from restore_jax.cli.main import COMMANDS, Parser

    parts = [
        "# All flags\n\nWhat `restore-jax COMMAND --help-all` prints; `--help` prints those that "
        "most people need.\n"
    ]
    for name, text in COMMANDS.items():
        parser = Parser(
            prog=f"restore-jax {name}",
            description=text.capitalize() + ".",
            formatter_class=lambda prog: argparse.HelpFormatter(prog, width=90),
        )
        importlib.import_module(f"restore_jax.cli.{name}").add_arguments(parser)
        parts.append(f"## {name}\n\n```text\n{parser.format_help()}```\n")
    return "\n".join(parts)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages that lie elsewhere."""
    for path, name in PAGES.items():
        files.append(File.generated(config, name, content=page_text(path)))
    for path in sorted((ROOT / "benchmarks" / "results").iterdir()):
        name = path.relative_to(ROOT).as_posix()
        if site_path(name) is not None:
            files.append(File.generated(config, name, abs_src_path=str(path)))
    for path in sorted(linked_code()):
        name = site_path(path)
        assert name is not None
        file = File.generated(config, name, content=source_page(path))
        file.inclusion = file.inclusion.NOT_IN_NAV
        files.append(file)
    files.append(File.generated(config, "flags.md", content=flags_page()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links of the repository into links of the site."""
    name = page.file.src_uri
    if name.startswith("source/"):
        return markdown
    return LINK.sub(lambda found: f"{found[1]}{site_link(name, found[2])}{found[3]}", markdown)


def site_link(page: str, target: str) -> str:
    """What a link of a page, relative in the repository, is in the site."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(repository_path(page)), target))
    there = site_path(path)
    if there is None:
        return target  # refused as a link to nowhere
    return posixpath.relpath(there, posixpath.dirname(page) or ".")


def on_config(config: MkDocsConfig) -> None:
    """Refuses public names that are not shown or not explained."""
    missing = undocumented((ROOT / "docs" / "api").glob("*.md"))
    if missing:
        raise PluginError("docs/api: " + "; ".join(missing))


def undocumented(pages: Iterable[Path]) -> list[str]:
    """What is wrong with public names, a few words each.

    Args:
      pages: those that show them.
    """
    package = griffe.load("restore_jax", search_paths=[ROOT])

    def home(path: str) -> str:
        """Where a name is defined: rooms hand on names of their files."""
        room, _, name = path.rpartition(".")
        handed_on = package[room.removeprefix("restore_jax.")] if room != "restore_jax" else package
        return home(handed_on.imports[name]) if name in handed_on.imports else path

    shown: set[str] = set()
    for page in pages:
        shown |= {home(path) for path in re.findall(r"^::: (\S+)$", page.read_text(), re.M)}
    public = {
        f"{room}.{name}": home(f"{room}.{name}")
        for room in ROOMS
        for name in importlib.import_module(room).__all__
        if not name.startswith("__")
    }
    found = [f"no page shows {name}" for name, path in public.items() if path not in shown]
    found += [f"{path} is shown, but not public" for path in shown - set(public.values())]
    for name, path in public.items():
        if package[path.removeprefix("restore_jax.")].docstring is None:
            found.append(f"{name} has no docstring")
    return sorted(found)


def on_post_build(*, config: MkDocsConfig) -> None:
    """Refuses a site that would load anything from elsewhere."""
    for file in Path(config.site_dir).rglob("*"):
        if file.suffix not in (".html", ".css"):
            continue
        for address in loaded(file.read_text()):
            raise PluginError(f"{file.relative_to(config.site_dir)} would load {address}")


def loaded(text: str) -> list[str]:
    """The addresses elsewhere that a page or a style sheet makes a browser load.

    >>> loaded('<script src="https://x/y.js"></script> <a href="https://z">z</a>')
    ['https://x/y.js']
    """
    tags = re.findall(r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\ssrc=[\"']?"
                      r"((?:https?:)?//[^\"'\s>]+)", text)  # fmt: skip
    links = [
        found[1]
        for link in re.findall(r"<link\b[^>]*>", text)
        if (found := re.search(r"href=[\"']?((?:https?:)?//[^\"'\s>]+)", link))
        and not re.search(r"rel=[\"']?canonical", link)
    ]
    styles = re.findall(r"(?:url\(|@import )\s*[\"']?((?:https?:)?//[^\"')\s]+)", text)
    return tags + links + styles
