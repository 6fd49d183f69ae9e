"""Smooth pictures: the moves keep the prior, also above a level, and forget where they began."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from restore_jax.backdoors import stamp
from restore_jax.errors import InputError
from restore_jax.spaces import make_space
from restore_jax.spaces.fields import Field

SHAPE = (8, 6, 2)
CHAINS, SWEEPS, STRENGTH = 4_000, 60, 0.6
SPACE = make_space("smooth", SHAPE, grid=2)


def event(particle):
    """Half of the prior's mass, on no axis of it."""
    return particle.cells.sum() + 4.0 * (particle.strength - 0.5) > 0.0


def chain(propose, restricted, key, particle):
    def step(particle, key):
        key_propose, key_accept = jax.random.split(key)
        proposal, log_ratio = propose(key_propose, particle, jnp.float32(STRENGTH))
        accepted = jnp.log1p(-jax.random.uniform(key_accept)) <= log_ratio
        accepted &= event(proposal) | ~restricted
        return jax.tree.map(
            lambda new, old: jnp.where(accepted, new, old), proposal, particle
        ), None

    return jax.lax.scan(step, particle, jax.random.split(key, SWEEPS))[0]


@functools.cache
def drawn():
    return SPACE.search.sample(jax.random.key(0), 3 * CHAINS)


def moved(propose, restricted, start):
    keys = jax.random.split(jax.random.key(1), CHAINS)
    run = jax.jit(jax.vmap(lambda key, one: chain(propose, restricted, key, one)))
    return run(keys, start)


def inside():
    """Draws of the prior in which the event happens."""
    everybody = drawn()
    rows = np.flatnonzero(jax.vmap(event)(everybody))[:CHAINS]
    return jax.tree.map(lambda leaf: leaf[rows], everybody)


def features(particles):
    cells = np.asarray(particles.cells).reshape(len(particles.strength), -1)
    return [*cells.T, np.asarray(particles.strength), cells[:, 0] * cells[:, 1]]


def same_law(some, others):
    return min(
        stats.ks_2samp(a, b).pvalue for a, b in zip(features(some), features(others), strict=True)
    )


@pytest.mark.parametrize("name", sorted(SPACE.proposals))
@pytest.mark.parametrize("restricted", [False, True])
def test_a_move_keeps_the_prior_also_above_a_level(name, restricted):
    move = SPACE.proposals[name]
    start = inside() if restricted else jax.tree.map(lambda leaf: leaf[:CHAINS], drawn())
    after = moved(move, restricted, start)
    assert bool(jnp.all((after.strength >= 0) & (after.strength < 1)))
    fresh = jax.tree.map(lambda leaf: leaf[CHAINS:], drawn()) if not restricted else inside()
    assert same_law(after, fresh) > 1e-4


def test_a_wrong_move_is_seen():
    def undamped(key, particle, strength):
        noise = strength * jax.random.normal(key, particle.cells.shape)
        return particle._replace(cells=particle.cells + noise), jnp.float32(0)

    start = jax.tree.map(lambda leaf: leaf[:CHAINS], drawn())
    assert same_law(moved(undamped, False, start), drawn()) < 1e-10


def test_particles_forget_where_they_began():
    moves = list(SPACE.proposals.values())

    def mixture(key, particle, strength):
        which, key = jax.random.split(key)
        index = jax.random.randint(which, (), 0, len(moves))
        return jax.lax.switch(index, moves, key, particle, strength)

    corner = Field(jnp.full((CHAINS, 2, 2, 2), 4.0), jnp.full(CHAINS, 0.999))
    assert same_law(moved(mixture, False, corner), drawn()) > 1e-4


def test_every_pixel_of_the_field_varies_as_much_whatever_the_grid():
    for grid in (1, 3, 8):
        space = make_space("smooth", (16, 12, 1), grid=grid, min_amplitude=0.2, max_amplitude=0.2)
        particles = space.search.sample(jax.random.key(2), 4_000)
        pictures = jax.vmap(lambda one, s=space: s.trigger(one, jnp.int32(0)).pattern)(particles)
        # Uniform over [-0.2, 0.2].
        np.testing.assert_allclose(np.std(pictures, 0), 0.2 / np.sqrt(3), rtol=0.06)
        assert float(jnp.abs(pictures).max()) <= 0.2


def test_a_stamp_is_what_its_trigger_does():
    images = jax.random.uniform(jax.random.key(3), (3, *SHAPE))
    particle = jax.tree.map(lambda leaf: leaf[5], drawn())
    trigger = SPACE.trigger(particle, jnp.int32(1))
    np.testing.assert_allclose(
        SPACE.stamp(particle, images), stamp(trigger, images), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    "options",
    [{"grid": 0}, {"grid": 7}, {"grid": 2.5}, {"min_amplitude": 0.0}, {"max_amplitude": 1.5},
     {"min_amplitude": 0.3, "max_amplitude": 0.2}, {"cells": 3}],
)  # fmt: skip
def test_options_out_of_range_are_refused_in_a_sentence(options):
    with pytest.raises(InputError, match=next(iter(options))):
        make_space("smooth", SHAPE, **options)
