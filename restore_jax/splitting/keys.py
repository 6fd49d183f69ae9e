"""Where randomness comes from: one key, folded by purpose and level, move and particle.

Nothing is drawn from a key that is carried along, so a saved state continues with the
bits that the uninterrupted run would have used; and every particle has its own key by
its global index, so the bits do not depend on how particles are laid out over devices.
"""

from enum import IntEnum

import jax
import jax.numpy as jnp

from restore_jax.splitting.types import Array

IMPLEMENTATION = "threefry2x32"
"""The one key implementation the sampler uses.

It is named and not left to JAX's default: a state keeps its key as data, which must mean
the same in the process that reads it; and other implementations give different bits under
`jax.vmap`, so that a particle's draws would depend on its neighbours.
"""


class Stream(IntEnum):
    """One independent stream of keys per purpose.

    SAMPLING draws the first particles (level 0). RESAMPLING chooses a level's clones. MOVES,
    folded further by move and particle, is the kernel's. SCORING, folded further by move, is the
    scorer's: level 0 and move 0 for the first particles, a level's moves counted from 1.
    """

    SAMPLING = 0
    RESAMPLING = 1
    MOVES = 2
    SCORING = 3


def key_data(key: Array) -> Array:
    """The data uint32[2] of a run's key, after checking that it is one."""
    if not (isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(
            "key must be a typed key such as jax.random.key(0), "
            f"got {getattr(key, 'dtype', type(key).__name__)}."
        )
    if key.shape != ():
        raise ValueError(f"key must be a single key, got shape {key.shape}; use jax.vmap.")
    if str(jax.random.key_impl(key)) != IMPLEMENTATION:
        raise ValueError(
            f"key must be of implementation {IMPLEMENTATION!r}, got {jax.random.key_impl(key)!r}; "
            f"make one with jax.random.key(seed, impl={IMPLEMENTATION!r})."
        )
    return jax.random.key_data(key)


def level_key(data: Array, stream: Stream, level: Array | int) -> Array:
    """The key of one purpose at one level, of a run whose key has this ``data`` uint32[2]."""
    key = jax.random.wrap_key_data(jnp.asarray(data), impl=IMPLEMENTATION)
    # One number names the pair: each further fold costs compilation time.
    return jax.random.fold_in(key, len(Stream) * level + stream)


def particle_keys(key: Array, num_particles: int) -> Array:
    """``num_particles`` keys, one per particle: ``key`` folded by its global index.

    Key ``i`` depends on ``key`` and ``i`` alone. Search spaces sample with it.

    >>> particle_keys(jax.random.key(0), 3).shape
    (3,)
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_particles))
