"""Compiling in less time gives a program that does the same."""

import jax
import jax.numpy as jnp
import numpy as np
from splitting_problems import all_move, gaussian_space, linear_score

from restore_jax.splitting import compiling, quick_compilation


def test_a_run_that_was_compiled_quickly_gives_the_same_bits():
    run = all_move(linear_score, gaussian_space(2), threshold=2.0).run
    key, shift = jax.random.key(3), jnp.float32(0.0)
    usual = jax.jit(run)(key, shift)
    quick = jax.jit(run, compiler_options=quick_compilation())(key, shift)
    for mine, yours in zip(jax.tree.leaves(usual), jax.tree.leaves(quick), strict=True):
        np.testing.assert_array_equal(mine, yours)


def test_an_option_that_this_xla_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(
        compiling, "_QUICK", {"xla_backend_optimization_level": "1", "xla_no_such_option": True}
    )
    quick_compilation.cache_clear()
    assert quick_compilation() == {"xla_backend_optimization_level": "1"}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    quick_compilation.cache_clear()
    assert quick_compilation() == {}
    monkeypatch.undo()
    quick_compilation.cache_clear()
