"""Several runs merged into one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from restore_jax import importance_splitting, standard_normal
from restore_jax.splitting import MergedResult, SplittingResult, Status, merge

pytestmark = pytest.mark.usefixtures("hardly_optimised")

TRUE = float(stats.norm.logsf(3.5))


def run_of(particles, threshold=3.5):
    algorithm = importance_splitting(
        lambda x, args: x[..., 0],
        standard_normal(2),
        threshold=threshold,
        num_particles=particles,
        num_moves=3,
    )
    return jax.jit(jax.vmap(algorithm.run, (0, None)))


@pytest.fixture(scope="module")
def many():
    return run_of(128)(jax.random.split(jax.random.key(0), 64), ())


def a_result(log_prob, std, n=10, status=Status.REACHED, dof=20.0):
    """A run that found out so much, of one-dimensional particles 0 to n - 1."""
    fields = dict.fromkeys(SplittingResult.__dataclass_fields__, jnp.float32(0))
    fields |= {
        "log_prob": jnp.float32(log_prob),
        "log_prob_std": jnp.float32(std),
        "log_prob_dof": jnp.float32(dof),
        "particles": jnp.arange(n, dtype=jnp.float32),
        "scores": jnp.arange(n, dtype=jnp.float32),
        "status": jnp.int32(status),
        "num_queries": jnp.array([0, 100], jnp.uint32),
        "levels": jnp.array([0.0, 2.0, jnp.nan]),
        "num_levels": jnp.int32(2),
    }
    return SplittingResult(**fields)


@pytest.mark.slow
def test_the_merged_estimate_is_right_and_its_error_falls_as_the_root_of_the_runs(many):
    merged = merge(many)
    low, high = merged.interval(0.999)
    assert low < TRUE < high
    assert merged.agree
    alone = float(np.mean(np.asarray(many.log_prob_std)))
    assert merged.log_prob_std == pytest.approx(alone / 8, rel=0.4)
    means = np.log(np.mean(np.exp(np.asarray(many.log_prob, np.float64))))
    assert merged.log_prob == pytest.approx(means, abs=1e-5)
    assert (merged.num_runs, merged.num_reached) == (64, 64)


@pytest.mark.slow
def test_intervals_of_eight_runs_hold_the_truth_as_often_as_stated(many):
    groups = [merge(jax.tree.map(lambda leaf, i=i: leaf[i : i + 8], many)) for i in range(0, 64, 8)]
    inside = [low < TRUE < high for low, high in (group.interval(0.95) for group in groups)]
    assert sum(inside) >= 6


@pytest.mark.slow
def test_weighted_particles_stand_for_the_prior_beyond_the_threshold(many):
    merged = merge(many)
    weights = np.exp(merged.log_weights)
    assert weights.sum() == pytest.approx(1.0)
    mean = float(np.sum(weights * np.asarray(merged.particles)[:, 0]))
    expected = math.exp(stats.norm.logpdf(3.5) - TRUE)
    assert mean == pytest.approx(expected, abs=0.08)
    # The other axis has nothing to do with the event.
    assert float(np.sum(weights * np.asarray(merged.particles)[:, 1])) == pytest.approx(0, abs=0.1)
    assert (merged.scores >= 3.5).all()


def test_larger_runs_count_for_more_and_lists_are_the_same_as_stacks():
    small, large = a_result(-2.0, 0.2, n=10), a_result(-3.0, 0.1, n=30)
    merged = merge([small, large])
    assert merged.log_prob == pytest.approx(math.log(0.25 * math.exp(-2) + 0.75 * math.exp(-3)))
    assert merged.scores.shape == (8 + 28,)  # 2 and more are past the threshold
    assert merged.num_queries == 200
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), small, small)
    both, single = merge(stack), merge([small, small])
    assert isinstance(both, MergedResult)
    assert both.log_prob == single.log_prob == pytest.approx(-2.0)
    assert both.log_prob_std == pytest.approx(0.2 / math.sqrt(2))


def test_runs_that_disagree_warn_and_their_spread_is_the_error():
    """Half of the runs have found one of two modes alone."""
    runs = [a_result(-2.0, 0.05), a_result(-4.0, 0.05)] * 4
    merged = merge(runs)
    assert not merged.agree
    assert "disagree" in merged.summary()
    assert merged.log_prob_std > 0.2
    low, high = merged.interval()
    assert high - low > 1.0
    assert "disagree" not in merge([a_result(-2.0, 0.1), a_result(-2.05, 0.1)]).summary()


def test_a_run_that_missed_the_event_counts_as_nought():
    reached, missed = a_result(-2.0, 0.1), a_result(-1.0, 0.1, status=Status.STALLED)
    merged = merge([reached, missed])
    assert merged.log_prob == pytest.approx(-2.0 - math.log(2))
    assert (merged.num_runs, merged.num_reached) == (2, 1)
    assert not merged.agree
    nothing = merge([missed, missed])
    assert nothing.log_prob == -math.inf
    assert nothing.num_reached == 0
    assert nothing.agree
    assert nothing.particles.shape == nothing.log_weights.shape == (0,)


def test_what_cannot_be_merged_is_refused():
    with pytest.raises(ValueError, match="no results"):
        merge([])
    with pytest.raises(ValueError, match="first hit"):
        merge([a_result(math.nan, 0.1)])
    with pytest.raises(ValueError, match="confidence"):
        merge([a_result(-2.0, 0.1)]).interval(1.0)
