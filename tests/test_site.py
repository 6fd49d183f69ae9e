"""The documentation: links between its pages, and what the site is refused for."""

import importlib
import importlib.util
import posixpath
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import ncx2

import restore_jax
import restore_jax.splitting

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "docs/api", "benchmarks", "benchmarks/results")
    for path in (ROOT / folder).glob("*.md")
)
API = "\n".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
SHOWN = re.findall(r"^::: (\S+)$", API, re.M)


def links(page):
    """Those of a page that lead to files, and the headings they name."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.S)
    for target, heading in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", text):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
        yield (path if target else page), heading


def headings(page):
    """What a forge and the site both call the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for path, heading in links(page):
        assert (ROOT / path).exists(), path
        assert not heading or heading in headings(path), heading


@pytest.mark.parametrize("room", [restore_jax, restore_jax.splitting], ids=lambda m: m.__name__)
def test_every_public_name_has_a_place_in_the_documentation(room):
    shown = {name.rpartition(".")[2] for name in SHOWN}
    assert {name for name in room.__all__ if not name.startswith("__")} <= shown


def test_no_name_has_two_places():
    assert len(SHOWN) == len({name.rpartition(".")[2] for name in SHOWN})


def test_every_page_is_reached_from_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    for path in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "api").glob("*.md")]:
        assert f": {path.relative_to(ROOT / 'docs').as_posix()}\n" in menu
    for path in (ROOT / "benchmarks" / "results").glob("*.md"):
        assert f": {path.relative_to(ROOT).as_posix()}\n" in menu


@pytest.mark.parametrize("name", ["wrong-model", "new-attack"])
def test_a_form_asks_for_what_helps(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert {"name", "description", "body"} <= form.keys()
    ids = [question["id"] for question in form["body"]]
    assert len(set(ids)) == len(ids)
    for question in form["body"]:
        assert question["attributes"]["label"]
        for path in re.findall(r"docs/[\w-]+\.md", str(question)):
            assert (ROOT / path).exists(), path


def module_at(path):
    """A file outside the package as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_run_on_the_page_on_how_it_works_is_right():
    draw = module_at("docs/pictures/draw.py")
    states = draw.level_states()
    found = float(states[-1].log_prob) / np.log(10)
    # Of a standard normal point in the plane to lie within EVENT of a top; the circles are apart.
    exact = np.log10(sum(ncx2.cdf(draw.EVENT**2, 2, np.dot(top, top)) for top in draw.HILLS))
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    said = float(re.search(r"here 10\^(-\d\.\d), from 400 points", page)[1])
    assert found == pytest.approx(exact, abs=0.35)
    assert found == pytest.approx(said, abs=0.1)
    assert len(states) - 1 == 6
    assert "Points at six levels" in page
    for top in draw.HILLS:
        away = np.linalg.norm(np.asarray(states[-1].particles) - top, axis=-1)
        assert (away <= draw.EVENT).any()


# What needs the packages of the site.


def loaded(name):
    """A file of docs/site as a module."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("griffe")
    return module_at(f"docs/site/{name}.py")


@pytest.fixture(scope="module")
def hooks():
    return loaded("hooks")


@pytest.mark.parametrize(
    ("page", "target", "there"),
    [
        ("index.md", "docs/sampler.md", "sampler.md"),
        ("commands.md", "models.md", "models.md"),
        ("measured.md", "../benchmarks/README.md", "benchmarks/about.md"),
        ("measured.md", "../benchmarks/results/pair.md", "benchmarks/results/pair.md"),
        ("benchmarks/results/speed.md", "speed.png", "speed.png"),
        ("contributing.md", "docs/extending.md", "extending.md"),
        ("extending.md", "../restore_jax/spaces/types.py", "source/restore_jax/spaces/types.py.md"),
        ("extending.md", "../restore_jax/cli", "source/restore_jax/cli/index.md"),
        ("api/sampler.md", "../sampler.md", "../sampler.md"),
        ("commands.md", "../nowhere.txt", "../nowhere.txt"),
    ],
)
def test_a_link_of_the_repository_is_one_of_the_site(hooks, page, target, there):
    assert hooks.site_link(page, target) == there


def test_a_name_without_a_page_or_a_docstring_is_refused(hooks, tmp_path, monkeypatch):
    pages = [ROOT / "docs" / "api" / path for path in (ROOT / "docs" / "api").glob("*.md")]
    assert hooks.undocumented(pages) == []
    without = tmp_path / "api.md"
    without.write_text(API.replace("::: restore_jax.scan\n", "::: restore_jax.lazy.lazily\n"))
    assert hooks.undocumented([without]) == [
        "no page shows restore_jax.scan", "restore_jax.lazy.lazily is shown, but not public",
    ]  # fmt: skip
    load = hooks.griffe.load

    def silent(*words, **options):
        package = load(*words, **options)
        package["diagnosis.procedure.scan"].docstring = None
        return package

    monkeypatch.setattr(hooks.griffe, "load", silent)
    assert hooks.undocumented(pages) == ["restore_jax.scan has no docstring"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<script src="https://x/y.js"></script>', ["https://x/y.js"]),
        ("<link rel=stylesheet href=//x/y.css>", ["//x/y.css"]),
        ("a { background: url('http://x/y.png') }", ["http://x/y.png"]),
        ('@import "https://x/y.css";', ["https://x/y.css"]),
        ('<a href="https://x">x</a> <img src="y.png"> <link rel="canonical" href="https://x">', []),
    ],
)
def test_what_a_browser_would_load_from_elsewhere_is_found(hooks, text, found):
    assert hooks.loaded(text) == found


def test_whatever_is_wrong_ends_the_build(hooks):
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"))
    assert config.strict
    links = config.validation.links
    assert {links.not_found, links.anchors, links.unrecognized_links} == {30}  # a warning
    assert config.validation.nav.omitted_files == 30


def test_the_flags_of_every_command_are_on_a_page(hooks):
    page = hooks.flags_page()
    for flag in ("--trigger NAME", "--false-alarm-rate", "--recovery", "--trigger-file", "--plant"):
        assert flag in page


def test_docstrings_are_made_ready():
    docstrings = loaded("docstrings")
    several = "Args:\n  low, high: ends,\n    in [0, 1].\n  key: one, two: three.\n"
    assert docstrings.each_alone(several) == (
        "Args:\n  low: ends,\n    in [0, 1].\n  high: ends,\n    in [0, 1].\n"
        "  key: one, two: three.\n"
    )
    example = "Example:\n  >>> f(\n  ...   1)  # doctest: +SKIP\n  2\n\nMore."
    assert docstrings.with_code(example) == (
        "Example:\n  ```pycon\n  >>> f(\n  ...   1)\n  2\n  ```\n\nMore.\n"
    )
