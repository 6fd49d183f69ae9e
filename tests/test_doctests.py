"""The examples in docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

import restore_jax

pytestmark = pytest.mark.usefixtures("hardly_optimised")

ROOT = Path(restore_jax.__file__).parent
SLOW = tuple(
    f"restore_jax.{name}"
    for name in (
        "purification.guarding",
        "purification.purifying",
        "run.estimates",
        "splitting.checkpoints",
        "splitting.compiling",
        "splitting.directions",
        "splitting.export",
        "splitting.host_driven",
        "splitting.merging",
        "splitting.plots",
        "splitting.precision",
        "splitting.progress",
        "splitting.tail",
    )
)
FULL = ("restore_jax.recovery.procedure",)
"""Slow, too; the first run of a fresh installation shows as much."""


def modules_with_examples():
    for path in sorted(ROOT.rglob("*.py")):
        lines = [line for line in path.read_text().splitlines() if ">>> " in line]
        if any("+SKIP" not in line for line in lines):
            name = ".".join(("restore_jax", *path.relative_to(ROOT).with_suffix("").parts))
            marks = [pytest.mark.slow] if name in SLOW + FULL else []
            yield pytest.param(name, marks=marks + [pytest.mark.full] * (name in FULL))


@pytest.mark.parametrize("name", list(modules_with_examples()))
def test_the_examples_of_a_module_give_what_they_say(name):
    module = importlib.import_module(name)
    with np.printoptions(legacy=False):
        found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed
