"""Compiling in less time gives a program that does the same, up to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from splitting_problems import all_move, gaussian_space, linear_score

from restore_jax.splitting import compiling, quick_compilation


@pytest.mark.slow
def test_a_run_that_was_compiled_quickly_estimates_the_same_and_its_draws_are_the_same():
    algorithm, shift = all_move(linear_score, gaussian_space(2), threshold=2.0), jnp.float32(0.0)
    quick = jax.jit(algorithm.run, compiler_options=quick_compilation())
    results = jax.vmap(quick, (0, None))(jax.random.split(jax.random.key(3), 20), shift)
    exact, n = np.log(stats.norm.sf(2.0)), 20
    error = np.asarray(results.log_prob) - exact
    assert abs(error.mean()) < 4 * error.std() / n**0.5
    first = jax.jit(algorithm.init, compiler_options=quick_compilation())(jax.random.key(3), shift)
    usual = jax.jit(algorithm.init)(jax.random.key(3), shift)
    np.testing.assert_allclose(first.particles, usual.particles, rtol=1e-5)
    np.testing.assert_array_equal(first.key_data, usual.key_data)


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
