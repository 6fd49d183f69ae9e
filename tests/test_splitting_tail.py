"""Runs that keep their levels: the tail at any score, and expectations beyond it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from splitting_problems import all_move, gaussian_space, linear_score, quick_jit

from restore_jax.splitting import Status, log_prob_of, weighted_particles

pytestmark = pytest.mark.usefixtures("hardly_optimised")

AT = np.array([-1.0, 0.0, 0.7, 1.3, 2.0, 2.6, 3.0], np.float32)
TRUTH = stats.norm.logsf(AT)
RUNS = 100


def build(keep=True, **options):
    return all_move(linear_score, gaussian_space(2), keep=keep, threshold=3.0, **options)


@pytest.fixture(scope="module")
def runs():
    run = quick_jit(jax.vmap(build().run, (0, None)))
    return run(jax.random.split(jax.random.key(0), RUNS), 0.0)


@pytest.fixture(scope="module")
def tails(runs):
    return jax.jit(jax.vmap(log_prob_of, (0, None)))(runs, AT)


def one(tree, k=0):
    return jax.tree.map(lambda leaf: leaf[k], tree)


def test_the_tail_is_unbiased_at_every_score(tails):
    ratios = np.exp(np.asarray(tails.log_prob, np.float64) - TRUTH)
    errors = ratios.std(axis=0, ddof=1) / np.sqrt(RUNS)
    assert np.all(errors < 0.08)
    assert np.all(np.abs(ratios.mean(axis=0) - 1.0) < 4.0 * errors)


def test_its_intervals_cover_at_every_score(tails):
    low, high = (np.asarray(end) for end in tails.interval(0.9))
    covered = np.mean((low <= TRUTH) & (high >= TRUTH), axis=0)
    # Of 100 runs at 90 %, fewer than 79 or more than 99 would be one case in a thousand.
    assert np.all((covered >= 0.79) & (covered <= 0.99))


@pytest.mark.slow
def test_at_the_threshold_the_tail_is_the_runs_own_estimate(runs):
    tail = one(runs).log_prob_of(3.0)
    assert float(tail.log_prob) == float(runs.log_prob[0])
    assert float(tail.log_prob_std) == pytest.approx(float(runs.log_prob_std[0]), rel=1e-5)
    ends = zip(tail.interval(0.95), one(runs).interval(0.95), strict=True)
    assert all(float(a) == pytest.approx(float(b), rel=1e-5) for a, b in ends)


def test_where_nobody_got_there_is_a_bound(runs):
    tail = one(runs).log_prob_of(jnp.array([9.0, jnp.nan]))
    low, high = tail.interval(0.95)
    assert np.isneginf(tail.log_prob[0])
    assert np.isneginf(low[0])
    assert stats.norm.logsf(9.0) < high[0] < float(runs.log_prob[0])
    assert np.isnan(tail.log_prob[1])


def test_keeping_changes_no_bit_of_the_run(runs):
    key = jax.random.split(jax.random.key(0), RUNS)[3]
    plain = quick_jit(build(keep=False).run)(key, 0.0)
    kept = quick_jit(build().run)(key, 0.0)
    assert plain.kept is None
    for name in ("particles", "scores", "levels", "log_prob", "log_prob_std"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(kept, name))


def test_weights_add_up_to_the_tail_at_every_score(runs):
    for at in AT:
        weighted = weighted_particles(one(runs), float(at))
        total = jax.scipy.special.logsumexp(weighted.log_weights)
        assert float(total) == pytest.approx(float(one(runs).log_prob_of(at).log_prob), abs=1e-5)


def test_expectations_beyond_a_score_come_out_of_every_run(runs):
    # The mean of a normal number beyond 1.3 is its density there over its tail.
    truth = stats.norm.pdf(1.3) / stats.norm.sf(1.3)

    def mean(run):
        weighted = weighted_particles(run, 1.3)
        weights = jax.nn.softmax(weighted.log_weights)
        return jnp.sum(weights * weighted.particles.sum(-1) / jnp.sqrt(2.0))

    means = np.asarray(jax.jit(jax.vmap(mean))(runs))
    assert np.mean(means) == pytest.approx(truth, abs=4 * means.std() / np.sqrt(RUNS))


def test_a_run_that_ended_early_has_the_tail_up_to_where_it_got():
    run = quick_jit(build(max_levels=3).run)(jax.random.key(0), 0.0)
    assert int(run.status) == Status.OUT_OF_LEVELS
    tail = run.log_prob_of(jnp.array([0.7, 1.0]))
    low, high = tail.interval(0.999)
    truth = stats.norm.logsf([0.7, 1.0])
    assert np.all((np.asarray(low) < truth) & (truth < np.asarray(high)))
    total = jax.scipy.special.logsumexp(weighted_particles(run).log_weights)
    assert float(total) == pytest.approx(0.0, abs=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="first hit ends in the middle of a level"):
        build(stop="first_hit")
    run = quick_jit(build(keep=False).run)(jax.random.key(0), 0.0)
    for ask in (lambda: run.log_prob_of(1.0), lambda: weighted_particles(run)):
        with pytest.raises(ValueError, match="build the sampler with keep=True"):
            ask()
