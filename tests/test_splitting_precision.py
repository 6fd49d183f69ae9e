"""Runs that are added up until the error is what was asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from splitting_problems import (
    all_move,
    climbing_space,
    gaussian_space,
    identity_score,
    linear_score,
    quick_jit,
)

from restore_jax.splitting import count, standard_normal, until_precise

pytestmark = pytest.mark.usefixtures("hardly_optimised")

RUNS = 200
TRUTH = float(stats.norm.logsf(3.0))


def build(**options):
    return all_move(linear_score, gaussian_space(2), threshold=3.0, **options)


@pytest.fixture(scope="module")
def found():
    run = quick_jit(jax.vmap(until_precise(build(), 0.15), (0, None)))
    return run(jax.random.split(jax.random.key(0), RUNS), 0.0)


@pytest.mark.slow
def test_the_error_is_what_was_asked_for_without_bias(found):
    logs = np.asarray(found.log_prob, np.float64)
    # Of 200 replicates a standard deviation is known to 5 %.
    assert logs.std(ddof=1) == pytest.approx(0.15, rel=0.2)
    assert float(np.median(found.log_prob_std)) == pytest.approx(0.15, rel=0.1)
    ratios = np.exp(logs - TRUTH)
    assert abs(ratios.mean() - 1.0) < 3.0 * ratios.std(ddof=1) / np.sqrt(RUNS)


@pytest.mark.slow
def test_its_intervals_cover(found):
    low, high = (np.asarray(end) for end in found.interval(0.95))
    assert 0.90 <= np.mean((low <= TRUTH) & (high >= TRUTH)) <= 0.99


@pytest.mark.slow
def test_runs_of_one_law_agree(found):
    # Each is below 0.01 in one case of a hundred: of 200, in nine or more hardly ever.
    assert np.sum(np.asarray(found.homogeneity) < 0.01) < 9
    assert np.all(np.asarray(found.num_reached) == np.asarray(found.num_runs))
    assert np.all(np.asarray(found.num_runs) >= 4)


@pytest.mark.slow
def test_its_particles_are_in_the_event_and_of_several_runs(found):
    assert float(np.min(found.scores)) >= 3.0
    first = np.asarray(found.particles[0]).sum(-1) / np.sqrt(2.0)
    mean = stats.norm.pdf(3.0) / stats.norm.sf(3.0)
    assert first.mean() == pytest.approx(mean, abs=0.1)
    assert len(np.unique(first)) > 100


@pytest.mark.slow
def test_half_the_error_takes_four_times_the_runs():
    run = quick_jit(until_precise(build(), 0.08))
    many = run(jax.random.key(1), 0.0)
    few = quick_jit(until_precise(build(), 0.16))(jax.random.key(1), 0.0)
    assert int(many.num_runs) == pytest.approx(4 * int(few.num_runs), abs=4)
    assert bool(jnp.array_equal(many.log_prob, run(jax.random.key(1), 0.0).log_prob))


@pytest.mark.slow
def test_a_budget_ends_it():
    one = count(quick_jit(build().run)(jax.random.key(0), 0.0))
    run = quick_jit(until_precise(build(), 0.01, max_queries=6 * one))
    found = run(jax.random.key(0), 0.0)
    assert bool(found.out_of_queries)
    assert 3 <= int(found.num_runs) <= 7
    assert count(found) <= 6 * one
    assert np.isfinite(found.log_prob)


def test_where_no_run_gets_there_it_stops_and_says_so():
    algorithm = all_move(identity_score, climbing_space(0.0), threshold=1e9)
    found = quick_jit(until_precise(algorithm, 0.1))(jax.random.key(0), ())
    assert int(found.num_runs) == 4
    assert int(found.num_reached) == 0
    assert np.isneginf(found.log_prob)
    assert np.isinf(found.log_prob_std)


def test_types_stay_where_64_bits_are_the_default():
    algorithm = all_move(linear_score, standard_normal(2))
    with jax.enable_x64(True):
        shapes = jax.eval_shape(until_precise(algorithm, 0.1), jax.random.key(0), jnp.float32(0.0))
    assert max(leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_std": 0.0}, "target_std must be above 0"),
        ({"target_std": 0.1, "max_runs": 3}, "max_runs must be at least 4"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        until_precise(build(), **options)


def test_a_first_hit_cannot_be_made_more_precise():
    with pytest.raises(ValueError, match="has no estimate"):
        until_precise(build(stop="first_hit"), 0.1)
