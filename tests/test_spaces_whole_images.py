"""Spaces of changes to whole images (warps, filters, smooth pictures, coefficients, levels), and of
several patches.

The moves keep the prior, also above a level, and forget where they began; a stamp does what its
trigger says; and what the priors' docstrings promise of a draw is seen in draws.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import fft, stats

from restore_jax.backdoors import describe, stamp
from restore_jax.errors import InputError
from restore_jax.spaces import make_space
from restore_jax.spaces.frequency import EACH

pytestmark = pytest.mark.usefixtures("hardly_optimised")

CHAINS, SWEEPS, STRENGTH = 2_000, 30, 0.6
LONGEST = 24 * SWEEPS
CASES = {
    "smooth": ((8, 6, 2), {"grid": 2}),
    "warp": ((8, 6, 3), {"grid": 2}),
    "colour": ((8, 6, 2), {}),
    "frequency": ((8, 6, 3), {"max_count": 2}),
    "quantise": ((8, 6, 3), {}),
    "patches": ((6, 5, 1), {"max_count": 2, "max_size": 2}),
}
SPACES = {name: make_space(name, shape, **options) for name, (shape, options) in CASES.items()}
MOVES = [(name, move) for name, space in SPACES.items() for move in space.proposals]


def numbers(particle):
    """All numbers of one particle, in a row."""
    return jnp.concatenate([jnp.ravel(leaf) * 1.0 for leaf in jax.tree.leaves(particle)])


as_rows = jax.jit(jax.vmap(numbers))


@functools.cache
def sums(name):
    """Of all numbers of each draw."""
    return np.asarray(as_rows(drawn(name))).sum(1)


@functools.cache
def middle(name):
    """The event is a sum above this: about half of the prior's mass, on no axis of it."""
    return float(np.median(sums(name)))


@functools.cache
def drawn(name):
    return SPACES[name].search.sample(jax.random.key(0), 4 * CHAINS)


def triggers_of(space, particles):
    """The triggers that particles stand for, in one tree."""
    return jax.jit(jax.vmap(lambda one: space.trigger(one, jnp.int32(0))))(particles)


def rows(particles, which):
    return jax.tree.map(lambda leaf: leaf[which], particles)


def inside(name):
    """Draws of the prior in which the event happens, for the chains and to compare with."""
    where = np.flatnonzero(sums(name) > middle(name))
    assert len(where) > 1.2 * CHAINS
    return rows(drawn(name), where[:CHAINS]), rows(drawn(name), where[-CHAINS:])


@functools.cache
def mover(name):
    """``(order, restricted, start) -> particles``: chains moved by the proposals of these numbers,
    one after the other, above a level or not; one program for all."""
    moves = list(SPACES[name].proposals.values())

    def propose(number, key, particle, strength):
        return jax.lax.switch(number, moves, key, particle, strength)

    return chains(name, propose)


def chains(name, propose):
    half = middle(name)  # found out before anything is traced

    @jax.jit
    def move(order, sweeps, restricted, start):
        def chain(key, particle):
            def step(index, particle):
                key_propose, key_accept = jax.random.split(jax.random.fold_in(key, index))
                proposal, log_ratio = propose(
                    order[index], key_propose, particle, jnp.float32(STRENGTH)
                )
                accepted = jnp.log1p(-jax.random.uniform(key_accept)) <= log_ratio
                accepted &= ~restricted | (jnp.sum(numbers(proposal)) > half)
                return jax.tree.map(
                    lambda new, old: jnp.where(accepted, new, old), proposal, particle
                )

            return jax.lax.fori_loop(0, sweeps, step, particle)

        keys = jax.random.split(jax.random.key(1), jax.tree.leaves(start)[0].shape[0])
        return jax.vmap(chain)(keys, start)

    def moved(order, restricted, start):
        padded = np.zeros(LONGEST, np.int32)
        padded[: len(order)] = order
        return move(padded, np.int32(len(order)), np.bool_(restricted), start)

    return moved


def same_law(some, others):
    """The smallest p-value, of each number and of the products of neighbours."""
    a, b = (np.asarray(as_rows(particles)) for particles in (some, others))
    a, b = (np.concatenate([each, each[:, 1:] * each[:, :-1]], 1) for each in (a, b))
    return min(stats.ks_2samp(a[:, k], b[:, k]).pvalue for k in range(a.shape[1]))


@pytest.mark.parametrize("restricted", [False, True], ids=["prior", "restricted"])
@pytest.mark.parametrize(
    ("name", "move"),
    [
        pytest.param(*each, marks=[pytest.mark.slow] if each[0] == "patches" else [])
        for each in MOVES
    ],
)
def test_a_move_keeps_the_prior_also_above_a_level(name, move, restricted):
    start, fresh = inside(name) if restricted else (
        rows(drawn(name), slice(CHAINS)), rows(drawn(name), slice(CHAINS, 4 * CHAINS))
    )  # fmt: skip
    number = list(SPACES[name].proposals).index(move)
    after = mover(name)([number] * SWEEPS, restricted, start)
    assert same_law(after, fresh) > 1e-5
    changed = np.asarray(as_rows(after)) != np.asarray(as_rows(start))
    assert changed.any(1).mean() > 0.1


SOME_SLOW = [
    pytest.param(name, marks=pytest.mark.slow) if name == "patches" else name for name in SPACES
]


@pytest.mark.parametrize("name", SOME_SLOW)
def test_particles_forget_where_they_began(name):
    # What is not seen of patches moves seldom: fewer chains, for longer.
    number, sweeps = (400, LONGEST) if name == "patches" else (CHAINS, 8 * SWEEPS)
    # Every chain takes the moves in the same order: whatever it is, each keeps the prior.
    order = np.random.default_rng(0).integers(0, len(SPACES[name].proposals), sweeps)
    alone = rows(drawn(name), np.full(number, sums(name).argmax()))
    assert same_law(mover(name)(order, False, alone), drawn(name)) > 1e-5


@pytest.mark.slow
def test_a_wrong_move_is_seen():
    def towards_one(_, key, particle, strength):
        by = strength * (jax.random.uniform(key, particle.shape) - 0.4)
        return jnp.clip(particle + by, 0.0, 1.0 - 2.0**-24), jnp.float32(0)

    start = rows(drawn("frequency"), slice(CHAINS))
    after = chains("frequency", towards_one)([0] * SWEEPS, False, start)
    assert same_law(after, drawn("frequency")) < 1e-10

    def undamped(_, key, particle, strength):
        noise = strength * jax.random.normal(key, particle.cells.shape)
        return particle._replace(cells=particle.cells + noise), jnp.float32(0)

    start = rows(drawn("smooth"), slice(CHAINS))
    after = chains("smooth", undamped)([0] * SWEEPS, False, start)
    assert same_law(after, drawn("smooth")) < 1e-10


@pytest.mark.parametrize("shape", [(9, 12, 3), (12, 12, 1), (4, 4, 5)])
@pytest.mark.parametrize("name", SPACES)
def test_a_stamp_is_what_its_trigger_does(name, shape):
    space = make_space(name, shape)
    images = jax.random.uniform(jax.random.key(3), (3, *shape))
    particles = space.search.sample(jax.random.key(4), 24)

    def both(particle):
        trigger = space.trigger(particle, jnp.int32(1))
        return space.stamp(particle, images), stamp(trigger, images)

    quick, plain = jax.jit(jax.vmap(both))(particles)
    np.testing.assert_allclose(quick, plain, rtol=1e-6, atol=1e-6)
    assert quick.min() >= 0
    assert quick.max() <= 1
    assert (np.abs(quick - images).max((1, 2, 3, 4)) > 1e-3).mean() > 0.8


@pytest.mark.slow
def test_refreshing_at_a_rate_of_one_leaves_little_and_at_a_rate_of_nought_everything():
    for name, space in SPACES.items():
        start = rows(drawn(name), slice(64))
        keys = jax.random.split(jax.random.key(5), 64)
        refreshed = jax.jit(jax.vmap(space.refresh, (0, 0, None)))
        nothing = refreshed(keys, start, jnp.float32(0))
        np.testing.assert_allclose(as_rows(nothing), as_rows(start), rtol=1e-6, atol=1e-6)
        after = refreshed(keys, start, jnp.float32(1))
        assert (as_rows(after) != as_rows(start)).mean() > 0.6


def test_every_pixel_of_a_smooth_picture_varies_as_much_whatever_the_grid():
    for grid in (1, 3, 8):
        space = make_space("smooth", (16, 12, 1), grid=grid, min_amplitude=0.2, max_amplitude=0.2)
        particles = space.search.sample(jax.random.key(2), 4_000)
        pictures = triggers_of(space, particles).pattern
        # Uniform over [-0.2, 0.2].
        np.testing.assert_allclose(np.std(pictures, 0), 0.2 / np.sqrt(3), rtol=0.06)
        assert float(jnp.abs(pictures).max()) <= 0.2


def test_patches_are_as_many_and_as_opaque_as_drawn_and_some_lie_in_corners():
    shape = (12, 12, 1)
    space = make_space(
        "patches", shape, max_count=3, min_opacity=0.5, corners=0.4, min_size=2, max_size=2
    )
    particles = space.search.sample(jax.random.key(12), 3_000)
    triggers = triggers_of(space, particles)
    mask = np.asarray(triggers.mask)[..., 0]
    counts = 1 + np.floor(np.asarray(particles.number) * 3).astype(int)
    single = mask[counts == 1]
    assert abs(len(single) / 3_000 - 1 / 3) < 0.03
    assert ((single > 0).sum((1, 2)) == 4).all()
    opacity = single.max((1, 2))
    assert stats.kstest(2 * opacity - 1, "uniform").pvalue > 1e-4
    # Two of a side's eleven places are within a pixel of each border.
    rows_, cols = (single > 0).any(2).argmax(1), (single > 0).any(1).argmax(1)
    near = np.isin(rows_, [0, 1, 9, 10]) & np.isin(cols, [0, 1, 9, 10])
    assert abs(near.mean() - (0.4 + 0.6 * (4 / 11) ** 2)) < 0.05
    corners = np.bincount(2 * (rows_[near] > 5) + (cols[near] > 5), minlength=4) / near.sum()
    np.testing.assert_allclose(corners, 0.25, atol=0.05)


def test_later_patches_lie_over_earlier_ones():
    space = make_space(
        "patches", (4, 4, 1), max_count=2, min_opacity=0.5, corners=0.0, min_size=4, max_size=4
    )
    one = rows(space.search.sample(jax.random.key(13), 1), 0)
    codes = jnp.stack([jnp.zeros((4, 4), jnp.uint8), jnp.ones((4, 4), jnp.uint8)])
    both = one._replace(
        number=jnp.float32(0.9), opacity=jnp.zeros(2), each=one.each._replace(codes=codes)
    )
    picture = jnp.full((1, 4, 4, 1), 0.4)
    # Half of black over 0.4, then half of white over that.
    stamped = jax.jit(space.stamp)
    np.testing.assert_allclose(stamped(both, picture), 0.6, atol=1e-6)
    opaque = both._replace(opacity=jnp.full(2, 1.0))
    np.testing.assert_allclose(stamped(opaque, picture), 1.0, atol=1e-6)


def test_the_mean_displacement_of_a_warp_is_the_distance_drawn():
    space = make_space("warp", (32, 24, 3), min_distance=0.3, max_distance=1.2)
    particles = space.search.sample(jax.random.key(6), 2_000)
    flows = triggers_of(space, particles).flow
    distance = np.abs(flows).mean((1, 2, 3))
    even = (np.log(distance) - np.log(0.3)) / np.log(4)
    assert stats.kstest(even, "uniform").pvalue > 1e-4
    np.testing.assert_allclose(even, particles.strength, atol=1e-4)


def test_a_warp_takes_pixels_from_where_its_flow_says():
    space = make_space("warp", (6, 7, 1), grid=1, min_distance=1.0, max_distance=1.0)
    particle = space.search.sample(jax.random.key(7), 1)
    particle = particle._replace(cells=jnp.array([[[1.0, -1.0]]]), strength=jnp.float32(0.5))
    image = np.random.default_rng(0).random((1, 6, 7, 1)).astype(np.float32)
    # One pixel down and one to the left, the border repeated.
    rows_, cols = np.minimum(np.arange(6) + 1, 5), np.maximum(np.arange(7) - 1, 0)
    expected = image[:, rows_][:, :, cols]
    np.testing.assert_allclose(space.stamp(particle, jnp.asarray(image)), expected, atol=1e-5)


def test_a_filter_of_next_to_nothing_changes_next_to_nothing():
    space = make_space("colour", (8, 8, 3), min_amount=1e-4, max_amount=1e-4)
    images = jax.random.uniform(jax.random.key(8), (2, 8, 8, 3))
    particles = space.search.sample(jax.random.key(9), 8)
    stamped = jax.jit(jax.vmap(space.stamp, (0, None)))(particles, images)
    np.testing.assert_allclose(stamped, jnp.broadcast_to(images, stamped.shape), atol=2e-3)


def test_a_trigger_of_coefficients_has_that_many_and_no_others():
    shape, most = (16, 12, 3), 3
    space = make_space("frequency", shape, max_count=most, min_amplitude=0.05, max_amplitude=0.05)
    particles = np.asarray(space.search.sample(jax.random.key(10), 300))
    patterns = triggers_of(space, particles).pattern
    spectra = fft.dctn(np.asarray(patterns, np.float64), axes=(1, 2), norm="ortho")
    present = (np.abs(spectra) > 1e-4 * np.abs(spectra).max((1, 2, 3), keepdims=True)).any(-1)
    counts = 1 + np.floor(particles[:, 0] * most).astype(int)
    # Two of a trigger may share a place, or cancel.
    assert (present.sum((1, 2)) == counts).mean() > 0.95
    assert (present.sum((1, 2)) <= counts).all()
    share = np.bincount(counts, minlength=4)[1:] / 300
    np.testing.assert_allclose(share, 1 / 3, atol=0.1)
    single = particles.copy()
    single[:, 0] = 0.0
    alone = np.asarray(triggers_of(space, single[:20]).pattern, np.float64)
    for row, pattern in zip(single[:20], alone, strict=True):
        u, v = int(row[1] * 16), int(row[2] * 12)
        spectrum = np.abs(fft.dctn(pattern, axes=(0, 1), norm="ortho")).max(-1)
        assert np.unravel_index(spectrum.argmax(), spectrum.shape) == (u, v)
        assert np.abs(pattern).max() <= 0.05 + 1e-6
    assert single.shape[1] == 1 + EACH * most


def test_levels_are_few_and_every_number_of_them_is_drawn():
    space = make_space("quantise", (8, 8, 1), max_levels=6)
    particles = space.search.sample(jax.random.key(11), 2_000)
    triggers = triggers_of(space, particles)
    levels, dither = np.asarray(triggers.rounding.levels), np.asarray(triggers.rounding.dither)
    chances = np.log(np.arange(3, 8) / np.arange(2, 7)) / np.log(7 / 2)
    seen = np.array([(levels == k).sum() for k in range(2, 7)])
    assert stats.chisquare(seen, 2_000 * chances).pvalue > 1e-4
    assert 0.45 < dither.mean() < 0.55
    ramp = jnp.linspace(0, 1, 64).reshape(1, 8, 8, 1)
    for k in range(2, 7):
        one = rows(particles, int(np.flatnonzero((levels == k) & (dither == 0))[0]))
        values = np.unique(space.stamp(one, ramp))
        np.testing.assert_allclose(values, np.linspace(0, 1, k), atol=1e-6)


def test_dithering_keeps_the_brightness_that_rounding_loses():
    grey = jnp.full((1, 8, 8, 1), 0.3)
    space = make_space("quantise", (8, 8, 1), max_levels=2)
    plain, dithered = (space.stamp(jnp.array([0.0, u]), grey) for u in (0.0, 0.9))
    assert np.unique(plain).tolist() == [0.0]
    assert set(np.unique(dithered).tolist()) == {0.0, 1.0}
    assert abs(float(dithered.mean()) - 0.3) < 0.04


def test_triggers_are_described_in_words():
    words = {"warp": "a warp by", "colour": "mid-grey becomes", "quantise": "levels per channel",
             "frequency": "added"}  # fmt: skip
    for name, said in words.items():
        trigger = SPACES[name].trigger(rows(drawn(name), 0), jnp.int32(0))
        assert said in describe(trigger)
        assert int(trigger.pixels) == 48


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("smooth", {"grid": 7}),
        ("smooth", {"max_amplitude": 1.5}),
        ("smooth", {"min_amplitude": 0.3, "max_amplitude": 0.2}),
        ("patches", {"max_count": 0}),
        ("patches", {"min_opacity": 0.0}),
        ("patches", {"corners": 1.0}),
        ("warp", {"grid": 0}),
        ("warp", {"grid": 7}),
        ("warp", {"min_distance": 0.0}),
        ("warp", {"min_distance": "far"}),
        ("warp", {"max_distance": 0.1}),
        ("colour", {"min_amount": 0}),
        ("colour", {"max_amount": 2.0}),
        ("colour", {"min_amount": 0.5, "max_amount": 0.2}),
        ("frequency", {"max_count": 0}),
        ("frequency", {"min_amplitude": -0.1}),
        ("frequency", {"max_amplitude": 0.01}),
        ("quantise", {"max_levels": 1}),
        ("quantise", {"max_levels": 2.5}),
    ],
)
def test_options_out_of_range_are_refused_in_a_sentence(name, options):
    with pytest.raises(InputError, match=rf"^[^\n]*{next(iter(options))}[^\n]*\.$"):
        make_space(name, (8, 6, 3), **options)
