"""Resampling, exact counts, estimators and the Metropolis kernel, each alone."""

import functools
import math
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from splitting_problems import all_move, gaussian_space, linear_score, quick_jit

from restore_jax.splitting import (
    DrawnProposal,
    Status,
    Trial,
    count,
    counting,
    genealogy,
    ideal_log_prob_std,
    log_prob_interval,
    metropolis,
    particle_keys,
    resampling,
)
from restore_jax.splitting.sorting import ascending, false_first

# Resampling.


@pytest.mark.parametrize("num_survivors", [1, 3, 7, 16, 19, 20])
def test_resampling_is_balanced(num_survivors):
    n = 20
    survives = np.zeros(n, bool)
    survives[np.random.default_rng(num_survivors).choice(n, num_survivors, replace=False)] = True
    keys = jax.random.split(jax.random.key(0), 2000)
    sources = quick_jit(jax.vmap(resampling.balanced, (0, None)))(keys, survives)
    np.testing.assert_array_equal(sources[:, survives], np.broadcast_to(
        np.flatnonzero(survives), (2000, num_survivors)))  # fmt: skip
    copies = np.stack([(np.asarray(sources) == i).sum(axis=1) for i in range(n)], axis=1)
    assert np.all(copies[:, ~survives] == 0)
    alive = copies[:, survives]
    assert alive.min() >= n // num_survivors
    assert alive.max() <= -(-n // num_survivors)
    # Who gets the odd copy is fair: its share over 2,000 keys, within 4.5 standard errors.
    odd = n % num_survivors / num_survivors
    error = math.sqrt(odd * (1 - odd) / 2000)
    assert np.all(np.abs(alive.mean(axis=0) - n / num_survivors) <= 4.5 * error)


def test_resampling_without_survivors_changes_nothing():
    sources = resampling.balanced(jax.random.key(0), jnp.zeros(5, bool))
    np.testing.assert_array_equal(sources, np.arange(5))


def test_numbers_are_sorted_and_their_bits_kept():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=997) * 10.0 ** rng.integers(-30, 30, 997),
                             [np.inf, -np.inf, 0.0]]).astype(np.float32)  # fmt: skip
    several = np.stack([values, values[::-1]])
    found = np.asarray(jax.jit(ascending)(several))
    np.testing.assert_array_equal(found, np.sort(several))
    assert found.dtype == np.float32


def test_places_of_what_is_false_come_first_and_in_order():
    marks = np.random.default_rng(0).uniform(size=50) < 0.3
    for some in (marks, np.zeros(7, bool), np.ones(7, bool)):
        np.testing.assert_array_equal(false_first(jnp.asarray(some)), np.argsort(some, stable=True))


def test_num_unique():
    assert int(resampling.num_unique(jnp.array([3, 3, 0, 3]))) == 2


def test_particle_keys_depend_on_the_index_alone():
    few, many = (jax.random.key_data(particle_keys(jax.random.key(1), n)) for n in (3, 9))
    np.testing.assert_array_equal(few, many[:3])
    assert len({tuple(data) for data in np.asarray(many).tolist()}) == 9


# Counts.


def test_counting_is_exact():
    rng = np.random.default_rng(0)
    numbers = [0, 1, 2**32 - 1, 2**32, 2**33 - 1, *rng.integers(0, 2**62, 20).tolist()]
    for number in numbers:
        for more in (0, 1, 2**31, 2**32 - 1):
            total = counting.add(counting.halves(number), jnp.uint32(more))
            assert count(total) == number + more
        for other in (number - 1, number, number + 1, 2**32, 7):
            if other >= 0:
                compared = counting.at_most(counting.halves(number), counting.halves(other))
                assert bool(compared) == (number <= other)
                left, enough = counting.less(counting.halves(other), counting.halves(number))
                assert bool(enough) == (number <= other)
                assert number > other or count(left) == other - number


def test_count_reads_batches():
    batch = jnp.stack([counting.halves(5 * 2**32 + 1), counting.halves(3)])
    np.testing.assert_array_equal(count(batch), np.array([5 * 2**32 + 1, 3], np.uint64))
    assert count(SimpleNamespace(num_queries=batch[0])) == 5 * 2**32 + 1
    with pytest.raises(ValueError, match="counted must be"):
        count(jnp.zeros(2))
    with pytest.raises(ValueError, match="number must be"):
        counting.halves(2**64)


# Estimators.


def test_ideal_log_prob_std_adds_the_levels():
    survival = jnp.array([[0.5, 0.25, jnp.nan], [jnp.nan] * 3])
    expected = [math.sqrt((1.0 + 3.0) / 100), 0.0]
    np.testing.assert_allclose(ideal_log_prob_std(survival, 100), expected, rtol=1e-6)


def reading(status, log_prob, std, hits=0, n=100, dof=math.inf):
    return SimpleNamespace(
        status=jnp.asarray(status, jnp.int32),
        log_prob=jnp.asarray(log_prob, jnp.float32),
        log_prob_std=jnp.asarray(std, jnp.float32),
        log_prob_dof=jnp.asarray(dof, jnp.float32),
        num_hits=jnp.asarray(hits, jnp.int32),
        scores=jnp.zeros((n,)),
    )


def test_interval_of_a_reached_event():
    low, high = log_prob_interval(reading(Status.REACHED, -20.0, 0.5), 0.95)
    assert (float(low), float(high)) == (pytest.approx(-20.855, abs=1e-3), pytest.approx(-18.895))
    low, high = log_prob_interval(reading(Status.REACHED, -0.1, 0.5), 0.95)
    assert float(high) == 0.0


@pytest.mark.parametrize(("hits", "n"), [(0, 100), (1, 100), (40, 100), (99, 100), (5, 20000)])
def test_upper_bound_of_an_event_not_reached(hits, n):
    status = Status.OUT_OF_LEVELS
    low, high = log_prob_interval(reading(status, 0.0, 0.0, hits, n), 0.9)
    bound = math.exp(float(high))
    chance = sum(
        math.exp(
            math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
            + k * math.log(bound) + (n - k) * math.log1p(-bound)
        )
        for k in range(hits + 1)
    )  # fmt: skip
    assert float(low) == -math.inf
    # Half of the 10 % is this bound's; it is exact where nobody hit, and safe elsewhere.
    assert 0.05 / 8 < chance < 0.0501
    if hits == 0:
        assert chance == pytest.approx(0.05, rel=1e-3)
    _, widened = log_prob_interval(reading(status, -3.0, 0.5, hits, n), 0.9)
    assert float(widened) == pytest.approx(
        min(0.0, float(high) - 3.0 + 0.125 + 1.6449 * 0.5), abs=1e-4
    )


def test_interval_is_batched_and_checks_its_confidence():
    batch = reading(
        [Status.REACHED, Status.STALLED, Status.OUT_OF_QUERIES, Status.REACHED],
        [-5.0, -5.0, -5.0, jnp.nan],
        [0.1] * 3 + [jnp.nan],
        [9, 0, 100, 1],
    )
    low, high = log_prob_interval(batch)
    np.testing.assert_allclose(low, [-5.191, -np.inf, -np.inf, np.nan], atol=1e-3)
    assert float(high[1]) < float(high[2]) == pytest.approx(-4.799, abs=1e-3)
    assert bool(jnp.isnan(high[3]))
    with pytest.raises(ValueError, match="confidence must be in"):
        log_prob_interval(batch, 1.0)


# The family tree.


def test_the_variance_is_that_of_families_that_parted_three_levels_ago():
    n, rng = 12, np.random.default_rng(0)
    lineage = genealogy.start(n)
    parents, flags = [], []
    for _ in range(6):
        survives = rng.random(n) < 0.6
        sources = rng.choice(np.flatnonzero(survives), n)
        lineage = genealogy.add_level(lineage, jnp.array(survives), jnp.bool_(False))
        lineage = genealogy.resample(lineage, jnp.array(sources), jnp.bool_(False))
        flags.append(survives)
        parents.append(sources)

    def family(level, i, back):
        for step in range(min(back, level)):
            i = parents[level - 1 - step][i]
        return i

    variance = 0.0
    for level in range(len(flags)):
        now, before = np.zeros(n), np.zeros(n)
        for back in range(min(genealogy.LAG, level + 1)):
            earlier = flags[level - back]
            for i in range(n):
                root = family(level - back, i, genealogy.LAG - back)
                (before if back else now)[root] += (earlier[i] / earlier.mean() - 1) / n
        families = len({family(level, i, genealogy.LAG) for i in range(n)})
        factor = families / max(families - 1, 1)
        variance += max(factor * np.sum(now**2) + 2 * np.sum(now * before), 0.0)
    assert float(lineage.variance) == pytest.approx(variance, rel=1e-4)


def test_independent_particles_have_the_variance_of_a_share():
    survives = jnp.arange(40) < 10
    lineage = genealogy.add_level(genealogy.start(40), survives, jnp.bool_(False))
    assert float(lineage.variance) == pytest.approx(0.75 / 0.25 / 39)


def test_seeds_are_survivors_and_distinct_while_they_can_be():
    survives = jnp.array([False, True, True, False, True, True, False])
    picked = np.stack([resampling.seeds(jax.random.key(k), survives, 3) for k in range(400)])
    assert set(picked.ravel().tolist()) == {1, 2, 4, 5}
    assert all(len(set(row)) == 3 for row in picked.tolist())
    np.testing.assert_allclose(np.bincount(picked.ravel())[[1, 2, 4, 5]] / 1200, 0.25, atol=0.05)
    many = np.asarray(resampling.seeds(jax.random.key(0), survives, 10))
    assert sorted(np.bincount(many)[[1, 2, 4, 5]].tolist()) == [2, 2, 3, 3]


# The Metropolis kernel.

PRIOR = np.array([0.05, 0.3, 0.1, 0.25, 0.2, 0.1])


def border_walk(corrected):
    """To a neighbour in 0..5, drawn among the one or two there are: lopsided at the borders."""

    def propose(key, particle, strength):
        side = jnp.where(jax.random.bernoulli(key), 1, -1)
        side = jnp.where(particle == 0, 1, jnp.where(particle == 5, -1, side))
        candidate = particle + side
        log_prior = jnp.log(jnp.array(PRIOR))
        neighbours = jnp.array([1.0, 2.0, 2.0, 2.0, 2.0, 1.0])
        ratio = log_prior[candidate] - log_prior[particle]
        ratio += jnp.log(neighbours[particle]) - jnp.log(neighbours[candidate])
        return candidate, jnp.where(corrected, ratio, 0.0)

    return propose


def fresh_draw(key, particle, strength):
    return jax.random.choice(key, 6, p=jnp.array(PRIOR)), 0.0


def everywhere(proposals, active):
    n = active.shape[0]
    return Trial(jnp.zeros(n), active, jnp.sum(active, dtype=jnp.uint32))


def distances(kernel, particles, sweeps, try_=everywhere):
    """What ``sweeps`` moves make of the particles' shares in 0..5."""

    def sweep(carry, key):
        particles, tuning = carry
        keys = particle_keys(key, particles.shape[0])
        scores = jnp.zeros(particles.shape[0])
        particles, _, tuning, _ = kernel.step(keys, particles, scores, try_, tuning)
        return (particles, tuning), None

    keys = jax.random.split(jax.random.key(4), sweeps)
    (particles, _), _ = quick_jit(lambda c: jax.lax.scan(sweep, c, keys))(
        (particles, kernel.init())
    )
    return np.bincount(np.asarray(particles), minlength=6) / len(particles)


def chi_square(shares, law, n):
    kept = law > 0
    assert np.all(shares[~kept] == 0)
    return n * np.sum((shares[kept] - law[kept]) ** 2 / law[kept])


N = 8_000
FAR = 25.0  # of a chi-square with 5 degrees of freedom: 1.4 in 10,000


def test_metropolis_keeps_the_prior_and_forgets():
    start = np.random.default_rng(0).choice(6, N, p=PRIOR).astype(np.int32)
    kernel = metropolis([border_walk(True), fresh_draw], [0.8, 0.2])
    assert chi_square(distances(kernel, start, 10), PRIOR, N) < FAR
    # From one point it reaches the prior: the walk alone, corrected, forgets where it was.
    walk = metropolis([border_walk(True)])
    point = jnp.zeros(N, jnp.int32)
    assert chi_square(distances(walk, point, 3), PRIOR, N) > 5 * FAR
    assert chi_square(distances(walk, point, 60), PRIOR, N) < FAR
    # Without the ratio the law is another, so the test above can fail.
    wrong = metropolis([border_walk(False)])
    assert chi_square(distances(wrong, start, 10), PRIOR, N) > 5 * FAR


def test_metropolis_keeps_the_restricted_prior():
    inside = PRIOR * (np.arange(6) >= 2)
    law = inside / inside.sum()

    def try_(proposals, active):
        return Trial(proposals.astype(jnp.float32), active & (proposals > 1), jnp.uint32(0))

    kernel = metropolis([border_walk(True), fresh_draw])
    start = jnp.full(N, 5)
    assert chi_square(distances(kernel, start, 20, try_), law, N) < FAR


def test_metropolis_scores_only_what_the_ratio_accepts():
    def half(key, particle, strength):
        return particle + 1.0, jnp.log(0.5)

    def never(key, particle, strength):
        return particle + 100.0, -jnp.inf

    asked = []

    def try_(proposals, active):
        asked.append(active)
        return Trial(proposals, active & (proposals < 2.0), jnp.sum(active, dtype=jnp.uint32))

    kernel = metropolis([half, never], [0.75, 0.25])
    particles = jnp.linspace(0.0, 2.0, N)
    keys = particle_keys(jax.random.key(0), N)

    @quick_jit
    def move(keys):
        moved, scores, _, info = kernel.step(keys, particles, particles, try_, kernel.init())
        return moved, scores, info, asked[-1]

    moved, scores, info, active = jax.tree.map(np.asarray, move(keys))
    assert len(asked) == 1, "one trial per move"
    assert info.cost == active.sum()
    assert abs(active.mean() - 0.375) < 0.025
    changed = moved != particles
    assert np.all(moved[changed] < 2.0)
    assert np.all(changed == (active & (np.asarray(particles) + 1.0 < 2.0)))
    np.testing.assert_array_equal(scores, moved)
    assert float(info.acceptance) == pytest.approx(changed.mean())


@pytest.mark.parametrize("target", [0.25, 0.4])
def test_strength_adapts_to_its_target(target):
    algorithm = all_move(
        linear_score,
        gaussian_space(4, target_acceptance=target),
        num_particles=256,
        num_moves=10,
        max_levels=16,
    )
    result = quick_jit(algorithm.run)(jax.random.key(0), 20.0)
    late = float(result.acceptance[8:16].mean())
    assert abs(late - target) < 0.03


def test_strengths_adapt_one_by_one_and_within_bounds():
    def accepted(key, particle, strength):
        return particle + strength, 0.0

    def refused(key, particle, strength):
        return particle - strength, 0.0

    def try_(proposals, active):
        return Trial(proposals, active & (proposals > 0.0), jnp.uint32(0))

    kernel = metropolis(
        [accepted, refused, accepted], [1.0, 1.0, 0.0], init_strength=[0.1, 0.1, 0.1],
        bounds=(0.05, 0.2), target_acceptance=0.5,
    )  # fmt: skip
    tuning, start = kernel.init(), jnp.full(64, 0.001)
    step = quick_jit(lambda keys, tuning: kernel.step(keys, start, start, try_, tuning)[2])
    for move in range(8):
        tuning = step(particle_keys(jax.random.key(move), 64), tuning)
        if move == 0:
            assert 0.05 < float(jnp.exp(tuning.log_strength[1])) < 0.1
    np.testing.assert_allclose(jnp.exp(tuning.log_strength), [0.2, 0.05, 0.1], rtol=1e-5)
    np.testing.assert_array_equal(tuning.acceptance, [1.0, 0.0, np.nan])


def test_particles_may_be_trees():
    def sample(key, n):
        return {"a": jnp.zeros((n, 2, 3)), "b": jnp.zeros(n, jnp.int32)}

    def propose(key, particle, strength):
        return {"a": particle["a"] + 1.0, "b": particle["b"] + 1}, 0.0

    kernel = metropolis([propose])
    particles = sample(None, 6)
    keys = particle_keys(jax.random.key(0), 6)

    def try_(proposals, active):
        return Trial(jnp.arange(6.0), active & (jnp.arange(6) % 2 == 0), jnp.uint32(6))

    step = quick_jit(lambda *a: kernel.step(*a, try_, kernel.init())[:2])
    moved, scores = step(keys, particles, jnp.zeros(6))
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, particles)
    np.testing.assert_array_equal(moved["b"], [1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(moved["a"][:, 1, 2], moved["b"])
    np.testing.assert_array_equal(scores, [0, 0, 2, 0, 4, 0])


def test_proposals_that_draw_alike_draw_once_and_go_where_they_would_alone():
    draws = []

    def draw(key):
        draws.append(key)
        return jax.random.normal(key, (2,))

    proposals = [
        DrawnProposal(draw, lambda numbers, particle, s: (particle + s * numbers, numbers[0])),
        DrawnProposal(draw, lambda numbers, particle, s: (particle - s * numbers, 0.0)),
        lambda key, particle, s: (particle + jax.random.uniform(key, (2,)), 0.0),
    ]
    particles = jax.random.normal(jax.random.key(1), (64, 2))
    keys, results = particle_keys(jax.random.key(0), 64), []
    for given in (proposals, [functools.partial(proposal) for proposal in proposals]):
        draws.clear()
        kernel = metropolis(given)
        step = quick_jit(
            lambda kernel=kernel: kernel.step(
                keys, particles, jnp.zeros(64), everywhere, kernel.init()
            )
        )
        results.append(step())
        results.append(len(draws))
    shared, once, alone, twice = results
    assert (once, twice) == (1, 2)
    chex.assert_trees_all_equal(shared, alone)
    assert 0.5 < float(shared[3].acceptance) < 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proposals": []}, "proposals must hold at least one"),
        ({"weights": [1.0, 1.0]}, "weights must hold one number per proposal"),
        ({"weights": [0.0]}, "weights must be finite, >= 0 and not all 0"),
        ({"weights": [math.nan]}, "weights must be finite"),
        ({"target_acceptance": 0.0}, "target_acceptance must be in"),
        ({"bounds": (0.0, 1.0)}, "bounds must be"),
        ({"bounds": (0.1, 0.5)}, "init_strength must be within bounds"),
        ({"init_strength": [0.1, 0.2]}, "init_strength must be one number or one per"),
    ],
)
def test_metropolis_refuses_at_the_door(options, message):
    options = {"proposals": [fresh_draw]} | options
    with pytest.raises(ValueError, match=message):
        metropolis(**options)
