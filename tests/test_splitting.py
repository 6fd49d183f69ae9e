"""The sampler: probabilities against exact values, and what a run promises."""

import dataclasses
import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from splitting_problems import (
    all_move,
    climbing_space,
    coins_space,
    gaussian_space,
    heads,
    heads_args,
    host,
    identity_score,
    linear_score,
    listed_score,
    log_tail,
    quick_jit,
)

from restore_jax.splitting import (
    MoveInfo,
    Scorer,
    Status,
    count,
    counting,
    ideal_log_prob_std,
    importance_splitting,
)

COINS, LEAST = 16, 15
REPLICATES = 100


def replicates(run, args, number=REPLICATES):
    """Independent runs, stacked as `jax.vmap` would; one compiled ``run`` serves every test."""
    results = [run(key, args) for key in jax.random.split(jax.random.key(0), number)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *results)


def assert_unbiased(result, log_prob):
    """The mean of p_hat / p is 1 within four standard errors; a run that stalled estimates 0."""
    assert set(result.status.tolist()) <= {Status.REACHED, Status.STALLED}
    ratio = np.exp(result.log_prob.astype(np.float64) - log_prob) * result.reached
    error = ratio.std(ddof=1) / math.sqrt(len(ratio))
    assert error < 0.3
    assert abs(ratio.mean() - 1.0) < 4.0 * error


def lane(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def assert_same_run(one, other):
    """Bit for bit, but for the reading of the standard error, a sum whose order is free.

    On a GPU the order of every sum is free: there, what is counted is the same to the bit.
    """
    np.testing.assert_allclose(one.log_prob_std, other.log_prob_std, rtol=1e-6)
    np.testing.assert_allclose(one.log_prob_dof, other.log_prob_dof, rtol=1e-5)
    same = partial(dataclasses.replace, log_prob_std=None)
    if jax.default_backend() == "cpu":
        chex.assert_trees_all_equal(same(one), same(other))
        return
    for a, b in zip(jax.tree.leaves(same(one)), jax.tree.leaves(same(other)), strict=True):
        exact = not np.issubdtype(np.asarray(a).dtype, np.floating)
        np.testing.assert_allclose(a, b, rtol=0 if exact else 1e-5)


@pytest.fixture(scope="module")
def linear():
    return all_move(linear_score, gaussian_space(2), survival=0.25, num_moves=10, max_levels=80)


@pytest.fixture(scope="module")
def linear_runs(linear):
    """The functions that bit for bit promises are about, compiled as users compile them."""
    return jax.jit(linear.init), jax.jit(linear.advance), jax.jit(linear.run)


@pytest.fixture(scope="module")
def coins():
    return all_move(heads, coins_space(COINS), num_moves=10, max_levels=40)


@pytest.fixture(scope="module")
def coins_run(coins):
    return jax.jit(coins.run)


# Probabilities.


@pytest.mark.parametrize(
    ("level", "log10"),
    [
        pytest.param(5.612, -8, marks=pytest.mark.slow),
        pytest.param(13.31, -40, marks=pytest.mark.slow),
    ],
)
def test_linear_score_in_gaussian_space(linear_runs, level, log10):
    *_, run = linear_runs
    result = replicates(run, level)
    truth = log_tail(level)
    assert truth == pytest.approx(log10 * math.log(10), rel=1e-3)
    assert_unbiased(result, truth)
    theory = float(result.log_prob_std.mean())
    assert 0.8 < float(result.log_prob.std()) / theory < 1.25
    low, high = host(result.interval(0.9))
    covered = float(np.mean((low <= truth) & (truth <= high)))
    assert 0.8 < covered < 0.97


@pytest.mark.parametrize("width", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_plateaus(coins_run, width):
    """Heads in steps of ``width``: up to a third of the first particles share a score."""
    result = replicates(coins_run, heads_args(LEAST // width, width))
    ways = sum(math.comb(COINS, k) for k in range(LEAST, COINS + 1))
    assert_unbiased(result, math.log(ways / 2**COINS))
    # A tied level has its own share above it; a half assumed everywhere would be wrong.
    assert float(np.abs(result.survival[:, 0] - 0.5).mean()) > 0.04


def test_first_hit_has_no_estimate(coins_run):
    algorithm = all_move(heads, coins_space(COINS), num_moves=10, stop="first_hit")
    run = quick_jit(algorithm.run)
    keys = jax.random.split(jax.random.key(0), 8)
    spent = []
    for key in keys:
        result = host(run(key, heads_args(LEAST)))
        assert result.reached
        assert np.any(result.scores >= 0)
        assert result.num_hits >= 1
        assert np.isnan([result.log_prob, result.log_prob_std, *result.interval()]).all()
        spent.append(count(result))
    # It stops after a sweep, not only between levels, and so pays less than the estimate.
    assert any((queries // 128 - 1) % 10 != 0 for queries in spent)
    assert sum(spent) < sum(count(coins_run(key, heads_args(LEAST))) for key in keys)
    at_once = run(keys[0], heads_args(2))
    assert (int(at_once.num_levels), count(at_once)) == (0, 128)
    assert at_once.reached
    assert math.isnan(at_once.log_prob)


def racing_heads(seen):
    """A score that looks at one coin at a time and stops where the level is out of reach."""

    def score(key, coins, level, active, args):
        del key
        heads = jnp.sum(coins, -1).astype(jnp.float32) - args["least"]
        looks = jnp.where(heads > level, seen, seen // 2)
        return jnp.where(active & (heads > level), heads, -jnp.inf), jnp.sum(
            jnp.where(active, looks, 0)
        ).astype(jnp.uint32)

    return Scorer(score, seen)


@pytest.mark.parametrize(("least", "max_queries"), [(2, None), (COINS // 2 + 1, None),
                                                    (COINS + 1, 128 * 4)])  # fmt: skip
def test_a_first_hit_looks_at_its_draws_a_quarter_at_a_time(least, max_queries):
    """Common: one block will do. Rarer: more. Impossible: all, and then not all again."""
    algorithm = all_move(
        racing_heads(4), coins_space(COINS), stop="first_hit", max_queries=max_queries, max_levels=3
    )
    args = {"least": jnp.float32(least)}
    state = host(quick_jit(algorithm.init)(jax.random.key(2), args))
    heads_of = np.sum(state.particles, -1)
    hits = heads_of >= least
    if not hits.any():
        assert state.status == Status.OUT_OF_QUERIES
        assert count(state) == 128 * 2
        return
    assert state.status == Status.REACHED
    block = 32
    last = int(np.flatnonzero(hits)[0]) // block
    looked = np.arange(128) < (last + 1) * block
    np.testing.assert_array_equal(state.scores, np.where(looked & hits, heads_of - least, -np.inf))
    assert count(state) == 4 * np.sum(looked & hits) + 2 * np.sum(looked & ~hits)


def test_a_first_hit_that_no_draw_has_goes_on_from_all_of_them():
    algorithm = all_move(racing_heads(4), coins_space(COINS), stop="first_hit", num_moves=10)
    result = host(quick_jit(algorithm.run)(jax.random.key(0), {"least": jnp.float32(LEAST)}))
    assert result.reached
    assert result.num_levels >= 1
    assert count(result) > 128 * 2 + 128 * 4


# Waste-free.


@pytest.fixture(scope="module")
def waste_free():
    return all_move(
        linear_score, gaussian_space(2), num_particles=1000, survival=0.1, num_moves=9,
        moving="waste_free", max_levels=60,
    )  # fmt: skip


def test_waste_free_is_unbiased_and_its_intervals_cover(waste_free):
    keys = jax.random.split(jax.random.key(0), REPLICATES)
    result = host(jax.jit(jax.vmap(waste_free.run, (0, None)))(keys, 5.612))
    truth = log_tail(5.612)
    ratio = np.exp(result.log_prob.astype(np.float64) - truth)
    assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std(ddof=1) / math.sqrt(len(ratio))
    assert 0.75 < float(np.mean(result.log_prob_std)) / float(result.log_prob.std()) < 1.3
    low, high = host(result.interval(0.9))
    assert 0.8 < float(np.mean((low <= truth) & (truth <= high))) < 0.98
    # Ideal moves would have a smaller error: the interval must know that these are not.
    assert np.mean(result.log_prob_std) > 1.2 * np.mean(ideal_log_prob_std(result.survival, 1000))


def test_a_waste_free_level_moves_a_tenth_nine_times(waste_free):
    result = host(quick_jit(waste_free.run)(jax.random.key(0), 5.612))
    assert count(result) == 1000 + (int(result.num_levels) - 1) * 900
    assert result.particles.shape == (1000, 2)
    np.testing.assert_allclose(result.scores, linear_score(result.particles, 5.612), atol=1e-5)
    assert np.all(result.scores > result.levels[int(result.num_levels) - 2])


def test_a_saved_waste_free_state_goes_on_bit_for_bit(waste_free):
    advance = quick_jit(waste_free.advance)
    start = quick_jit(waste_free.init)(jax.random.key(3), 4.0)
    at_once = advance(start, 4.0, 60)
    resumed = advance(jax.tree.map(jnp.array, host(advance(start, 4.0, 2))), 4.0, 60)
    chex.assert_trees_all_equal(host(at_once), host(resumed))


def test_a_waste_free_budget_is_never_exceeded():
    @quick_jit
    def run(most):
        algorithm = all_move(
            linear_score, gaussian_space(2), num_particles=400, survival=0.1, num_moves=9,
            moving="waste_free", max_queries=most,
        )  # fmt: skip
        return algorithm.run(jax.random.key(0), 9.0)

    for budget in (439, 1111):
        result = host(run(counting.halves(budget)))
        assert result.status == Status.OUT_OF_QUERIES
        assert budget - 40 < count(result) <= budget
        assert np.all(np.isfinite(result.scores))


# Levels, ties and the ways to end.


def listed(survival):
    """``scores [10] -> result`` of two levels at most, whose particles stay where they are."""
    algorithm = all_move(
        listed_score, climbing_space(0.0), num_particles=10, survival=survival, num_moves=1,
        max_levels=2, threshold=100.0,
    )  # fmt: skip
    run = quick_jit(algorithm.run)
    return lambda scores: host(run(jax.random.key(0), np.array(scores, np.float32)))


@pytest.fixture(scope="module")
def half_survive():
    return listed(0.5)


def test_level_is_an_order_statistic(half_survive):
    scores = [5, 3, 8, 1, 9, 2, 10, 4, 6, 7]
    result = half_survive(scores)
    assert (result.levels[0], result.survival[0]) == (5.0, 0.5)
    assert result.levels[1] in scores, "never between two"
    assert result.status == Status.OUT_OF_LEVELS
    # ceil(10 * (1 - 0.7)) is 3, although 1 - 0.7 is a little more than 0.3 in floats.
    result = listed(0.7)(scores)
    assert (result.levels[0], result.survival[0]) == (3.0, pytest.approx(0.7))


def test_final_level_counts_the_share_at_or_past_the_threshold(half_survive):
    scores = [99, 100, 99, 101, 102, 103, 98, 104, 105, 100]
    result = half_survive(scores)
    # The fifth smallest is at the threshold: 7 of 10 are at or past it.
    assert result.reached
    assert result.log_prob == pytest.approx(math.log(0.7))
    assert result.log_prob_std == pytest.approx(math.sqrt(0.3 / 0.7 / 9))
    assert (result.levels[0], result.num_levels, result.num_hits) == (100.0, 1, 7)
    np.testing.assert_array_equal(result.scores, scores)
    assert math.isnan(result.acceptance[0])
    # Half of them past it, but not the fifth smallest: that is a level like any other.
    result = half_survive([1, 2, 3, 4, 5, 101, 102, 103, 104, 105])
    assert (result.levels[0], result.survival[0]) == (5.0, 0.5)
    assert (result.levels[1], result.survival[1]) == (100.0, 1.0)
    assert result.log_prob == pytest.approx(math.log(0.5))


def test_tied_level_uses_the_true_share(half_survive):
    result = half_survive([1, 2, 2, 2, 2, 2, 2, 3, 3, 4])
    assert (result.levels[0], result.survival[0]) == (2.0, pytest.approx(0.3))
    assert np.all(result.scores > 2.0)


def test_of_two_tied_levels_the_one_with_the_nearer_share_is_taken(half_survive):
    # Above 3 there is a tenth, above 2 six: nearer to the five that were meant.
    result = half_survive([1, 1, 2, 2, 3, 3, 3, 3, 3, 4])
    assert (result.levels[0], result.survival[0]) == (2.0, pytest.approx(0.6))


def test_ties_at_the_top_take_the_next_lower_level_then_stall(half_survive):
    result = half_survive([1, 2, 3, 3, 3, 3, 3, 3, 3, 3])
    # Nobody is above the fifth smallest, 3: the level is 2, and above it all are equal.
    assert (result.levels[0], result.survival[0]) == (2.0, pytest.approx(0.8))
    assert result.status == Status.STALLED
    assert result.num_levels == 1
    assert result.log_prob == pytest.approx(math.log(0.8))


def test_nan_scores_are_the_worst(half_survive):
    nan = math.nan
    result = half_survive([nan, 2, nan, 4, 5, nan, 6, nan, nan, 7])
    assert (result.levels[0], result.survival[0]) == (-math.inf, 0.5)
    assert not np.any(np.isnan(result.scores))
    # Five of the first ten, and none of the proposals that were clones of the others.
    assert count(result.num_nan) == 5
    assert "5 scores were NaN" in result.summary()
    result = half_survive([nan] * 10)
    assert (result.status, result.log_prob) == (Status.STALLED, 0.0)
    assert count(result.num_nan) == 10


def test_nan_proposals_are_rejected_and_counted():
    def score(particles, args):
        return jnp.where(particles > 33, jnp.nan, particles)

    algorithm = all_move(
        score, climbing_space(), num_particles=32, num_moves=2, max_levels=3, threshold=1e9
    )
    result = host(quick_jit(algorithm.run)(jax.random.key(0), ()))
    assert count(result.num_nan) > 0
    assert not np.any(np.isnan(result.scores))


def test_the_summary_says_how_it_went(linear_runs, half_survive):
    *_, run = linear_runs
    result = host(run(jax.random.key(0), 5.0))
    lines = result.summary().splitlines()
    assert "the event was reached" in lines[0]
    assert f"{count(result):,} queries" in lines[0]
    low, high = result.interval()
    assert f"{low / math.log(10):.3f} to {high / math.log(10):.3f}" in lines[1]
    assert lines[2].startswith("effective sample size")
    assert len(lines) >= 4 + int(result.num_levels)
    last = lines[3 + int(result.num_levels)].split()
    assert last[0] == str(int(result.num_levels))
    assert float(last[3]) == pytest.approx(float(result.log_prob) / math.log(10), abs=1e-3)
    assert "stalled" in half_survive([7] * 10).summary()
    few = dataclasses.replace(result, families=np.ones_like(result.families))
    assert "warning: the 128 particles were of only 1 families" in few.summary()
    unsure = dataclasses.replace(result, log_prob_dof=np.float32(3.0))
    assert "rests on 3 degrees of freedom" in unsure.summary()
    stuck = dataclasses.replace(result, acceptance=np.full_like(result.acceptance, 0.01))
    assert "fewer than 5% of the moves" in stuck.summary()
    both = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), result)
    with pytest.raises(ValueError, match="one lane"):
        both.summary()


def test_constant_score_stalls(half_survive):
    result = half_survive([7] * 10)
    assert (result.status, result.num_levels, result.log_prob) == (Status.STALLED, 0, 0.0)
    assert count(result) == 10
    assert np.all(np.isnan(result.levels))
    low, high = result.interval(0.95)
    assert low == -math.inf
    assert float(high) == pytest.approx(math.log(1 - 0.025 ** (1 / 10)), rel=1e-4)


def test_done_state_comes_back_unchanged():
    algorithm = all_move(listed_score, climbing_space(0.0), num_particles=4, threshold=9.0)
    scores = np.ones(4, np.float32)
    step = quick_jit(algorithm.step)
    state, info = step(quick_jit(algorithm.init)(jax.random.key(0), scores), scores)
    assert (info.status, info.survival, info.level) == (Status.STALLED, 0.0, 1.0)
    again, info = step(state, scores)
    chex.assert_trees_all_equal(again, state)
    assert info.status == Status.STALLED


def test_out_of_levels_is_an_upper_bound():
    algorithm = all_move(
        linear_score, gaussian_space(2), num_particles=100, num_moves=8, max_levels=4
    )
    run = quick_jit(algorithm.run)
    far = replicates(run, 5.612, 32)
    assert set(far.status.tolist()) == {Status.OUT_OF_LEVELS}
    assert np.all(far.num_levels == 4)
    low, high = host(far.interval(0.95))
    assert np.all(low == -np.inf)
    assert np.all((high > log_tail(5.612)) & (high < far.log_prob - 1.0))
    # Here some of the last particles are past the threshold, and the bound knows.
    near = replicates(run, 2.0, 32)
    assert set(near.status.tolist()) == {Status.OUT_OF_LEVELS}
    assert np.all(near.num_hits > 0)
    _, high = host(near.interval(0.95))
    assert np.mean(high > log_tail(2.0)) > 0.9
    assert np.mean(high < log_tail(2.0) + 1.2) > 0.9


# Queries.


@pytest.mark.parametrize("budget", [16, 16 * 9, 16 * 9 + 15, 16 * 10])
def test_budget_is_used_and_never_exceeded(budget):
    algorithm = all_move(
        identity_score, climbing_space(), num_particles=16, num_moves=8, max_queries=budget,
        threshold=1e9,
    )  # fmt: skip
    result = host(quick_jit(algorithm.run)(jax.random.key(0), None))
    assert result.status == Status.OUT_OF_QUERIES
    assert count(result) == budget // 16 * 16
    last = int(result.num_levels) - 1
    assert last == (budget // 16 - 1) // 8
    assert np.all(result.scores > result.levels[last])
    assert result.log_prob == pytest.approx(np.nansum(np.log(result.survival)), rel=1e-5)
    assert math.isfinite(result.interval()[1])


@pytest.mark.parametrize("stop", ["estimate", "first_hit"])
def test_one_program_serves_every_budget(stop):
    """A budget may be an array: it is kept as a number in the program would be."""
    scorer = Scorer(lambda key, x, level, active, args: (x, jnp.sum(active)), max_cost=1)
    options = {"num_particles": 16, "num_moves": 8, "threshold": 1e9, "stop": stop}

    def run(most):
        algorithm = all_move(scorer, climbing_space(), max_queries=most, **options)
        return algorithm.run(jax.random.key(0), None)

    budgets = [16, 31, 32, 16 * 9 + 15, 16 * 10]
    served = jax.vmap(quick_jit(run))(jnp.stack([counting.halves(b) for b in budgets]))
    assert count(served).tolist() == [budget // 16 * 16 for budget in budgets]
    alone = quick_jit(lambda: run(budgets[3]))()
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[3], served), alone)


def test_scorer_is_counted_as_it_counts():
    """A racing scorer: what it really spent is seen from outside, and stays in the budget."""
    spent = []

    def score(key, particles, level, active, args):
        costs = jax.random.randint(key, active.shape, 1, 6)
        cost = jnp.sum(jnp.where(active, costs, 0)).astype(jnp.uint32)
        jax.debug.callback(lambda cost: spent.append(int(cost)), cost)
        return jnp.where(particles > level, particles, -1.0), cost

    algorithm = all_move(
        Scorer(score, max_cost=5), climbing_space(), num_particles=32, max_queries=3000,
        threshold=1e9,
    )  # fmt: skip
    result = quick_jit(algorithm.run)(jax.random.key(1), None)
    jax.effects_barrier()
    assert count(result) == sum(spent)
    assert len(set(spent)) > 10
    # The dearest sweep would cost 160: as long as that is left, it goes on.
    assert result.status == Status.OUT_OF_QUERIES
    assert 3000 - 160 < count(result) <= 3000


def test_kernel_that_tries_twice_pays_twice():
    def step(keys, particles, scores, try_, tuning):
        first = try_(particles + 1.0, jnp.ones(particles.shape[0], bool))
        again = try_(particles + 2.0, particles % 4 == 3)
        cost = first.cost + again.cost
        return particles + 1.0, first.scores, tuning, MoveInfo(jnp.float32(1), cost)

    space = climbing_space()
    space = space._replace(kernel=space.kernel._replace(step=step, max_trials=2))
    # After the first particles (80) a move may cost 160, though it costs less: 80 + 10 x a few.
    results = [
        quick_jit(all_move(
            identity_score, space, num_particles=8, queries_per_score=10, threshold=1e9,
            max_queries=budget,
        ).run)(jax.random.key(0), None)
        for budget in (239, 240)
    ]  # fmt: skip
    assert count(results[0]) == 80
    assert 80 + 80 <= count(results[1]) < 80 + 160
    assert count(results[1]) % 10 == 0


def test_counts_and_budgets_beyond_32_bits():
    budget = 5 * 2**32 + 2**31
    algorithm = all_move(
        identity_score, climbing_space(), num_particles=64, num_moves=8, max_queries=budget,
        queries_per_score=2**25, threshold=1e9,
    )  # fmt: skip
    result = quick_jit(algorithm.run)(jax.random.key(0), None)
    assert result.status == Status.OUT_OF_QUERIES
    assert count(result) == budget
    assert isinstance(count(result), int)


# What a program is promised.


def subjaxprs(equation):
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(item, "jaxpr"):
                yield item.jaxpr


def primitives(jaxpr, into_loops):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        if into_loops or equation.primitive.name not in ("while", "scan"):
            for inner in subjaxprs(equation):
                yield from primitives(inner, into_loops)


@pytest.mark.parametrize("stop", ["estimate", "first_hit"])
def test_run_is_one_while_loop_without_callbacks(stop):
    algorithm = all_move(
        linear_score, gaussian_space(3), stop=stop, max_queries=10**6, num_particles=16
    )
    key, level = jax.random.key(0), jnp.float32(3.0)
    run = jax.make_jaxpr(algorithm.run)(key, level).jaxpr
    outer = list(primitives(run, into_loops=False))
    assert outer.count("while") == 1
    assert "scan" not in outer
    inner = list(primitives(run, into_loops=True))
    assert inner.count("while") == 2
    assert not [name for name in inner if "callback" in name or "infeed" in name]
    init = jax.make_jaxpr(algorithm.init)(key, level).jaxpr
    assert "while" not in set(primitives(init, into_loops=True))
    # `args` is an input of the program, no constant of it.
    assert len(run.invars) == 2


def test_same_key_same_bits_other_key_other_bits(linear_runs):
    *_, run = linear_runs
    first, second = run(jax.random.key(7), 3.0), run(jax.random.key(7), 3.0)
    chex.assert_trees_all_equal(first, second)
    other = run(jax.random.key(8), 3.0)
    assert not np.any(np.asarray(first.particles) == np.asarray(other.particles))


def test_saved_state_continues_bit_for_bit(linear, linear_runs):
    init, advance, run = linear_runs
    level, whole = 6.0, run(jax.random.key(3), 6.0)
    state = advance(init(jax.random.key(3), level), level, 5)
    assert (int(state.index), int(state.status)) == (5, Status.RUNNING)
    saved = jax.tree.map(np.asarray, state)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(saved))
    del state
    chex.assert_trees_all_equal(linear.result(advance(saved, level, 80)), whole)


def test_chunks_and_steps_equal_one_run(linear, linear_runs):
    init, advance, run = linear_runs
    level, whole = 6.0, run(jax.random.key(3), 6.0)
    state = init(jax.random.key(3), level)
    while state.status == Status.RUNNING:
        before, state = state, advance(state, level, 3)
        assert int(state.index) <= int(before.index) + 3
    chex.assert_trees_all_equal(linear.result(state), whole)
    step, stepped, infos = jax.jit(linear.step), init(jax.random.key(3), level), []
    while stepped.status == Status.RUNNING:
        stepped, info = step(stepped, level)
        infos.append(info)
    chex.assert_trees_all_equal(stepped, state)
    written = jax.tree.map(lambda *rows: np.stack(rows), *infos)
    history = host(state.history)
    chex.assert_trees_all_equal(written, lane(history, slice(len(infos))))
    rest = lane(history, slice(len(infos), None))
    assert np.all(np.isnan(rest.level))
    assert np.all(rest.num_queries == 0)
    chex.assert_trees_all_equal(step(stepped, level), (stepped, infos[-1]))
    # What the history says of the way: levels rise, lines die out, the end agrees.
    assert np.all(np.diff(written.level) > 0)
    assert np.all(np.diff(written.unique_ancestors) <= 0)
    assert int(written.unique_ancestors[-1]) == len(set(np.asarray(state.ancestors).tolist()))
    assert 1 <= int(written.unique_ancestors[-1]) < int(written.unique_ancestors[0]) <= 32


def test_vmap_over_keys_is_single_runs(coins, coins_run):
    keys = jax.random.split(jax.random.key(0), 8)
    together = host(quick_jit(jax.vmap(coins.run, (0, None)))(keys, heads_args(14)))
    assert len(set(together.log_prob.tolist())) > 4
    for i in range(8):
        assert_same_run(lane(together, i), coins_run(keys[i], heads_args(14)))


def test_vmap_over_args_is_single_runs(coins, coins_run):
    key, leasts = jax.random.key(5), np.array([9, 12, 14, 17])
    over_args = jax.vmap(coins.run, (None, {"least": 0, "width": None, "stretched": None}))
    together = host(quick_jit(over_args)(key, heads_args(leasts)))
    for i, least in enumerate(leasts):
        assert_same_run(lane(together, i), coins_run(key, heads_args(least)))
    # The same key draws the same first particles, so rarer events take longer.
    assert len(set(together.num_levels.tolist())) == 4, "lanes should end at different times"
    assert together.num_levels.tolist() == sorted(together.num_levels.tolist())
    assert together.reached.tolist() == [True, True, True, False]


@pytest.mark.slow
def test_names_of_particles_do_not_matter(coins, coins_run):
    """Shuffled after two levels, a run goes on to estimates of the same law."""
    init, advance = jax.jit(coins.init), jax.jit(coins.advance)
    args = heads_args(LEAST)

    def shuffled(key):
        state = advance(init(key, args), args, 2)
        order = np.random.default_rng(int(jax.random.key_data(key)[1])).permutation(128)
        by_particle = (state.particles, state.scores, state.ancestors)
        particles, scores, ancestors = jax.tree.map(lambda leaf: leaf[order], by_particle)
        lineage = state.lineage._replace(roots=state.lineage.roots[:, order])
        state = dataclasses.replace(
            state, particles=particles, scores=scores, ancestors=ancestors, lineage=lineage
        )
        return coins.result(advance(state, args, 40))

    keys = jax.random.split(jax.random.key(0), REPLICATES)
    others = jax.tree.map(lambda *leaves: np.stack(leaves), *map(shuffled, keys))
    ways = sum(math.comb(COINS, k) for k in range(LEAST, COINS + 1))
    assert_unbiased(others, math.log(ways / 2**COINS))
    plain = replicates(coins_run, args)
    assert not np.array_equal(plain.log_prob, others.log_prob)
    assert stats.ks_2samp(plain.log_prob, others.log_prob).pvalue > 1e-3


def test_only_the_order_of_scores_matters(coins_run):
    plain = coins_run(jax.random.key(2), heads_args(14))
    other = coins_run(jax.random.key(2), heads_args(14, stretched=True))
    for field in ("particles", "log_prob", "survival", "acceptance", "num_queries"):
        chex.assert_trees_all_equal(getattr(plain, field), getattr(other, field))
    assert not np.all(np.asarray(plain.scores) == np.asarray(other.scores))


# Refusals.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_particles": 1}, "num_particles must be at least 2, got 1"),
        ({"num_particles": 8.0}, "num_particles must be an integer"),
        ({"survival": 0.0}, "survival must be in"),
        ({"survival": 1.0}, "survival must be in"),
        ({"survival": 0.01, "num_particles": 10}, "survival must let at least one"),
        ({"num_moves": 0}, "num_moves must be at least 1"),
        ({"max_levels": 0}, "max_levels must be at least 1"),
        ({"threshold": math.nan}, "threshold must be a number"),
        ({"moving": "waste_free", "num_moves": 8, "num_particles": 100}, "99 would do"),
        ({"moving": "some"}, "moving must be one of waste_free, all, clones"),
        ({"moving": "waste_free", "num_moves": 9, "num_particles": 10}, "at least twice"),
        ({"stop": "never"}, "stop must be 'estimate' or 'first_hit', got 'never'"),
        ({"queries_per_score": 0}, "queries_per_score must be at least 1"),
        ({"queries_per_score": 2**25}, "below 2\\^32"),
        ({"max_queries": 127}, "max_queries must be at least 128, got 127"),
        ({"max_queries": 255, "queries_per_score": 2}, "max_queries must be at least 256"),
        ({"max_queries": jnp.zeros(2)}, "max_queries must be an integer or uint32"),
        ({"max_queries": 2**64}, "max_queries must be below 2\\^64"),
    ],
)
def test_refuses_at_the_door(options, message):
    with pytest.raises(ValueError, match=message):
        all_move(linear_score, gaussian_space(2), **options)


def test_refuses_wrong_shapes_scores_and_keys():
    build = partial(all_move, num_particles=8)
    key, space = jax.random.key(0), climbing_space()
    pairs = build(lambda particles, args: jnp.stack([particles] * 2, axis=1), space)
    with pytest.raises(ValueError, match=r"one score per particle, shape \(8,\), got \(8, 2\)"):
        pairs.init(key, None)
    too_many = build(identity_score, space._replace(sample=lambda key, n: jnp.zeros(n + 1)))
    with pytest.raises(ValueError, match="leading axis 8"):
        too_many.init(key, None)
    algorithm = build(identity_score, space)
    with pytest.raises(ValueError, match="typed key"):
        algorithm.init(jax.random.PRNGKey(0), None)
    with pytest.raises(ValueError, match="single key"):
        algorithm.init(jax.random.split(key), None)
    with pytest.raises(ValueError, match="threefry2x32"):
        algorithm.init(jax.random.key(0, impl="rbg"), None)
    with pytest.raises(ValueError, match="Scorer, which counts for itself"):
        build(Scorer(lambda *a: a, 1), space, queries_per_score=3)


# Only clones move.


@pytest.mark.slow
def test_the_last_particle_algorithm_is_unbiased_and_moves_one_at_a_time():
    n = 50
    algorithm = importance_splitting(
        linear_score, gaussian_space(2), num_particles=n, survival=1 - 1 / n, num_moves=15,
        moving="clones", max_levels=700,
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(0), REPLICATES)
    result = host(jax.jit(jax.vmap(algorithm.run, (0, None)))(keys, 3.5))
    assert_unbiased(result, log_tail(3.5))
    # A clone that never moved dies with its parent, and then two move one after the other.
    moved, rest = np.divmod(count(result).astype(int) - n, 15)
    assert np.all(rest == 0)
    assert np.all((moved >= result.num_levels - 1) & (moved <= 1.05 * result.num_levels))
    # Guyader et al. 2011: the variance of log p_hat is -log p / n.
    ideal = math.sqrt(-log_tail(3.5) / n)
    assert 0.8 * ideal < float(result.log_prob.std()) < 1.5 * ideal


def test_survivors_keep_their_places_while_clones_move_however_many_there_are():
    scores = np.array([1, 1, 1, 1, 1, 1, 2, 3, 4, 5], np.float32)
    algorithm = importance_splitting(
        listed_score, climbing_space(0.0), num_particles=10, survival=0.8, num_moves=2,
        moving="clones", max_levels=2, threshold=100.0,
    )  # fmt: skip
    state = quick_jit(algorithm.init)(jax.random.key(0), scores)
    after, info = quick_jit(algorithm.step)(state, scores)
    assert (info.level, info.survival) == (1.0, pytest.approx(0.4))
    np.testing.assert_array_equal(after.scores[6:], [2, 3, 4, 5])
    assert np.all(np.asarray(after.scores) > 1)
    # Six are dead, two move at once: three blocks of two moves of two.
    assert count(after.num_queries) == 10 + 3 * 2 * 2
