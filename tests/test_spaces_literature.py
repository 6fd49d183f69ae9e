"""Spaces for the literature's triggers: pixels, blends and stripes; laws kept, starts forgotten."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from test_spaces import (
    P_VALUE,
    assert_uncorrelated,
    departures,
    imbalance,
    jit,
    jit_once,
    metropolis_hastings,
    to_numpy,
)

from restore_jax.backdoors.trigger import stamp
from restore_jax.spaces import make_space
from restore_jax.spaces.blend import blend
from restore_jax.spaces.scattered import scattered
from restore_jax.spaces.stripes import stripes
from restore_jax.splitting import Trial, importance_splitting
from restore_jax.splitting.directions import half_spaces

pytestmark = pytest.mark.usefixtures("hardly_optimised")

CHAINS, SWEEPS = 4_000, 60
BOTH = pytest.mark.parametrize("restricted", [False, True], ids=["prior", "restricted"])


# What is measured of a particle, and the set to which the prior is restricted.


def scattered_features(p):
    seen = jnp.arange(len(p.places)) < p.count
    codes = p.codes.astype(jnp.int32)
    last = p.count - 1
    return {
        "count": p.count,
        "first place": p.places[0],
        "last place": p.places[last],
        "first code": codes[0],
        "last code given count": 10 * p.count + codes[last],
        "unseen place": p.places[-1],
        "code sum": jnp.sum(codes * seen),
        "left": jnp.sum(seen & (p.places % 5 < 2)),
        "together": 2 * p.count + (p.places[0] == p.places[last]),
    }


def scattered_event(p):
    return (scattered_features(p)["left"] >= 2) | (p.codes[p.count - 1] == 7)


def blend_features(z):
    return {
        "corner": z[0, 0, 0],
        "centre": z[2, 2, -1],
        "sum": jnp.sum(z),
        "left": jnp.sum(z[:, 0]),
        "norm": jnp.sum(z * z),
        "neighbours": jnp.sum(z[:, 1:] * z[:, :-1]),
    }


def blend_event(z):
    return jnp.sum(z[:, :2]) + 0.5 * z[0, 0, 0] > 1.5


def stripes_features(u):
    amplitude, frequency, angle, phase = u
    return {
        "amplitude": amplitude,
        "frequency": frequency,
        "angle": angle,
        "phase": phase,
        "phase given angle": jnp.floor(4 * angle) * 4 + jnp.floor(4 * phase),
        "frequency given amplitude": jnp.floor(4 * amplitude) * 4 + jnp.floor(4 * frequency),
        "angle given frequency": jnp.floor(4 * frequency) * 4 + jnp.floor(4 * angle),
    }


def stripes_event(u):
    return (u[0] * jnp.sin(2 * jnp.pi * (u[2] + u[3])) > 0.1) | (u[1] > 0.9)


CASES = {
    "scattered": (
        scattered((4, 5, 3), max_pixels=4, count_decay=0.7),
        scattered_features,
        scattered_event,
    ),
    "blend": (blend((10, 12, 2), grid=4), blend_features, blend_event),
    "stripes": (stripes((8, 8, 3)), stripes_features, stripes_event),
}


@functools.cache
def laboratory(name):
    """All that the tests of one space share, so that each thing is compiled once."""
    space, features, event = CASES[name]
    kernel = space.search.kernel
    measure, inside = jit(jax.vmap(features)), jit(jax.vmap(event))
    draws = jit_once(space.search.sample, static_argnums=1)

    def prior(key, n, restricted):
        particles = draws(key, 8 * n)
        index = np.flatnonzero(inside(particles))[:n] if restricted else np.arange(n)
        assert len(index) == n, "the event is too rare for this test"
        return jax.tree.map(lambda leaf: leaf[index], particles)

    starts = {r: prior(jax.random.key(1), CHAINS, r) for r in (False, True)}
    references = {
        r: to_numpy(measure(prior(jax.random.key(2), 2 * CHAINS, r))) for r in (False, True)
    }
    half = jnp.arange(CHAINS) % 2 == 1
    # Taught by particles of their own, moves are exactly invariant.
    teachers = prior(jax.random.key(3), CHAINS, True)
    lesson = None
    moves = {} if name == "scattered" else dict(space.proposals)
    if kernel.learn is not None:
        heights = jnp.sum(teachers[:, :, :2], axis=(1, 2, 3))
        lesson = jit_once(kernel.learn)(teachers, heights, jnp.ones(CHAINS, bool), half)
        learned = half_spaces(1)
        moves["half_space"] = lambda key, z, s: learned.propose(
            key, z, s, lesson.lessons[-1], jnp.bool_(False)
        )
    moves["refresh"] = lambda key, p, s: (space.refresh(key, p, s), jnp.float32(0))
    names = [*moves, "kernel"]
    steps = [jax.vmap(metropolis_hastings(m, event), (0, 0, None)) for m in moves.values()]

    @jit
    def run_all(key, particles, which, restricted):
        def try_(proposals, active):
            above = active & (jax.vmap(event)(proposals) | ~restricted)
            return Trial(jnp.zeros(CHAINS), above, jnp.zeros(2, jnp.uint32))

        def mixture(keys, particles, tuning):
            taught = () if lesson is None else (lesson, half)
            scores = jnp.zeros(CHAINS)
            particles, _, tuning, _ = kernel.step(keys, particles, scores, try_, tuning, *taught)
            return particles, tuning

        def alone(step):
            return lambda keys, particles, tuning: (step(keys, particles, restricted), tuning)

        def body(carry, key):
            keys = jax.random.split(key, CHAINS)
            return jax.lax.switch(which, [*map(alone, steps), mixture], keys, *carry), None

        start = particles, kernel.init()
        return jax.lax.scan(body, start, jax.random.split(key, SWEEPS))[0][0]

    @functools.cache
    def run(move, restricted):
        which, flag = names.index(move), jnp.asarray(restricted)
        ends = run_all(jax.random.key(4), starts[restricted], which, flag)
        if restricted:
            assert bool(jnp.all(inside(ends)))
        return to_numpy(measure(ends))

    def start(restricted):
        return to_numpy(measure(starts[restricted]))

    return run, start, references


MOVES = [
    (name, move)
    for name, (space, *_) in CASES.items()
    for move in [*space.proposals, *["half_space"][: name == "blend"], "refresh", "kernel"]
]
# Its single moves are judged state by state further down.
CHAIN_MOVES = [(name, move) for name, move in MOVES if name != "scattered" or move == "kernel"]


@BOTH
@pytest.mark.parametrize(
    ("name", "move"),
    [
        pytest.param(name, move, marks=[] if name == "stripes" else [pytest.mark.slow])
        for name, move in CHAIN_MOVES
    ],
)
def test_moves_keep_the_prior_and_its_restriction(name, move, restricted):
    run, _, references = laboratory(name)
    assert not departures(run(move, restricted), references[restricted])


@BOTH
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "stripes" else [pytest.mark.slow]) for n in CASES]
)
def test_the_kernel_forgets_where_it_started(name, restricted):
    run, start, _ = laboratory(name)
    assert_uncorrelated(start(restricted), run("kernel", restricted))


@pytest.mark.parametrize("move", [move for name, move in CHAIN_MOVES if name == "stripes"])
def test_the_numbers_of_stripes_stay_uniform(move):
    ends = laboratory("stripes")[0](move, False)
    for name in ("amplitude", "frequency", "angle", "phase"):
        assert stats.kstest(ends[name], "uniform").pvalue > P_VALUE


@pytest.mark.parametrize("move", [move for name, move in CHAIN_MOVES if name == "blend"])
def test_the_grid_of_a_blend_stays_standard_normal(move):
    run, start, _ = laboratory("blend")
    ends = run(move, False)
    if move == "half_space":
        # Alone it moves only what lies beyond its cut, and there it must move.
        assert np.mean(ends["corner"] != start(False)["corner"]) > 0.05
    for name, spread in {
        "corner": 1.0,
        "centre": 1.0,
        "sum": np.sqrt(32),
        "left": np.sqrt(8),
    }.items():
        assert stats.kstest(ends[name] / spread, "norm").pvalue > P_VALUE
    assert stats.kstest(ends["norm"], "chi2", args=(32,)).pvalue > P_VALUE


# Scattered pixels: detailed balance, state by state, in spaces small enough to list.

SIZE, MOST, DECAY = 3, 3, 0.6


def grow_on_top(key, p, strength):
    """Grows at the end of the order and shrinks anywhere: wrong where the order matters."""
    key_grow, key_rank, key_place, key_code = jax.random.split(key, 4)
    ranks, grow = jnp.arange(len(p.places)), jax.random.bernoulli(key_grow)
    edge = jnp.where(grow, p.count, p.count - 1)
    rank = jnp.where(grow, edge, jax.random.randint(key_rank, (), 0, edge + 1))
    source = jnp.where((ranks >= rank) & (ranks < edge), ranks + 1, ranks)
    place = jax.random.randint(key_place, (), 0, SIZE)
    code = jax.random.randint(key_code, (), 0, 2).astype(p.codes.dtype)
    fits = jnp.where(grow, p.count < len(ranks), p.count > 1)
    moved = type(p)(
        p.count + jnp.where(grow, 1, -1),
        jnp.where(ranks == edge, place, p.places[source]),
        jnp.where(ranks == edge, code, p.codes[source]),
    )
    ratio = jnp.where(grow, jnp.log(DECAY), -jnp.log(DECAY))
    moved = jax.tree.map(lambda new, old: jnp.where(fits, new, old), moved, p)
    return moved, jnp.where(fits, ratio, -jnp.inf)


@functools.cache
def small_space():
    """All states of one to three black or white pixels on a tiny image, and their prior."""
    space = scattered((1, SIZE, 1), max_pixels=MOST, count_decay=DECAY)
    radix = (MOST, *[SIZE] * MOST, *[2] * MOST)
    states = np.array(list(np.ndindex(*radix)))
    prior = DECAY ** states[:, 0]
    example = space.search.sample(jax.random.key(0), 1)
    particles = type(example)(
        jnp.asarray(states[:, 0] + 1, jnp.int32),
        jnp.asarray(states[:, 1 : 1 + MOST], jnp.int32),
        jnp.asarray(states[:, 1 + MOST :], example.codes.dtype),
    )

    def number(p):
        columns = [np.asarray(p.count)[:, None] - 1, np.asarray(p.places), np.asarray(p.codes)]
        return np.ravel_multi_index(np.column_stack(columns).T, radix)

    return space, particles, prior / prior.sum(), number


@functools.cache
def small_runner(draws=600):
    space, particles, prior, number = small_space()
    moves = dict(space.proposals)
    grow = moves["grow_or_shrink"]
    moves["refresh"] = lambda key, p, s: (space.refresh(key, p, s), jnp.float32(0))
    moves["grow on top"] = grow_on_top
    moves["grow without its ratio"] = lambda key, p, s: (grow(key, p, s)[0], jnp.float32(0))
    names, size = list(moves), len(prior)
    steps = [jax.vmap(metropolis_hastings(move)) for move in moves.values()]
    many = jax.tree.map(lambda leaf: jnp.repeat(leaf, draws, axis=0), particles)

    @jit
    def run(key, particles, which):
        return jax.lax.switch(which, steps, jax.random.split(key, size * draws), particles)

    def counts(move):
        """Transition counts int[size, size] of ``draws`` steps from each state."""
        ends = number(run(jax.random.key(5), many, names.index(move)))
        starts = np.repeat(np.arange(size), draws)
        return np.bincount(starts * size + ends, minlength=size * size).reshape(size, size)

    return counts, prior


@pytest.mark.slow
@pytest.mark.parametrize("move", [move for name, move in MOVES if name == "scattered"][:-1])
def test_moves_of_scattered_pixels_are_in_detailed_balance(move):
    counts, prior = small_runner()
    pairs, deviations = imbalance(counts(move), prior)
    assert pairs > 50
    assert deviations < 5


@pytest.mark.slow
@pytest.mark.parametrize("move", ["grow on top", "grow without its ratio"])
def test_an_imbalance_of_scattered_pixels_would_be_noticed(move):
    counts, prior = small_runner()
    assert imbalance(counts(move), prior)[1] > 10


def test_draws_of_scattered_pixels_follow_the_stated_prior():
    space, _, prior, number = small_space()
    draws = number(jit_once(space.search.sample, static_argnums=1)(jax.random.key(6), 100_000))
    counts = np.bincount(draws, minlength=len(prior))
    assert stats.chisquare(counts, prior * counts.sum()).pvalue > P_VALUE


# What the particles mean.


def test_later_pixels_hide_earlier_ones_and_unseen_ones_are_not_seen():
    space = scattered((2, 3, 3), max_pixels=6, levels=3)
    picture = jnp.full((1, 2, 3, 3), 0.3)
    particles = jit_once(space.search.sample, static_argnums=1)(jax.random.key(7), 200)
    stamped = jit_once(jax.vmap(lambda p: space.stamp(p, picture)[0]))(particles)
    for count, places, codes, seen in zip(*map(np.asarray, (*particles, stamped)), strict=True):
        expected = np.full((6, 3), 0.3, np.float32)
        for place, code in zip(places[:count], codes[:count], strict=True):
            expected[place] = [code // 3**channel % 3 / 2 for channel in range(3)]
        np.testing.assert_allclose(seen.reshape(6, 3), expected, atol=1e-7)


def test_moves_of_scattered_pixels_change_what_they_say():
    space = scattered((8, 10, 3), max_pixels=5, min_pixels=2)
    picture = jnp.full((1, 8, 10, 3), 0.3)

    @jit_once
    def before_and_after(key):
        def one(key, p):
            moves = space.proposals.items()
            after = {name: move(key, p, jnp.float32(0))[0] for name, move in moves}
            stamped = [space.stamp(q, picture)[0] for q in (p, after["shift"])]
            return p, after, *stamped

        particles = space.search.sample(jax.random.fold_in(key, 1), 400)
        return jax.vmap(one)(jax.random.split(key, 400), particles)

    before, after, *pictures = jax.tree.map(np.asarray, before_and_after(jax.random.key(8)))
    seen = np.arange(5) < before.count[:, None]
    for name in ("move", "step", "redraw"):
        moved = after[name].places != before.places
        assert np.max(moved.sum(1)) == 1, name
        assert not np.any(moved & ~seen), name
    recoloured = after["recolour"].codes != before.codes
    assert np.all(recoloured.sum(1) == 1)
    assert not np.any(recoloured & ~seen)
    change = after["grow_or_shrink"].count - before.count
    assert set(change) == {-1, 0, 1}
    assert np.all((change != 0) | np.isin(before.count, (2, 5)))
    by = [(by * r, by * c) for by in (1, 2, 4, 8) for r, c in [(0, 1), (1, 0), (0, -1), (-1, 0)]]
    found = set()
    for old, new in zip(*pictures, strict=True):
        same = [step for step in by if np.array_equal(np.roll(old, step, (0, 1)), new)]
        assert same
        found.update(same)
    assert found == set(by)


def test_colours_of_a_blend_are_uniform_everywhere():
    space = blend((9, 12, 2), grid=4)
    sample = space.search.sample
    pattern = jit_once(
        lambda key: jax.vmap(lambda p: space.trigger(p, 0).pattern)(sample(key, 5_000))
    )
    drawn = np.asarray(pattern(jax.random.key(10))).reshape(5_000, -1)
    p_values = [stats.kstest(column, "uniform").pvalue for column in drawn.T]
    assert min(p_values) > P_VALUE


def test_the_pattern_of_a_blend_is_its_grid_interpolated():
    space = blend((12, 9, 2), grid=3)
    z = jax.random.normal(jax.random.key(11), (20, 3, 3, 2))
    smooth = stats.norm.ppf(np.asarray(jax.vmap(lambda p: space.trigger(p, 0).pattern)(z)))
    plain = np.asarray(jax.image.resize(z, (20, 12, 9, 2), "bilinear"))
    scale = np.sum(smooth * plain, 0) / np.sum(plain * plain, 0)
    np.testing.assert_allclose(smooth, scale * plain, atol=1e-4)
    # Between the centres of cells noise averages out, and is scaled up again.
    assert 1 - 1e-4 < scale.min() < 1.05
    assert scale.max() > 1.5


@pytest.mark.slow
def test_the_probability_that_a_blend_is_dark_at_one_pixel_is_exact():
    space, exact = blend((10, 12, 1), grid=4), 1e-6

    # Not bright: near 1 Φ in float32 has coarse steps.
    def score(particles, args):
        return -jax.vmap(lambda p: space.trigger(p, 0).pattern[4, 5, 0])(particles)

    algorithm = importance_splitting(score, space.search, num_particles=500, threshold=-exact)
    run = jit(jax.vmap(algorithm.run, (0, None)))(jax.random.split(jax.random.key(12), 6), None)
    assert np.all(run.reached)
    estimates = np.exp(np.asarray(run.log_prob)) / exact
    assert abs(np.mean(estimates) - 1) < 4 * max(np.std(estimates), 0.1) / np.sqrt(6)


def test_stripes_along_the_axes_are_upright_or_level_alike_often():
    space = stripes((16, 16, 1), angles="axes")
    particles = space.search.sample(jax.random.key(0), 2000)
    grey = jnp.full((1, 16, 16, 1), 0.5)
    waves = np.asarray(jax.vmap(space.stamp, (0, None))(particles, grey))[:, 0, ..., 0]
    upright = np.ptp(waves, 1).max(-1) < 1e-5  # every row is the same
    level = np.ptp(waves, 2).max(-1) < 1e-5
    assert (upright | level).all()
    assert 0.46 < upright.mean() < 0.54


def test_stripes_are_the_papers():
    space = stripes((8, 16, 3), max_amplitude=0.4, max_frequency=7)
    # An amplitude of 0.1, 4 cycles, vertical, in phase: v = 0.1 sin(2π 4 j / 16).
    vertical = space.trigger(jnp.array([0.25, 0.5, 0.0, 0.0]), 0).pattern
    expected = 0.1 * np.sin(2 * np.pi * 4 * np.arange(16) / 16)
    np.testing.assert_allclose(vertical, np.broadcast_to(expected[None, :, None], (8, 16, 3)),
                               atol=1e-6)  # fmt: skip
    # A quarter turn and a phase of a quarter: 0.4 cos(2π i / 16) at one cycle a width.
    level = space.trigger(jnp.array([1.0, 0.0, 0.5, 0.25]), 0).pattern
    expected = 0.4 * np.cos(2 * np.pi * np.arange(8) / 16)
    np.testing.assert_allclose(level, np.broadcast_to(expected[:, None, None], (8, 16, 3)),
                               atol=1e-6)  # fmt: skip
    assert stripes((32, 32, 3)).description["max_frequency"] == 12


@pytest.mark.parametrize("move", ["step", "walk"])
def test_a_small_step_changes_a_wave_a_little_also_where_angles_go_round(move):
    space = stripes((16, 16, 1), max_amplitude=1.0)
    n = 2_000
    ends = jax.random.choice(jax.random.key(13), jnp.array([0.0, 1.0]), (n, 4))
    others = jax.random.uniform(jax.random.key(14), (n, 4))
    starts = jnp.where(jax.random.bernoulli(jax.random.key(15), 0.5, (n, 4)), ends, others)

    @jit_once
    def change(keys, starts):
        def one(key, u):
            moved, _ = space.proposals[move](key, u, jnp.float32(1e-3))
            waves = [space.trigger(p, 0).pattern for p in (u, moved)]
            return moved, jnp.max(jnp.abs(waves[1] - waves[0]))

        return jax.vmap(one)(keys, starts)

    moved, change = change(jax.random.split(jax.random.key(16), n), starts)
    went_round = np.abs(np.asarray(moved - starts))[:, 2] > 0.5
    assert went_round.sum() > 50
    assert np.all((np.asarray(moved) >= 0) & (np.asarray(moved) <= 1))
    # At most 2π 6 √2 cycles' worth of phase for the angle, as much for the others.
    assert np.max(change) < 0.1


# What a space gives to the rest of the package.

ALL_SPACES = [
    ("scattered", (32, 32, 3), {}),
    ("scattered", (7, 11, 1), {"max_pixels": 40, "min_pixels": 20, "levels": 300}),
    ("blend", (32, 32, 3), {}),
    ("blend", (7, 11, 2), {"opacity": 1.0, "grid": 20}),
    ("stripes", (32, 32, 3), {}),
    ("stripes", (7, 11, 2), {"max_amplitude": 1.0, "max_frequency": 2.5}),
    ("stripes", (16, 16, 1), {"angles": "axes"}),
]


@pytest.mark.parametrize(("name", "shape", "options"), ALL_SPACES)
def test_the_quick_stamp_equals_the_triggers(name, shape, options):
    space = make_space(name, shape, **options)
    images = jax.random.uniform(jax.random.key(17), (3, *shape))

    @jit_once
    def both(key):
        def one(particle):
            trigger = space.trigger(particle, jnp.int32(4))
            return space.stamp(particle, images), stamp(trigger, images), trigger

        return jax.vmap(one)(space.search.sample(key, 16))

    quick, plain, trigger = both(jax.random.key(18))
    np.testing.assert_allclose(quick, plain, atol=1e-6)
    assert quick.shape == (16, 3, *shape)
    assert quick.dtype == jnp.float32
    assert 0 <= quick.min() <= quick.max() <= 1 + 1e-6
    assert not np.allclose(quick, images)
    assert trigger.mask.shape == (16, shape[0], shape[1], 1)
    assert trigger.pattern.shape == (16, *shape)
    assert trigger.mask.dtype == trigger.pattern.dtype == jnp.float32
    assert trigger.additive == (name == "stripes")
    assert (trigger.target == 4).all()


@pytest.mark.parametrize(("name", "shape", "options"), ALL_SPACES)
def test_a_draw_depends_on_the_key_and_its_index_alone(name, shape, options):
    sample = jit_once(make_space(name, shape, **options).search.sample, static_argnums=1)
    few, many = sample(jax.random.key(19), 3), sample(jax.random.key(19), 40)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:3]), few, many)
    leaves = [np.asarray(leaf).reshape(40, -1) for leaf in jax.tree.leaves(many)]
    assert len(np.unique(np.column_stack(leaves), axis=0)) > 35


def test_refreshing_at_a_rate_of_one_is_a_fresh_draw():
    @jit_once
    def first_and_last(key):
        def both(space, features):
            first = space.search.sample(key, 2_000)
            keys = jax.random.split(jax.random.fold_in(key, 1), 2_000)
            last = jax.vmap(space.refresh, (0, 0, None))(keys, first, 1.0)
            return [jax.vmap(features)(particles) for particles in (first, last)]

        return [both(space, features) for space, features, _ in CASES.values()]

    for first, last in first_and_last(jax.random.key(20)):
        assert_uncorrelated(to_numpy(first), to_numpy(last))


def test_descriptions_tell_priors_apart():
    descriptions = {
        json.dumps(make_space(name, shape, **options).description, sort_keys=True)
        for name, _, options in ALL_SPACES
        for shape in [(32, 32, 1), (7, 11, 1)]
    }
    assert len(descriptions) == 2 * len(ALL_SPACES)
    assert blend((7, 11, 2), grid=20).description == blend((7, 11, 2), grid=11).description


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("scattered", {"pixels": 3}, ["'pixels'", "max_pixels"]),
        ("scattered", {"max_pixels": 0}, ["max_pixels 0", "1 <="]),
        ("scattered", {"min_pixels": 0}, ["min_pixels is 0", "1 <="]),
        ("scattered", {"min_pixels": 13}, ["min_pixels is 13", "max_pixels 12"]),
        ("scattered", {"max_pixels": 2.5}, ["2.5", "whole"]),
        ("scattered", {"count_decay": 0}, ["count_decay is 0", "(0, 1]"]),
        ("scattered", {"channels": "gray"}, ["'gray'", "'rgb' or 'grey'"]),
        ("scattered", {"levels": 1}, ["levels is 1", "between 2 and 40"]),
        ("blend", {"opacity": 0.0}, ["opacity is 0.0", "(0, 1]"]),
        ("blend", {"opacity": float("nan")}, ["opacity is nan"]),
        ("blend", {"grid": 0}, ["grid is 0", "at least 1"]),
        ("blend", {"grid": True}, ["grid is True", "whole"]),
        ("stripes", {"max_amplitude": 1.5}, ["max_amplitude is 1.5", "(0, 1]"]),
        ("stripes", {"angles": "level"}, ["angles is 'level'", "any, axes"]),
        ("stripes", {"max_frequency": 0.5}, ["max_frequency is 0.5", "between 1 and 16"]),
        ("stripes", {"max_frequency": 17}, ["max_frequency is 17", "between 1 and 16"]),
        ("stripes", {"max_frequency": float("nan")}, ["max_frequency is nan"]),
        ("stripes", {"max_frequency": "12"}, ["'12'", "a number"]),
    ],
)
def test_bad_options_are_refused_with_a_sentence(name, options, words):
    with pytest.raises(ValueError, match=r"^[^\n]*\.$") as error:
        make_space(name, (32, 32, 3), **options)
    for word in words:
        assert word in str(error.value)
