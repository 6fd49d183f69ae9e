"""The examples start, and the commands and the Python on the pages are understood.

Each block of Python on a page is run by a test: here, in test_readme.py, test_extending.py
or test_oracles_foreign.py.
Where that would take a model's file or minutes, what takes it is replaced by something of the same
signature and type.
"""

import argparse
import importlib
import inspect
import itertools
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from test_pages import a_scan
from test_report import a_recovery, an_oracle

import restore_jax
from restore_jax.cli import models

ROOT = Path(__file__).parents[1]
PYTHON = {
    "README.md": 2,
    "docs/extending.md": 5,
    "docs/models.md": 3,
    "docs/sampler.md": 6,
    "docs/coming-from.md": 1,
}
"""How many blocks of Python there are, each of which a test runs."""
PAGES = ["README.md", "CONTRIBUTING.md"]
PAGES += [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.S)


def commands(page):
    """The commands of this package that a page shows, in blocks and in tables."""
    text = (ROOT / page).read_text().replace("\\\n", "")
    shown = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S)).splitlines()
    shown += re.findall(r"`((?:restore-jax|python recover\.py) [^`]*)`", text)
    for line in shown:
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            # Where the output goes, and that nobody waits for it, is the shell's business.
            words = list(itertools.takewhile(lambda word: word not in {">", "|", "&"}, words))
            scripts = ["restore-jax"], ["python", "recover.py"], ["python", "train.py"]
            if words[:1] == scripts[0] and len(words) > 2 and words[1].islower():
                yield words[1:]
            elif words[:2] in scripts[1:]:
                yield [words[1].removesuffix(".py"), *words[2:]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convert.py", "serve.py"])
def test_an_example_says_how_it_is_used(name):
    command = [sys.executable, str(ROOT / "examples" / name), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--model" in done.stdout


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))])
def test_the_commands_on_a_page_are_understood(page):
    for name, *words in commands(page):
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(f"restore_jax.cli.{name}").add_arguments(parser)
        args = parser.parse_args(words)
        if hasattr(args, "image_shape"):  # it asks a model
            models.check(args)


def test_the_pages_on_commands_and_models_show_some():
    for page, least in (("README.md", 5), ("docs/commands.md", 15), ("docs/models.md", 6)):
        assert len(list(commands(page))) >= least


@pytest.mark.parametrize("page", PAGES)
def test_there_is_no_python_on_a_page_that_no_test_runs(page):
    assert len(blocks(page)) == PYTHON.get(page, 0)


def like(function, result):
    """A function of the same arguments that gives a result of the right type at once."""

    def called(*words, **options):
        inspect.signature(function).bind(*words, **options)
        return result

    return called


@pytest.fixture
def quick(monkeypatch):
    """The functions that take a model, without the model."""
    for name, result in (("scan", a_scan()), ("recover", a_recovery())):
        monkeypatch.setattr(restore_jax, name, like(getattr(restore_jax, name), result))
    monkeypatch.setattr(restore_jax, "open_model", like(restore_jax.open_model, an_oracle()))


def test_the_first_example_of_the_readme_reads_what_there_is(quick, capsys):
    exec(blocks("README.md")[0], {})
    assert capsys.readouterr().out.startswith("found: a trigger")


def test_the_function_on_the_page_on_models_opens(monkeypatch):
    class Session:
        def __init__(self, path):
            self.path = path

        def run(self, names, inputs):
            return [np.tile(inputs["images"].mean((1, 2, 3))[:, None], (1, 10))]

    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=Session))
    names: dict = {}
    exec(blocks("docs/models.md")[1], names)
    predict = names["predict"]
    oracle = restore_jax.open_model(
        predict, image_shape=predict.image_shape, class_names=predict.class_names
    )
    assert oracle.class_names[7] == "class 7"
    assert predict(np.ones((2, 32, 32, 3), np.float32)).shape == (2, 10)


def test_the_python_on_the_page_on_models_reads_what_there_is(quick):
    exec(blocks("docs/models.md")[2], {})


def reached(height, steps, width=0.02):
    """How probable a walk of standard normal steps reaches a height: its density, step by step."""
    offsets = np.arange(-8, 8 + width / 2, width)
    normal = np.exp(-(offsets**2) / 2) / np.sqrt(2 * np.pi)
    places = height - width * (np.arange(4_000) + 0.5)[::-1]
    below = np.exp(-(places**2) / 2) / np.sqrt(2 * np.pi)
    for _ in range(steps - 1):
        below = width * np.convolve(below, normal, "same")
    return 1 - width * below.sum()


@pytest.mark.slow
@pytest.mark.full
def test_the_runs_on_the_page_on_the_sampler_agree(capsys):
    names: dict = {}
    for block in blocks("docs/sampler.md"):
        exec(block, names)
    assert bool(names["merged"].agree)
    log_low, log_high = names["walks"].interval(0.999)
    assert log_low < np.log(reached(20.0, 20)) < log_high
    low, high = names["merged"].interval(0.999)
    assert low < names["result"].log_prob < high
    assert names["precise"].log_prob_std < 0.12
    assert low < names["precise"].log_prob < high


@pytest.mark.slow
def test_the_evidence_on_the_page_for_those_from_elsewhere_is_right():
    names: dict = {}
    exec(blocks("docs/coming-from.md")[0], names)
    assert float(names["log_evidence"]) == pytest.approx(0.0, abs=0.3)
