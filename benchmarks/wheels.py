"""The wheel, installed where a stranger would install it: which Pythons and pins it runs with.

    python benchmarks/wheels.py --wheel dist/restore_jax-0.2.0-py3-none-any.whl \
        --uv uv --pythons python3.11 python3.12 python3.13

Build the wheel first: ``pip install build && python -m build``. For each Python an environment is
made outside the tree with the lowest versions that ``pyproject.toml`` allows for what it names
(``uv pip install --resolution lowest-direct``, of those that need no compiler), and one with the
newest of everything. In each a few things are run, from an empty folder. What the wheel holds is
checked first. Rows that are there already are kept: delete them in the .json for a fresh start.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PINS = {"lowest": "lowest-direct", "newest": "highest"}
NEEDED = (
    "restore_jax/py.typed",
    "restore_jax/diagnosis/null.json",
    "restore_jax/models/shipped/checksums.json",
    "restore_jax/models/shipped/metadata/metadata",
    "restore_jax/models/shipped_clean/metadata/metadata",
)
"""Files without which the package does not work, or says nothing of its types."""
PROBABILITY = """\
import jax
from restore_jax import importance_splitting, standard_normal
algorithm = importance_splitting(lambda x, args: x.sum(-1) / 10, standard_normal(100),
                                 threshold=5.0, num_particles=1000)
result = jax.jit(algorithm.run)(jax.random.key(0), ())
assert -7.1 < float(result.log_prob) / 2.302585 < -5.9, float(result.log_prob)
"""
"""Five sigma, whose probability is 10^-6.54."""


def commands(bin_folder: Path) -> dict[str, list[str]]:
    """What is run, by what it is called in the table."""
    return {
        "`restore-jax --help`": [str(bin_folder / "restore-jax"), "--help"],
        "five sigma": [str(bin_folder / "python"), "-c", PROBABILITY],
        "`recover --target cat --stop first_hit`": [
            str(bin_folder / "restore-jax"), "recover", "--target", "cat", "--stop", "first_hit",
            "--out", "found",
        ],
    }  # fmt: skip


def main() -> None:
    """Checks the wheel, installs and runs it, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="what to install; none: only the table")
    parser.add_argument("--uv", default="uv", help="the program that installs")
    parser.add_argument("--pythons", nargs="+", default=[sys.executable], help="interpreters")
    parser.add_argument("--pins", nargs="+", choices=tuple(PINS), default=tuple(PINS))
    args = parser.parse_args()
    path = RESULTS / "wheels.json"
    if args.wheel is not None:
        wrong = contents(args.wheel)
        if wrong:
            raise SystemExit(f"{args.wheel.name}: " + "; ".join(wrong))
        for pins in args.pins:
            for python in args.pythons:
                keep(path, args.wheel.resolve(), args.uv, python, pins)
    (RESULTS / "wheels.md").write_text(table(rows(path)))


def contents(wheel: Path) -> list[str]:
    """What is wrong with what a wheel holds, a few words each."""
    names = zipfile.ZipFile(wheel).namelist()
    wrong = [f"{name} is missing" for name in NEEDED if name not in names]
    info = re.compile(r"restore_jax-[^/]*\.dist-info/")
    wrong += [
        f"{name} should not be in it"
        for name in names
        if not name.startswith("restore_jax/") and not info.match(name)
    ]
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "restore_jax").rglob("*.py")}
    return wrong + [f"{name} is missing" for name in sorted(here - set(names))]


def rows(path: Path) -> dict[str, Any]:
    """The rows measured so far, by "PYTHON PINS"."""
    return json.loads(path.read_text()) if path.exists() else {}


def keep(path: Path, wheel: Path, uv: str, python: str, pins: str) -> None:
    """Measures a row that is not there yet, and saves it."""
    version = said([python, "-c", "import platform; print(platform.python_version())"])
    name = f"{version} {pins}"
    if name in rows(path):
        return
    with tempfile.TemporaryDirectory() as place:
        row = measured(Path(place), wheel, uv, python, pins)
    row["date"] = datetime.date.today().isoformat()
    row["wheel"] = wheel.name
    path.write_text(json.dumps(rows(path) | {name: row}, indent=1) + "\n")
    print(name, row["failed"] or "all of it ran", row["seconds"], flush=True)


def measured(place: Path, wheel: Path, uv: str, python: str, pins: str) -> dict[str, Any]:
    """Installs the wheel with a Python and pins, and runs it."""
    venv = place / "venv"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = [re.split(r"[<>=!~;\[ ]", one)[0] for one in project["dependencies"]]
    built = [word for one in [*direct, "jaxlib"] for word in ("--only-binary", one)]
    # What a wheel asks for counts as indirect: to have the lowest of it, it is named as well.
    named = project["dependencies"] if pins == "lowest" else []
    seconds, failed = {}, ""
    steps = {
        "install": [uv, "pip", "install", "-q", "--python", str(venv / "bin" / "python"),
                    "--resolution", PINS[pins], *built, str(wheel), *named],
        **commands(venv / "bin"),
    }  # fmt: skip
    said([uv, "venv", "-q", "--python", python, str(venv)])
    work = place / "work"
    work.mkdir()
    outside = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    outside["XDG_CACHE_HOME"] = str(place / "cache")
    for step, command in steps.items():
        began = time.perf_counter()
        if step == "install":
            outside_uv = {k: v for k, v in outside.items() if k != "XDG_CACHE_HOME"}
            done = subprocess.run(command, cwd=work, env=outside_uv, capture_output=True, text=True)
        else:
            done = subprocess.run(command, cwd=work, env=outside, capture_output=True, text=True)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["it ended without a word"]
            failed = f"{step}: {lines[-1].replace(str(place), '...')}"
            break
        seconds[step] = round(time.perf_counter() - began, 1)
    versions = {}
    if "install" in seconds:
        listed = said([uv, "pip", "list", "-q", "--python", str(venv), "--format", "json"])
        known = {one["name"]: one["version"] for one in json.loads(listed)}
        versions = {one: known[one] for one in [*direct, "jaxlib"] if one in known}
    if not failed and not (work / "found" / "report.html").exists():
        failed = "recover: there is no report.html"
    return {"seconds": seconds, "failed": failed, "versions": versions}


def said(command: list[str]) -> str:
    """What a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    steps = list(commands(Path()))
    lines = [
        "# The wheel, Python by Python",
        "",
        "Made by `python benchmarks/wheels.py`: the wheel is installed in a fresh environment "
        "outside the tree, and used from an empty folder. *Lowest*: of every package that "
        "`pyproject.toml` names the lowest version that it allows and that needs no compiler with "
        "this Python. *Newest*: of everything. Seconds are of a machine with other work to do: "
        "they say that it ended, not how fast it is.",
        "",
        f"| Python | pins | jax | numpy | flax | {' | '.join(steps)} | what failed |",
        "|---" * (6 + len(steps)) + "|",
    ]
    for name in sorted(found, key=lambda one: ([*map(int, one.split()[0].split("."))], one)):
        version, pins = name.split()
        row = found[name]
        ran = [f"{row['seconds'][one]:.0f} s" if one in row["seconds"] else "-" for one in steps]
        packages = [row["versions"].get(one, "-") for one in ("jax", "numpy", "flax")]
        cells = [version, pins, *packages, *ran, row["failed"] or "nothing"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## The versions that were installed", ""]
    names = list(dict.fromkeys(one for row in found.values() for one in row["versions"]))
    lines.append(f"| package | {' | '.join(found)} |")
    lines.append("|---" * (1 + len(found)) + "|")
    for one in names:
        cells = [row["versions"].get(one, "-") for row in found.values()]
        lines.append(f"| {one} | {' | '.join(cells)} |")
    wheels = sorted({f"{row['wheel']} on {row['date']}" for row in found.values()})
    return "\n".join([*lines, "", f"Measured: {', '.join(wheels)}."]) + "\n"


if __name__ == "__main__":
    main()
