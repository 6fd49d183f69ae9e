"""Spaces for other people's problems: their laws, and probabilities with exact answers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from scipy import stats
from splitting_problems import all_move, linear_score, log_tail, quick_jit

from restore_jax.splitting import (
    Status,
    importance_splitting,
    mapped,
    particle_keys,
    standard_normal,
    uniform_box,
)

REPLICATES = 60


def estimates(space, score, threshold, **options):
    """log p_hat of independent runs."""
    settings = {"num_particles": 128, "survival": 0.25, "threshold": threshold} | options
    algorithm = all_move(score, space, **settings)
    run = quick_jit(jax.vmap(algorithm.run, (0, None)))
    result = run(jax.random.split(jax.random.key(0), REPLICATES), ())
    assert set(np.asarray(result.status).tolist()) == {Status.REACHED}
    return np.asarray(result.log_prob, np.float64)


def assert_unbiased(log_probs, truth):
    ratio = np.exp(log_probs - truth)
    error = ratio.std(ddof=1) / math.sqrt(len(ratio))
    assert error < 0.3
    assert abs(ratio.mean() - 1) < 4 * error


def moved(space, start, times, accepts=None):
    """A population after some moves at strength 0.5, inside a set if one is given."""
    above = accepts or (lambda particles: jnp.ones(start_size(particles), bool))

    def try_(proposals, active):
        from restore_jax.splitting import Trial

        inside = active & above(proposals)
        return Trial(jnp.zeros(inside.shape), inside, jnp.zeros(2, jnp.uint32))

    n = start_size(start)
    scores, half = jnp.zeros(n), jnp.arange(n) % 2 == 1

    def sweep(i, particles):
        keys = particle_keys(jax.random.fold_in(jax.random.key(1), i), n)
        lesson = space.kernel.learn(particles, scores, jnp.ones(n, bool), half)
        tuning = space.kernel.init()
        return space.kernel.step(keys, particles, scores, try_, tuning, lesson, half)[0]

    return quick_jit(lambda start: jax.lax.fori_loop(0, times, sweep, start))(start)


def start_size(particles):
    return jax.tree.leaves(particles)[0].shape[0]


@pytest.mark.slow
def test_a_normal_particle_is_any_pytree():
    space = standard_normal({"a": 3, "b": (2, 4), "c": ()}, init_strength=0.5)
    particles = space.sample(jax.random.key(0), 4000)
    shapes = jax.tree.map(lambda leaf: leaf.shape, particles)
    assert shapes == {"a": (4000, 3), "b": (4000, 2, 4), "c": (4000,)}
    later = moved(space, particles, 20)
    for population in (particles, later):
        flat = np.concatenate([np.asarray(x).reshape(4000, -1) for x in population.values()], 1)
        assert stats.kstest(flat[:, 0], "norm").pvalue > 1e-4
        # Nothing is shared between leaves or numbers.
        np.testing.assert_allclose(np.cov(flat.T), np.eye(12), atol=0.12)
    assert not np.array_equal(particles["c"], later["c"])


def test_the_box_is_uniform_at_its_walls_too():
    space = uniform_box(jnp.array([-1.0, 5.0]), jnp.array([1.0, 6.0]), init_strength=0.5)
    particles = space.sample(jax.random.key(0), 8000)
    inside = lambda x: x[:, 0] + x[:, 1] > 5.5  # noqa: E731
    kept = particles[np.asarray(inside(particles))]
    for start, set_ in ((particles, None), (kept, inside)):
        later = np.asarray(moved(space, start, 30, set_))
        assert later.min(0)[0] >= -1
        assert later.max(0)[1] <= 6
        for column in (0, 1):
            same = stats.ks_2samp(later[:, column], np.asarray(start)[:, column])
            assert same.pvalue > 1e-4
        assert abs(np.corrcoef(later[:, 0], np.asarray(start)[:, 0])[0, 1]) < 0.1


@pytest.mark.slow
def test_a_corner_of_the_cube():
    space = uniform_box(jnp.zeros(4), jnp.ones(4))
    log_probs = estimates(space, lambda u, args: jnp.min(u, -1), 0.99)
    assert_unbiased(log_probs, 4 * math.log(0.01))


@pytest.mark.slow
def test_a_half_space_of_a_normal():
    space = standard_normal(20)
    log_probs = estimates(space, lambda x, args: linear_score(x, 5.0), 0.0)
    assert_unbiased(log_probs, log_tail(5.0))


def two_sided(x, args):
    """Beyond 5 one way or beyond 5.3 the other."""
    return jnp.maximum(x[:, 0] - 5.0, -x[:, 0] - 5.3)


@pytest.mark.parametrize(
    ("space", "score", "truth"),
    [
        pytest.param(
            standard_normal(4), two_sided, np.logaddexp(log_tail(5.0), log_tail(5.3)),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            standard_normal(30), lambda x, args: linear_score(x, 8.0), log_tail(8.0),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            standard_normal(64), lambda x, args: (jnp.sum(x > 0, -1) - 56).astype(jnp.float32),
            stats.binom(64, 0.5).logsf(55), marks=pytest.mark.slow,
        ),
        pytest.param(
            uniform_box(jnp.zeros(6), jnp.ones(6)), lambda u, args: jnp.min(u, -1) - 0.96,
            6 * math.log(0.04), marks=pytest.mark.slow,
        ),
    ],
    ids=["two modes", "full half-space", "full plateaus", "corner"],
)  # fmt: skip
def test_the_defaults_are_unbiased_and_their_intervals_hold_the_truth(space, score, truth):
    algorithm = importance_splitting(score, space)
    result = jax.jit(jax.vmap(algorithm.run, (0, None)))(
        jax.random.split(jax.random.key(1), 100), ()
    )
    ratio = np.exp(np.asarray(result.log_prob, np.float64) - truth)
    assert np.all(result.reached)
    assert abs(ratio.mean() - 1) < 4 * ratio.std(ddof=1) / 10
    low, high = map(np.asarray, result.interval(0.95))
    # 95 of 100 on average, and fewer than 87 once in a thousand.
    assert np.mean((low <= truth) & (truth <= high)) >= 0.87
    error = float(np.std(result.log_prob))
    assert 0.7 < error / float(np.mean(result.log_prob_std)) < 1.4


@pytest.mark.slow
def test_marginals_through_an_isoprobabilistic_map():
    """The sum of three standard exponentials past 20 has a gamma tail."""
    space = mapped(standard_normal(3), lambda z: -norm.logcdf(-z))
    log_probs = estimates(space, lambda x, args: jnp.sum(x.value, -1), 20.0)
    assert_unbiased(log_probs, stats.gamma(3).logsf(20.0))


def test_a_mapped_particle_keeps_its_two_halves_together():
    space = mapped(uniform_box(0.0, 1.0), lambda u: {"square": u**2})
    algorithm = all_move(lambda x, args: x.value["square"], space, threshold=0.9)
    result = quick_jit(algorithm.run)(jax.random.key(0), ())
    particles = result.particles
    np.testing.assert_allclose(particles.value["square"], particles.latent**2, rtol=1e-6)
    np.testing.assert_allclose(result.scores, particles.value["square"], rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: standard_normal(0), "at least 1"),
        (lambda: standard_normal("x"), "a shape is"),
        (lambda: uniform_box(jnp.zeros(2), jnp.zeros(3)), "the same shape"),
        (lambda: uniform_box(0.0, math.inf), "finite"),
        (lambda: uniform_box(1.0, 1.0), "below high"),
        (lambda: uniform_box({"a": 0.0}, {"b": 1.0}), "the same structure"),
    ],
)
def test_bad_spaces_are_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()
