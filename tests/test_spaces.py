"""Search spaces: the moves must keep the prior, also restricted to a set, and forget."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from restore_jax.backdoors.trigger import stamp
from restore_jax.spaces import SPACES, make_space
from restore_jax.spaces.gaussian import gaussian, pcn
from restore_jax.spaces.patch import patch
from restore_jax.spaces.sparse import sparse
from restore_jax.splitting import Trial

# Most of this file's time goes into compiling: no more of it than a test's run repays.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})
jit_once = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
STRENGTH = 0.3
# About 400 comparisons in all: a family-wise level of about 1e-4.
P_VALUE = 3e-7


# What is measured of a particle, and the set to which the prior is restricted.


def patch_features(p, shape, max_size):
    visible = (jnp.arange(max_size)[:, None] < p.height) & (jnp.arange(max_size) < p.width)
    codes = p.codes.astype(jnp.int32)
    borders = jnp.stack(
        [p.row == 0, p.row + p.height == shape[0], p.col == 0, p.col + p.width == shape[1]]
    )
    return {
        "row": p.row,
        "col": p.col,
        "height": p.height,
        "width": p.width,
        "size": p.height * 100 + p.width,
        "row given height": p.height * 100 + p.row,
        "col given width": p.width * 100 + p.col,
        "borders": borders @ jnp.array([1, 2, 4, 8]) + 16 * (p.height + p.width),
        "lit": jnp.sum(codes * visible),
        "first code": codes[0, 0],
        "last code": codes[p.height - 1, p.width - 1],
        "last code given size": 10 * (p.height + p.width) + codes[p.height - 1, p.width - 1],
        "unseen code": codes[-1, -1],
        "equal neighbours": (codes[0, 0] == codes[0, 1]) + 2 * (codes[0, 0] == codes[1, 0]),
    }


def patch_event(p, shape, max_size):
    features = patch_features(p, shape, max_size)
    return (p.col == 0) | (features["lit"] >= 20) | (p.row + p.height == shape[0])


def sparse_features(codes):
    codes = codes.astype(jnp.int32)
    return {
        "on": jnp.sum(codes > 0),
        "code sum": jnp.sum(codes),
        "corner": codes[0, 0],
        "centre": codes[codes.shape[0] // 2, codes.shape[1] // 2],
        "left": jnp.sum(codes[:, 0] > 0),
        "neighbours": codes[0, 0] * 20 + codes[0, 1],
    }


def sparse_event(codes):
    return jnp.sum(codes[:, : codes.shape[1] // 2] > 0) >= 0.3 * codes.size / 2


def gaussian_features(z):
    return {
        "corner": z[0, 0, 0],
        "centre": z[z.shape[0] // 2, z.shape[1] // 2, -1],
        "sum": jnp.sum(z),
        "left": jnp.sum(z[:, 0]),
        "norm": jnp.sum(z * z),
        "neighbours": jnp.sum(z[:, 1:] * z[:, :-1]),
        "channels": jnp.sum(z[..., 0] * z[..., -1]),
    }


def gaussian_event(z):
    return jnp.sum(z[:, : z.shape[1] // 2]) + 0.5 * z[0, 0, 0] > 0.5


def case(name, shape, **options):
    """A space with its features and its event."""
    space = make_space(name, shape, **options)
    if name == "patch":
        most = options["max_size"]
        return space, (
            lambda p: patch_features(p, shape, most),
            lambda p: patch_event(p, shape, most),
        )
    return space, {
        "sparse": (sparse_features, sparse_event),
        "gaussian": (gaussian_features, gaussian_event),
    }[name]


EVERYDAY = {
    "patch": ("patch", (10, 9, 3), {"max_size": 4, "size_decay": 0.8}),
    "sparse": ("sparse", (4, 5, 3), {"density": 0.3, "channels": "rgb"}),
    "gaussian": ("gaussian", (4, 5, 2), {}),
}
FULL_SIZE = {
    "patch": ("patch", (32, 32, 3), {"max_size": 5}),
    "sparse": ("sparse", (32, 32, 3), {"density": 0.3}),
    "gaussian": ("gaussian", (32, 32, 3), {}),
}
# Which spaces, how many chains, how many moves each.
SCALES = {
    "everyday": (EVERYDAY, 3_000, 100),
    "long": (EVERYDAY, 10_000, 120),
    "full size": (FULL_SIZE, 5_000, 100),
}


# Moves that are wrong in the way that is easily made.


def broken_moves(name, space):
    moves = space.proposals

    def without_ratio(move):
        def propose(key, particle, strength):
            proposal, log_ratio = move(key, particle, strength)
            return proposal, jnp.where(log_ratio > -jnp.inf, 0.0, log_ratio)

        return propose

    def clipped_shift(key, p, strength):
        # Stops at the border and stays valid, but leaves it for a pixel next to it only.
        step = jax.random.randint(key, (), -2, 3)
        return p._replace(row=jnp.clip(p.row + step, 0, 10 - p.height)), jnp.float32(0)

    def damped(key, z, strength):
        return z + strength * jax.random.normal(key, z.shape), jnp.float32(0)

    def one_sided(key, codes, strength):
        return codes.at[0, 0].set(0), jnp.float32(0)

    return {
        "patch": {
            "resize without its ratio": without_ratio(moves.get("resize")),
            "shift without its ratio": without_ratio(moves.get("shift")),
            "clipped shift": clipped_shift,
        },
        "sparse": {"flip without its ratio": without_ratio(moves.get("flip")), "off": one_sided},
        "gaussian": {"undamped": damped},
    }[name]


# Running chains and comparing samples.


def metropolis_hastings(propose, event=None):
    """One accept/reject step of one particle; with a traced switch for the event."""

    def step(key, particle, restricted=False):
        key_propose, key_accept = jax.random.split(key)
        proposal, log_ratio = propose(key_propose, particle, jnp.float32(STRENGTH))
        accepted = jnp.log1p(-jax.random.uniform(key_accept)) <= log_ratio
        if event is not None:
            accepted &= event(proposal) | ~restricted
        return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), proposal, particle)

    return step


@functools.cache
def laboratory(name, scale="everyday"):
    """All that the tests of one space share, so that each thing is compiled once."""
    spaces, chains, sweeps = SCALES[scale]
    _, shape, options = spaces[name]
    space, (features, event) = case(name, shape, **options)
    moves = {**space.proposals, **broken_moves(name, space)}
    moves["refresh"] = lambda key, p, s: (space.refresh(key, p, s), jnp.float32(0))
    names = list(moves)
    steps = [jax.vmap(metropolis_hastings(moves[m], event), (0, 0, None)) for m in names]

    @jit
    def run_move(key, particles, which, restricted):
        def body(particles, key):
            keys = jax.random.split(key, chains)
            return jax.lax.switch(which, steps, keys, particles, restricted), None

        return jax.lax.scan(body, particles, jax.random.split(key, sweeps))[0]

    @jit
    def run_kernel(key, particles, restricted):
        kernel = space.search.kernel

        def try_(proposals, active):
            above = active & (jax.vmap(event)(proposals) | ~restricted)
            return Trial(jnp.zeros(chains), above, jnp.uint32(0))

        def body(carry, key):
            particles, tuning = carry
            keys = jax.random.split(key, chains)
            particles, _, tuning, _ = kernel.step(keys, particles, jnp.zeros(chains), try_, tuning)
            return (particles, tuning), None

        keys = jax.random.split(key, sweeps)
        return jax.lax.scan(body, (particles, kernel.init()), keys)[0][0]

    draws = jit(space.search.sample, static_argnums=1)
    measure = jit(jax.vmap(features))
    inside = jit(jax.vmap(event))

    def prior(key, n, restricted):
        if not restricted:
            return draws(key, n)
        particles = draws(key, 4 * n)
        index = np.flatnonzero(inside(particles))[:n]
        assert len(index) == n, "the event is too rare for this test"
        return jax.tree.map(lambda leaf: leaf[index], particles)

    starts = {r: prior(jax.random.key(1), chains, r) for r in (False, True)}
    references = {
        r: to_numpy(measure(prior(jax.random.key(2), 2 * chains, r))) for r in (False, True)
    }

    @functools.cache
    def run(move, restricted):
        key = jax.random.key(3)
        flag = jnp.asarray(restricted)
        if move == "kernel":
            ends = run_kernel(key, starts[restricted], flag)
        else:
            ends = run_move(key, starts[restricted], names.index(move), flag)
        if restricted:
            assert bool(jnp.all(inside(ends)))
        return to_numpy(measure(ends))

    def start(restricted):
        return to_numpy(measure(starts[restricted]))

    return run, start, references


def to_numpy(tree):
    return {name: np.asarray(leaf) for name, leaf in tree.items()}


def p_value(sample, reference):
    """Two-sample chi-square over the values, or over 20 quantiles where they are many."""
    values = np.unique(reference)
    if len(values) > 100:
        edges = np.quantile(reference, np.linspace(0, 1, 21)[1:-1])
        sample, reference = np.digitize(sample, edges), np.digitize(reference, edges)
        values = np.arange(20)
    new = sorted(set(np.unique(sample)) - set(values))
    values = np.concatenate([values, np.array(new, values.dtype)])
    table = np.array([[np.sum(x == v) for v in values] for x in (sample, reference)])
    rare = table.sum(axis=0) < 30
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return 1.0
    return stats.chi2_contingency(table, correction=False).pvalue


def departures(sample, reference):
    """The features whose law is not the reference's, with their p-values."""
    found = {name: p_value(sample[name], reference[name]) for name in reference}
    return {name: p for name, p in found.items() if p < P_VALUE}


ALL_MOVES = [
    (name, move)
    for name, (space, shape, options) in EVERYDAY.items()
    for move in [*make_space(space, shape, **options).proposals, "refresh", "kernel"]
]
# The single moves of the two discrete spaces are judged state by state further down, and the
# kernels of all by long chains.
EVERYDAY_MOVES = [(n, m) for n, m in ALL_MOVES if n == "gaussian" and m != "kernel"]
EVERYDAY_MOVES.remove(("gaussian", "refresh"))
BOTH = pytest.mark.parametrize("restricted", [False, True], ids=["prior", "restricted"])
BOTH_LONG = pytest.mark.parametrize("restricted", [False, True], ids=["prior", "full-restricted"])


@BOTH
@pytest.mark.parametrize(("name", "move"), EVERYDAY_MOVES)
def test_moves_keep_the_prior_and_its_restriction(name, move, restricted):
    run, _, references = laboratory(name)
    assert not departures(run(move, restricted), references[restricted])


@BOTH
def test_the_kernel_forgets_where_it_started(restricted):
    run, start, _ = laboratory("gaussian")
    assert_uncorrelated(start(restricted), run("kernel", restricted))


def test_an_undamped_move_would_be_noticed():
    run, _, references = laboratory("gaussian")
    assert departures(run("undamped", False), references[False])


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["long", "full size"])
@BOTH_LONG
@pytest.mark.parametrize(("name", "move"), ALL_MOVES)
def test_long_chains_keep_the_prior_and_its_restriction(name, move, restricted, scale):
    run, _, references = laboratory(name, scale)
    assert not departures(run(move, restricted), references[restricted])


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["long", "full size"])
@BOTH_LONG
@pytest.mark.parametrize("name", list(EVERYDAY))
def test_long_chains_forget_where_they_started(name, restricted, scale):
    run, start, _ = laboratory(name, scale)
    assert_uncorrelated(start(restricted), run("kernel", restricted))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "move"),
    [
        ("patch", "resize without its ratio"),
        ("patch", "shift without its ratio"),
        ("patch", "clipped shift"),
        ("sparse", "flip without its ratio"),
        ("sparse", "off"),
    ],
)
def test_a_wrong_move_would_be_noticed(name, move):
    run, _, references = laboratory(name, "long")
    assert departures(run(move, False), references[False])


def assert_uncorrelated(first, last):
    for feature in first:
        correlation = np.corrcoef(first[feature], last[feature])[0, 1]
        assert abs(correlation) < 0.1, (feature, correlation)


# Detailed balance, state by state, in spaces small enough to list.

DENSITY = 0.3
SMALL_SPACES = {
    "patch": patch((4, 3, 1), max_size=2, size_decay=0.6),
    "sparse": sparse((2, 3, 1), density=DENSITY),
}


@functools.cache
def small_patch_space():
    """All states of 1 and 2 px wide grey patches on a 4 x 3 image, and their prior."""
    space = SMALL_SPACES["patch"]
    states, weights = [], []
    for height in (1, 2):
        for width in (1, 2):
            places = [(r, c) for r in range(4 - height + 1) for c in range(3 - width + 1)]
            for row, col in places:
                for codes in np.ndindex(2, 2, 2, 2):
                    states.append((row, col, height, width, *codes))
                    weights.append(0.6 ** (height + width) / len(places))
    states = np.array(states)
    example = space.search.sample(jax.random.key(0), 1)
    particles = type(example)(
        *(jnp.asarray(states[:, i], jnp.int32) for i in range(4)),
        jnp.asarray(states[:, 4:].reshape(-1, 2, 2), example.codes.dtype),
    )

    def digits(particles):
        return np.column_stack(
            [np.asarray(x) for x in particles[:4]] + [np.asarray(particles.codes).reshape(-1, 4)]
        )

    return space, particles, np.array(weights) / np.sum(weights), digits, (4, 3, 3, 3, 2, 2, 2, 2)


@functools.cache
def small_sparse_space():
    """All states of a 2 x 3 grey image, and their prior."""
    space = SMALL_SPACES["sparse"]
    states = np.array(list(np.ndindex(*[3] * 6)))
    prior = np.prod(np.where(states > 0, DENSITY / 2, 1 - DENSITY), axis=1)
    particles = jnp.asarray(states.reshape(-1, 2, 3), jnp.uint8)
    return space, particles, prior, lambda p: np.asarray(p).reshape(-1, 6), (3,) * 6


SMALL = {"patch": small_patch_space, "sparse": small_sparse_space}


@functools.cache
def small_runner(name, draws=800):
    space, particles, prior, digits, radix = SMALL[name]()
    moves = {**space.proposals, **broken_moves(name, space)}
    moves.pop("clipped shift", None)
    moves["refresh"] = lambda key, p, s: (space.refresh(key, p, s), jnp.float32(0))
    names = list(moves)
    size = len(prior)
    steps = [jax.vmap(metropolis_hastings(moves[m])) for m in names]
    many = jax.tree.map(lambda leaf: jnp.repeat(leaf, draws, axis=0), particles)

    @jit
    def run(key, particles, which):
        return jax.lax.switch(which, steps, jax.random.split(key, size * draws), particles)

    codes = np.ravel_multi_index(digits(particles).T, radix)
    number = np.full(np.prod(radix), -1)
    number[codes] = np.arange(size)

    def counts(move):
        """Transition counts int[size, size] of ``draws`` steps from each state."""
        after = run(jax.random.key(4), many, names.index(move))
        ends = number[np.ravel_multi_index(digits(after).T, radix)]
        assert ends.min() >= 0, "a move left the space"
        starts = np.repeat(np.arange(size), draws)
        return np.bincount(starts * size + ends, minlength=size * size).reshape(size, size)

    return counts, prior


def imbalance(counts, prior):
    """How far the flows x -> y and y -> x are from equal, in standard deviations.

    Given the sum n of both counts, the first is binomial with p = π(y) / (π(x) + π(y)) if
    the flows are equal: its squared standard score has mean 1 and a known variance for
    any n. Both the sum over all pairs and the worst pair are judged.
    """
    x, y = np.triu_indices(len(prior), 1)
    forth, total = counts[x, y], counts[x, y] + counts[y, x]
    x, y, forth, total = (a[total > 0] for a in (x, y, forth, total))
    p = prior[y] / (prior[x] + prior[y])
    spread = total * p * (1 - p)
    score = (forth - total * p) ** 2 / spread
    variance = 2 + (1 - 6 * p * (1 - p)) / spread
    overall = (np.sum(score) - len(score)) / np.sqrt(np.sum(variance))
    top = np.argsort(score)[-100:]
    forth, total, p = forth[top], total[top], p[top]
    tails = np.minimum(stats.binom.cdf(forth, total, p), stats.binom.sf(forth - 1, total, p))
    worst = stats.norm.isf(min(2 * tails.min() * len(score), 0.5))
    return len(score), max(overall, worst)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "move"),
    [
        (name, move)
        for name, space in SMALL_SPACES.items()
        for move in [*space.proposals, "refresh"]
    ],
)
def test_moves_are_in_detailed_balance(name, move):
    counts, prior = small_runner(name)
    pairs, deviations = imbalance(counts(move), prior)
    assert pairs > 50
    assert deviations < 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "move"),
    [
        ("patch", "resize without its ratio"),
        ("patch", "shift without its ratio"),
        ("sparse", "flip without its ratio"),
        ("sparse", "off"),
    ],
)
def test_an_imbalance_would_be_noticed(name, move):
    counts, prior = small_runner(name)
    assert imbalance(counts(move), prior)[1] > 10


@pytest.mark.parametrize("name", list(SMALL))
def test_draws_follow_the_stated_prior(name):
    space, particles, prior, digits, radix = SMALL[name]()
    codes = np.ravel_multi_index(digits(particles).T, radix)
    sample = jit(space.search.sample, static_argnums=1)
    draws = digits(sample(jax.random.key(5), 200_000))
    counts = np.bincount(np.ravel_multi_index(draws.T, radix), minlength=np.prod(radix))
    assert counts[codes].sum() == counts.sum()
    expected = prior * counts.sum()
    common = expected > 5
    seen = np.append(counts[codes][common], counts[codes][~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    keep = wanted > 0
    assert stats.chisquare(seen[keep], wanted[keep]).pvalue > P_VALUE


def test_gaussian_draws_are_standard_normal():
    z = np.asarray(gaussian((3, 4, 2)).search.sample(jax.random.key(6), 10_000)).reshape(10_000, -1)
    assert stats.kstest(z.ravel(), "norm").pvalue > P_VALUE
    off_diagonal = np.corrcoef(z.T)[np.triu_indices(24, 1)]
    assert np.abs(off_diagonal).max() < 5.5 / np.sqrt(10_000)


# What a space gives to the rest of the package.

ALL_SPACES = [
    ("patch", (32, 32, 3), {}),
    ("patch", (28, 28, 1), {"channels": "grey", "levels": 5, "max_size": 6, "min_size": 2}),
    ("sparse", (28, 28, 1), {}),
    ("sparse", (7, 11, 2), {"channels": "rgb", "levels": 3, "density": 0.5}),
    ("gaussian", (32, 32, 3), {}),
    ("gaussian", (7, 11, 2), {"amplitude": 0.2}),
]


@pytest.mark.parametrize(("name", "shape", "options"), ALL_SPACES)
def test_the_quick_stamp_equals_the_triggers(name, shape, options):
    space = make_space(name, shape, **options)
    particles = space.search.sample(jax.random.key(7), 16)
    images = jax.random.uniform(jax.random.key(8), (3, *shape))

    def both(particle):
        trigger = space.trigger(particle, jnp.int32(4))
        return space.stamp(particle, images), stamp(trigger, images), trigger

    quick, plain, trigger = jit_once(jax.vmap(both))(particles)
    np.testing.assert_allclose(quick, plain, atol=1e-6)
    assert quick.shape == (16, 3, *shape)
    assert quick.dtype == jnp.float32
    assert 0 <= quick.min() <= quick.max() <= 1
    assert not np.allclose(quick, images)
    assert trigger.mask.shape == (16, shape[0], shape[1], 1)
    assert trigger.pattern.shape == (16, *shape)
    assert trigger.mask.dtype == trigger.pattern.dtype == jnp.float32
    assert trigger.additive == (name == "gaussian")
    assert (trigger.target == 4).all()


@pytest.mark.parametrize(("name", "shape", "options"), ALL_SPACES)
def test_a_draw_depends_on_the_key_and_its_index_alone(name, shape, options):
    sample = make_space(name, shape, **options).search.sample
    sample = jit_once(sample, static_argnums=1)
    few, many = sample(jax.random.key(9), 3), sample(jax.random.key(9), 40)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:3]), few, many)
    leaves = [np.asarray(leaf).reshape(40, -1) for leaf in jax.tree.leaves(many)]
    assert len(np.unique(np.column_stack(leaves), axis=0)) > 35


@pytest.mark.slow
def test_on_a_large_image_a_patch_is_stamped_as_on_a_small_one():
    # There it is written into a copy, at the borders, too.
    shape = (96, 120, 3)
    space = make_space("patch", shape)
    images = jax.random.uniform(jax.random.key(0), (2, *shape))
    found = space.search.sample(jax.random.key(1), 64)
    corners = [(0, 0), (0, 120), (96, 0), (96, 120)]
    for number, (row, col) in enumerate(corners):
        top = jnp.clip(row, 0, 96 - found.height[number])
        left = jnp.clip(col, 0, 120 - found.width[number])
        found = found._replace(
            row=found.row.at[number].set(top), col=found.col.at[number].set(left)
        )
    quick = jax.jit(jax.vmap(space.stamp, (0, None)))
    stamped = quick(found, images)
    for number in range(64):
        one = jax.tree.map(lambda leaf: leaf[number], found)  # noqa: B023
        by_trigger = stamp(space.trigger(one, jnp.int32(0)), images)
        np.testing.assert_array_equal(stamped[number], by_trigger)
    lowered = quick.lower(found, images).as_text()
    assert "scatter" in lowered or "dynamic_update_slice" in lowered


def test_a_patch_shows_its_pattern_where_it_says():
    space = patch((12, 9, 3), max_size=4, levels=3)
    picture = jnp.full((1, 12, 9, 3), 0.3)

    @jit_once
    def look(key):
        particles = space.search.sample(key, 20)
        triggers = jax.vmap(lambda p: space.trigger(p, 0))(particles)
        return particles, jax.vmap(lambda p: space.stamp(p, picture)[0])(particles), triggers

    particles, stamped, triggers = jax.tree.map(np.asarray, look(jax.random.key(17)))
    for k, (row, col, height, width) in enumerate(zip(*particles[:4], strict=True)):
        expected = np.full((12, 9, 3), 0.3, np.float32)
        for i, j, channel in np.ndindex(height, width, 3):
            digit = particles.codes[k, i, j] // 3**channel % 3
            expected[row + i, col + j, channel] = digit / 2
        np.testing.assert_allclose(stamped[k], expected, atol=1e-7)
        assert np.sum(triggers.mask[k] > 0) == height * width


def test_colours_are_those_that_the_options_name():
    def seen(space):
        grey = jnp.full((1, 6, 6, 3), 0.3)

        def stamped(key):
            return jax.vmap(lambda p: space.stamp(p, grey))(space.search.sample(key, 200))

        pixels = np.asarray(jit_once(stamped)(jax.random.key(10))).reshape(-1, 3)
        return np.unique(pixels[~np.isclose(pixels, 0.3).all(axis=1)], axis=0)

    black_and_white, corners = [[0] * 3, [1] * 3], np.array(list(np.ndindex(2, 2, 2)))
    np.testing.assert_array_equal(seen(sparse((6, 6, 3), channels="grey")), black_and_white)
    np.testing.assert_array_equal(seen(patch((6, 6, 3), channels="rgb")), corners)
    thirds = seen(patch((6, 6, 3), channels="grey", levels=4))
    np.testing.assert_allclose(thirds[:, 0], [0, 1 / 3, 2 / 3, 1], atol=1e-7)
    assert len(seen(sparse((6, 6, 3), channels="rgb", levels=3))) == 27


def test_sliding_and_resizing_leave_the_pattern_on_the_image():
    space = patch((12, 9, 3), max_size=4)
    picture = jnp.full((1, 12, 9, 3), 0.3)

    def before_and_after(key, particle):
        ends = [space.proposals[m](key, particle, jnp.float32(1))[0] for m in ("slide", "resize")]
        return [space.stamp(p, picture) for p in (particle, *ends)]

    particles = jit_once(space.search.sample, static_argnums=1)(jax.random.key(11), 500)
    keys = jax.random.split(jax.random.key(12), 500)
    before, *afters = map(np.asarray, jit_once(jax.vmap(before_and_after))(keys, particles))
    for after in afters:
        shared = ~np.isclose(before, 0.3) & ~np.isclose(after, 0.3)
        assert shared.sum() > 3 * 500
        np.testing.assert_array_equal(before[shared], after[shared])
        assert np.any(before != after, axis=(1, 2, 3, 4)).mean() > 0.9


def test_a_redraw_at_rate_one_half_redraws_half_of_the_pixels():
    space = sparse((32, 32, 3), density=0.1)
    off = jnp.zeros((32, 32), jnp.uint8)
    keys = jax.random.split(jax.random.key(13), 500)
    moved = jit_once(jax.vmap(lambda key: space.refresh(key, off, 0.5)))(keys)
    share = np.mean(np.asarray(moved) > 0)
    assert abs(share - 0.05) < 5 * np.sqrt(0.05 / moved.size)


def test_the_gaussian_move_is_the_papers():
    z, key = jnp.full((4, 5, 3), 2.0), jax.random.key(14)
    noise = jax.random.normal(key, z.shape)
    for s in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(pcn(key, z, s), (z + s * noise) / np.sqrt(1 + s**2), rtol=1e-6)
    space = gaussian((4, 5, 3))
    np.testing.assert_array_equal(space.refresh(key, z, 0.3), pcn(key, z, 0.3))
    expected = np.clip(0.5 + 2 * stats.norm.cdf(2.0) - 1, 0, 1)
    np.testing.assert_allclose(space.stamp(z, jnp.full((1, 4, 5, 3), 0.5)), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 2, 1)])
@pytest.mark.parametrize("name", list(SPACES))
def test_moves_stay_valid_on_the_smallest_images(name, shape):
    space = make_space(name, shape)
    sample = jit_once(space.search.sample, static_argnums=1)
    particles = sample(jax.random.key(15), 64)

    def every_move(key, particle):
        return [move(key, particle, jnp.float32(0.5)) for move in space.proposals.values()]

    keys = jax.random.split(jax.random.key(16), 64)
    for moved, log_ratio in jit_once(jax.vmap(every_move))(keys, particles):
        assert not np.isnan(log_ratio).any()
        assert log_ratio.dtype == jnp.float32
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), moved) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), particles
        )
        if name == "patch":
            assert (moved.row >= 0).all()
            assert (moved.row + moved.height <= shape[0]).all()
            assert (moved.col >= 0).all()
            assert (moved.col + moved.width <= shape[1]).all()


@pytest.mark.parametrize("name", ["patch", "patches"])
def test_the_largest_patch_grows_with_the_image(name):
    def sides(size, **options):
        space = make_space(name, (size, size + 3, 3), **options)
        particles = jit_once(space.search.sample, static_argnums=1)(jax.random.key(5), 400)
        each = particles.each if name == "patches" else particles
        return int(jnp.maximum(each.height, each.width).max())

    assert [sides(size) for size in (3, 32, 224)] == [3, 5, 14]
    assert sides(224, max_size=8) == 8


def test_descriptions_tell_priors_apart():
    descriptions = {
        json.dumps(make_space(name, shape, **options).description, sort_keys=True)
        for name, _, options in ALL_SPACES
        for shape in [(32, 32, 3), (7, 11, 2)]
    }
    assert len(descriptions) == 2 * len(ALL_SPACES)
    one_channel = [patch((28, 28, 1), channels=c).description for c in ("rgb", "grey")]
    assert one_channel[0] == one_channel[1]


@pytest.mark.parametrize(
    ("name", "shape", "options", "words"),
    [
        ("patchwork", (32, 32, 3), {}, ["'patchwork'", "it may be patch, stripes, scattered"]),
        ("patch", (32, 32, 3), {"size": 3}, ["'size'", "max_size"]),
        ("patch", (32, 32, 3), {"max_size": 33}, ["33", "32"]),
        ("patch", (32, 32, 3), {"max_size": 2.5}, ["2.5", "whole"]),
        ("patch", (32, 32, 3), {"min_size": 0}, ["min_size is 0", "1 <="]),
        ("patch", (32, 32, 3), {"min_size": 6}, ["min_size is 6", "max_size 5"]),
        ("patch", (32, 32, 3), {"size_decay": 1.5}, ["size_decay is 1.5", "(0, 1]"]),
        ("patch", (32, 32, 3), {"size_decay": float("nan")}, ["size_decay is nan"]),
        ("patch", (32, 32, 3), {"channels": "gray"}, ["'gray'", "'rgb' or 'grey'"]),
        ("patch", (32, 32, 3), {"levels": 1}, ["levels is 1", "between 2 and 40"]),
        ("sparse", (32, 32, 3), {"levels": 70_000}, ["between 2 and 65535"]),
        ("sparse", (32, 32, 3), {"density": 0}, ["density is 0", "(0, 1)"]),
        ("sparse", (32, 32, 3), {"density": 1.0}, ["density is 1.0"]),
        ("sparse", (32, 32, 3), {"density": "0.1"}, ["'0.1'", "a number"]),
        ("gaussian", (32, 32, 3), {"amplitude": 2}, ["amplitude is 2", "(0, 1]"]),
        ("gaussian", (32, 32), {}, ["(32, 32)", "height, width, channels"]),
        ("gaussian", (32, 0, 3), {}, ["(32, 0, 3)", "at least 1"]),
    ],
)
def test_bad_options_are_refused_with_a_sentence(name, shape, options, words):
    with pytest.raises(ValueError, match=r"^[^\n]*\.$") as error:
        make_space(name, shape, **options)
    for word in words:
        assert word in str(error.value)
