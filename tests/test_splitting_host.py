"""A score on the host gives the run that the same score gives inside the compiled loop."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restore_jax.splitting import (
    Scorer,
    Status,
    count,
    host_driven,
    importance_splitting,
    standard_normal,
    uniform_box,
)

pytestmark = pytest.mark.usefixtures("hardly_optimised")

WEIGHTS = np.arange(1, 9, dtype=np.float32)


def on_device(key, particles, level, active, args):
    """How many of eight coordinates are past 3/4: whole numbers, exact wherever computed."""
    del key, level
    heads = (particles > args).astype(jnp.float32) @ WEIGHTS
    return heads, 2 * jnp.sum(active, dtype=jnp.uint32)


def on_host(key, particles, level, active, args):
    assert isinstance(np.asarray(particles), np.ndarray)
    heads = (np.asarray(particles) > args).astype(np.float32) @ WEIGHTS
    return np.where(active, heads, np.nan), 2 * int(np.sum(active))


SPACE = uniform_box(jnp.zeros(8), jnp.ones(8))
CASES = {
    "waste free": {"num_particles": 60, "survival": 0.25, "num_moves": 5},
    "all": {"num_particles": 40, "survival": 0.5, "num_moves": 3, "moving": "all"},
    "clones": {"num_particles": 40, "survival": 0.75, "num_moves": 3, "moving": "clones"},
    "first hit": {"num_particles": 40, "num_moves": 3, "stop": "first_hit"},
    "budget": {"num_particles": 40, "num_moves": 3, "max_queries": 150},
}


def same(one, other):
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, one), jax.tree.map(np.asarray, other))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("all", "clones", "first hit") else ())
        for name in CASES
    ],
)
def test_the_host_gives_the_bits_of_the_compiled_loop(name):
    options = {"threshold": 33.0} | CASES[name]
    inside = importance_splitting(Scorer(on_device, 2), SPACE, **options)
    outside = host_driven(Scorer(on_host, 2), SPACE, **options)
    key, args = jax.random.key(3), 0.75
    expected = jax.jit(inside.advance, static_argnums=2)(jax.jit(inside.init)(key, args), args, 100)
    found = outside.advance(outside.init(key, args), args, 100)
    assert int(found.status) == int(expected.status)
    # Those that race past a first hit are not scored by either; NaN is counted on the host.
    same(found.particles, expected.particles)
    same(found.scores, expected.scores)
    same(found.history.level, expected.history.level)
    same(found.log_prob, expected.log_prob)
    assert count(found) == count(expected) > 0
    if name == "budget":
        assert int(found.status) == Status.OUT_OF_QUERIES
        assert count(found) <= 150


def test_a_level_that_fails_leaves_the_state_before_it():
    calls = 0

    def fails_later(*call):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise ConnectionError("gone")
        return on_host(*call)

    options = {"threshold": 33.0} | CASES["waste free"]
    key, args = jax.random.key(3), 0.75
    whole = host_driven(Scorer(on_host, 2), SPACE, **options)
    algorithm = host_driven(Scorer(fails_later, 2), SPACE, **options)
    state = algorithm.init(key, args)
    with pytest.raises(ConnectionError):
        algorithm.advance(state, args, 100)
    same(algorithm.advance(state, args, 100), whole.advance(whole.init(key, args), args, 100))


@pytest.mark.slow
def test_a_probability_on_the_host_is_the_right_one():
    def beyond(key, x, level, active, args):
        return np.asarray(x)[:, 0], int(np.sum(active))

    algorithm = host_driven(Scorer(beyond, 1), standard_normal(2), threshold=4.0)
    result = algorithm.run(jax.random.key(0), None)
    low, high = result.interval(0.999)
    assert low < np.log(3.167e-5) < high
    assert count(result) > 1000


def test_a_kernel_of_several_trials_is_refused():
    kernel = SPACE.kernel._replace(max_trials=2)
    with pytest.raises(ValueError, match=r"^a score on the host [^\n]*\.$"):
        host_driven(Scorer(on_host, 2), SPACE._replace(kernel=kernel))
