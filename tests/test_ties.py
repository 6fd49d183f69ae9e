"""Counts whose ties are broken at random keep their law; a descent on them never stands still."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from restore_jax.diagnosis import ties
from restore_jax.splitting import Scorer, importance_splitting, standard_normal, uniform_box

pytestmark = pytest.mark.usefixtures("hardly_optimised")

PROBES, DIM = 12, 4
BARS = stats.norm.isf(0.5 ** np.arange(1, PROBES + 1))


def counted(key, x, level, active, args):
    """How many of twelve bars a normal number exceeds; each of twice as many as the next."""
    counts = jnp.sum(x.sum(-1, keepdims=True) / DIM**0.5 > BARS, -1).astype(jnp.float32)
    return jnp.where(active & (counts > level), counts, -jnp.inf), active.sum()


@functools.cache
def the_algorithm(n):
    algorithm = importance_splitting(
        ties.scorer_of(Scorer(score=counted, max_cost=1)), ties.space_of(standard_normal(DIM)),
        num_particles=n,
        survival=0.25, num_moves=5, moving="waste_free", threshold=math.inf, max_levels=8,
    )  # fmt: skip
    return algorithm, jax.jit(lambda state: algorithm.advance(state, (), 1))


def a_descent(seed, levels, n):
    """Levels of a descent as a scan makes it, with fractions drawn anew after each."""
    algorithm, advance = the_algorithm(n)
    key = jax.random.key(seed)
    x = ties.space_of(standard_normal(DIM)).sample(jax.random.fold_in(key, 1), n)
    counts, _ = counted(key, x.trigger, -jnp.inf, jnp.ones(n, bool), ())
    state = algorithm.begin(key, x, counts + x.fraction)
    for _ in range(levels):
        state = ties.drawn_anew(advance(state))
    return state


def test_the_probability_of_a_count_is_the_exact_one():
    found = []
    for seed in range(24):
        state = a_descent(seed, 5, 192)
        share = float(jnp.mean(state.scores >= PROBES))
        # A number leads all twelve probes with probability 2^-12.
        found.append(math.exp(float(state.log_prob)) * share * 2**PROBES)
    assert abs(np.mean(found) - 1) < 4 * np.std(found) / math.sqrt(len(found))
    assert np.std(found) < 0.7


@pytest.mark.slow
def test_where_all_lead_equally_many_the_descent_goes_on():
    flat = Scorer(
        score=lambda key, x, level, active, args: (
            jnp.where(active & (level < 3.0), 3.0, -jnp.inf), active.sum()
        ),
        max_cost=1,
    )  # fmt: skip
    box = ties.space_of(uniform_box(jnp.zeros(1), jnp.ones(1)))
    algorithm = importance_splitting(
        ties.scorer_of(flat), box, num_particles=48, survival=0.25, num_moves=3,
        moving="waste_free", threshold=math.inf, max_levels=6,
    )  # fmt: skip
    key = jax.random.key(0)
    x = box.sample(key, 48)
    state = algorithm.begin(key, x, 3.0 + x.fraction)
    advance = jax.jit(lambda state: algorithm.advance(state, (), 1))
    for number in range(6):
        state = ties.drawn_anew(advance(state))
        level = float(state.history.level[number])
        # Each level is above the last, and a particle above it moves as if there were none.
        assert 3.0 <= level < 4.0
        assert bool((state.scores > level).all())
        assert float(state.history.acceptance[number]) > 0.9
    # All six quarters are taken off, and none too many: P(3 + u > level) is 1 - (level - 3).
    assert math.isclose(float(state.log_prob), 6 * math.log(0.25), abs_tol=0.2)
    assert abs(math.log(4.0 - level) - float(state.log_prob)) < 1.5


@pytest.mark.slow
def test_fractions_are_uniform_above_the_level_and_counts_stay():
    state = a_descent(3, 1, 1_200)
    level = float(state.history.level[0])
    again = ties.drawn_anew(dataclasses.replace(state, key_data=state.key_data + 1))
    np.testing.assert_array_equal(jnp.floor(again.scores), jnp.floor(state.scores))
    scores = np.asarray(again.scores)
    at = np.floor(scores) == math.floor(level)
    assert (scores > level).all()
    for some, least in ((scores[at], level % 1), (scores[~at], 0.0)):
        assert len(some) > 50
        found = stats.kstest((some % 1 - least) / (1 - least), "uniform")
        assert found.pvalue > 1e-3
    assert not np.array_equal(scores, np.asarray(state.scores))
