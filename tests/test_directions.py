"""Learned moves: what they learn, and the laws that they must preserve."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from splitting_problems import quick_jit

from restore_jax.splitting import Trial, directions, metropolis, particle_keys

pytestmark = pytest.mark.usefixtures("hardly_optimised")

N = 6000


def beyond(cut, number, seed=0):
    """Standard normal numbers beyond a cut, exactly."""
    uniform = np.random.default_rng(seed).random(number)
    return stats.norm.isf(uniform * stats.norm.sf(cut)).astype(np.float32)


@pytest.mark.parametrize("cut", [-2.0, 0.0, 1.9, 2.1, 6.0, 13.0])
def test_draws_beyond_a_cut_have_the_truncated_law(cut):
    uniform = jnp.asarray((np.arange(2000) + 0.5) / 2000, jnp.float32)
    drawn = np.asarray(jax.jit(directions._beyond)(uniform, jnp.float32(cut)), np.float64)
    assert np.all(drawn >= cut)
    tail = np.exp(stats.norm.logsf(drawn) - stats.norm.logsf(cut))
    np.testing.assert_allclose(np.sort(tail), np.asarray(uniform, np.float64), atol=2e-4)


def test_the_direction_of_a_rising_score_is_found_in_many_dimensions():
    dim = 60
    true = np.random.default_rng(1).standard_normal(dim)
    true /= np.linalg.norm(true)
    x = np.random.default_rng(2).standard_normal((1000, dim))
    x += (beyond(4.0, 1000) - x @ true)[:, None] * true
    # Any increasing function of how far out: only the ranks are read.
    scores = jnp.asarray(np.exp(x @ true), jnp.float32)
    half = jnp.arange(1000) % 2 == 1
    learn = quick_jit(directions.half_spaces(1).learn)
    lesson = learn(jnp.asarray(x, jnp.float32), scores, scores > jnp.quantile(scores, 0.9), half)
    assert np.all(np.asarray(lesson.directions[:, 0]) @ true > 0.99)
    assert np.all(np.asarray(lesson.cuts) > 4.0)


def two_modes(number, seed):
    """Normal in three dimensions, beyond 2 in one direction or beyond 2.2 in the opposite."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((number, 3)).astype(np.float32)
    share = stats.norm.sf(2.0) / (stats.norm.sf(2.0) + stats.norm.sf(2.2))
    first = rng.random(number) < share
    x[:, 0] = np.where(first, beyond(2.0, number, seed + 1), -beyond(2.2, number, seed + 2))
    return x


def walked(proposal, start, teachers, inside, sweeps):
    """``start`` after some moves, taught by others."""
    kernel = metropolis([proposal], init_strength=0.7, bounds=(0.7, 0.7))
    taught = jnp.ones(len(teachers), bool)
    half = jnp.arange(len(start)) % 2 == 1
    scores = jnp.asarray(np.abs(teachers).max(-1))
    lesson = kernel.learn(jnp.asarray(teachers), scores, taught, jnp.arange(len(teachers)) % 2 == 1)

    def try_(proposals, active):
        above = active & inside(proposals)
        return Trial(jnp.zeros(above.shape), above, jnp.zeros(2, jnp.uint32))

    def sweep(i, carry):
        keys = particle_keys(jax.random.fold_in(jax.random.key(3), i), len(start))
        particles, tuning = carry
        return kernel.step(keys, particles, jnp.zeros(len(start)), try_, tuning, lesson, half)[0::2]

    carry = jnp.asarray(start), kernel.init()
    return np.asarray(quick_jit(lambda carry: jax.lax.fori_loop(0, sweeps, sweep, carry))(carry)[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 4])
def test_fresh_draws_beyond_half_spaces_keep_the_law_and_forget(number):
    start = two_modes(N, 10)
    later = walked(
        directions.half_spaces(number), start, two_modes(400, 20),
        lambda x: (x[:, 0] > 2.0) | (x[:, 0] < -2.2), 25,
    )  # fmt: skip
    for column in range(3):
        assert stats.ks_2samp(later[:, column], start[:, column]).pvalue > 1e-4
    assert np.all((later[:, 0] > 2.0) | (later[:, 0] < -2.2))
    moved = np.any(later != start, -1)
    if number == 4:
        # Both modes are beyond some cut; those below all of them stay where they are.
        assert moved[start[:, 0] > 0].mean() > 0.8
        assert moved[start[:, 0] < 0].mean() > 0.8
        for column in (1, 2):
            assert abs(np.corrcoef(later[moved, column], start[moved, column])[0, 1]) < 0.1


@pytest.mark.slow
def test_fresh_draws_inside_a_box_keep_the_law_and_forget():
    corner = lambda number, seed: (  # noqa: E731
        1 - 0.2 * np.random.default_rng(seed).random((number, 3)).astype(np.float32)
    )
    start = corner(N, 0)
    proposal = directions.inside_box(jnp.zeros(3), jnp.ones(3))
    later = walked(proposal, start, corner(400, 1), lambda u: jnp.min(u, -1) > 0.8, 25)
    for column in range(3):
        assert stats.ks_2samp(later[:, column], start[:, column]).pvalue > 1e-4
        assert abs(np.corrcoef(later[:, column], start[:, column])[0, 1]) < 0.1


def test_what_carries_scores_farther_is_used_more():
    def far(key, particle, strength):
        return jax.random.uniform(key), 0.0

    def near(key, particle, strength):
        return jnp.clip(particle + 1e-3 * jax.random.normal(key), 0.0, 1.0), 0.0

    kernel = metropolis([far, near], adapt_weights=True)
    particles = jnp.linspace(0.0, 1.0, 256)
    half = jnp.zeros(256, bool)
    lesson = kernel.learn(particles, particles, jnp.ones(256, bool), half)

    def try_(proposals, active):
        return Trial(proposals, active, jnp.zeros(2, jnp.uint32))

    @quick_jit
    def step(key, tuning):
        keys = particle_keys(key, 256)
        return kernel.step(keys, particles, particles, try_, tuning, lesson, half)[0::2]

    tuning = kernel.init()
    for move in range(20):
        moved, tuning = step(jax.random.key(move), tuning)
    assert float(tuning.efficiency[0]) > 10 * float(tuning.efficiency[1])
    # 1 in 21 of the moves is left to the worse one.
    assert np.mean(np.abs(np.asarray(moved - particles)) < 0.005) < 0.15


@pytest.mark.slow
def test_without_survivors_nobody_is_told_to_move():
    x = jnp.asarray(two_modes(64, 0))
    half = jnp.arange(64) % 2 == 1
    lesson = directions.half_spaces(4).learn(x, x[:, 0], jnp.zeros(64, bool), half)
    assert np.all(np.asarray(lesson.cuts) == math.inf)
    propose = directions.half_spaces(4).propose
    _, ratio = propose(jax.random.key(0), x[0], jnp.float32(0.5), lesson, half[0])
    assert ratio == -math.inf
