"""The notebooks: they can be opened, need nothing that is not installed with them, and run."""

import ast
import importlib.metadata
import json
import posixpath
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path.name for path in (ROOT / "examples").glob("*.ipynb"))
LONG = ("first_steps.ipynb", "reading_a_scan.ipynb", "your_own_rare_event.ipynb")
SAID = {
    "first_steps.ipynb": ("found: a trigger", "fresh probes go to cat"),
    "your_own_model.ipynb": ("found: a trigger", "planted: 100 of 100 probes go to purple"),
    "reading_a_scan.ipynb": ("backdoor", "confirmed: ['purple']"),
    "your_own_rare_event.ipynb": ("the event was reached", "they agree"),
}
"""What each notebook's output must hold."""


def read(name):
    return json.loads((ROOT / "examples" / name).read_text())


def sources(name, kind):
    return ["".join(c["source"]) for c in read(name)["cells"] if c["cell_type"] == kind]


def test_each_notebook_has_an_output_to_look_for():
    assert set(SAID) == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_can_be_opened_and_holds_no_output(name):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "examples" / name, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    assert (ROOT / "examples" / name).stat().st_size < 50_000


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_imports_what_its_extra_installs(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["notebooks"]
    installed = {re.split(r"[<>=!~;\[ ]", one)[0] for one in asked}
    known = importlib.metadata.packages_distributions()
    modules = set()
    for node in ast.walk(ast.parse("\n".join(sources(name, "code")))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module.split(".")[0])
    assert "restore_jax" in modules
    for module in modules - {"restore_jax"} - sys.stdlib_module_names:
        assert installed & set(known.get(module, [module])), module


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_link_of_a_notebook_leads_somewhere(name):
    text = "\n".join(sources(name, "markdown"))
    for target in re.findall(r"\]\(([^)#:\s]+)", text):
        assert (ROOT / posixpath.normpath(posixpath.join("examples", target))).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.full] if name in LONG else []) for name in NOTEBOOKS],
)
def test_a_notebook_runs_in_a_kernel_of_its_own(name, tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    if name == "your_own_model.ipynb":
        pytest.importorskip("onnxruntime")
    notebook = nbformat.read(ROOT / "examples" / name, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=900, resources=place).execute()
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    said = "".join(one["text"] for one in outputs if one["output_type"] == "stream")
    for words in SAID[name]:
        assert words in said
    assert any("image/png" in one.get("data", {}) or "text/html" in one.get("data", {})
               for one in outputs)  # fmt: skip
