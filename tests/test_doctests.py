"""The examples in docstrings give what they say."""

import doctest
import importlib

import numpy as np
import pytest

MODULES = [
    "diagnosis.null",
    "diagnosis.standing",
    "errors",
    "oracles.asking",
    "oracles.opening",
    "recovery.truth",
    "run.run",
    "spaces.making",
    "spaces.smooth",
    "verification",
    pytest.param("recovery.procedure", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_say(name):
    module = importlib.import_module(f"restore_jax.{name}")
    with np.printoptions(legacy=False):
        found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed
