"""Random draws that the spaces share.

Whatever a move of pixels draws, it makes of random bits. The moves of one space take theirs from
the same `bit_rows`, so that a compiled sweep, which computes every move and keeps one, draws once:
it compiles in four fifths of the time.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax

from restore_jax.splitting.keys import particle_keys
from restore_jax.splitting.types import DrawnProposal, Particle, Particles, Proposal

Array = jax.Array
Shape = tuple[int, ...]
_EXPONENT_OF_ONE = 0x3F800000


def independent(draw: Callable[[Array], Particle]) -> Callable[[Array, int], Particles]:
    """Makes ``sample(key, n)`` of ``draw(key)``; draw i depends on the key and on i alone."""

    def sample(key: Array, n: int) -> Particles:
        return jax.vmap(draw)(particle_keys(key, n))

    return sample


def drawn(
    draw: Callable[[Array], Array], moves: Mapping[str, Callable[..., tuple[Particle, Array]]]
) -> dict[str, Proposal]:
    """Makes proposals of moves ``(bits, particle, strength)`` that draw bits in the same way."""
    return {name: DrawnProposal(draw, move) for name, move in moves.items()}


def bit_rows(key: Array, number: int, length: int) -> Array:
    """Random bits, uint32[number, length]; each row is for one of the draws below.

    A row depends on the key and on its place alone, and begins in the same way whatever its
    length.
    """
    keys = jax.random.split(key, number)
    return jax.vmap(lambda key: jax.random.bits(key, (length,), jnp.uint32))(keys)


def integers(row: Array, shape: Shape, low: Array | int, high: Array | int) -> Array:
    """int32 of the given shape, uniform over low .. high - 1, which broadcast against it.

    The remainder of a block of random bits, where `jax.random.randint` takes two blocks
    and a split. No value's probability is off by more than a share of (high - low) / 2^32.
    """
    span = (jnp.asarray(high, jnp.int32) - low).astype(jnp.uint32)
    return low + (_first(row, shape) % span).astype(jnp.int32)


def uniform(row: Array, shape: Shape) -> Array:
    """f32 of the given shape, uniform over [0, 1): multiples of 2^-23."""
    mantissa = _first(row, shape) >> 9
    return lax.bitcast_convert_type(mantissa | jnp.uint32(_EXPONENT_OF_ONE), jnp.float32) - 1.0


def chance(row: Array, shape: Shape, probability: Array | float) -> Array:
    """bool of the given shape, each true with ``probability``."""
    return uniform(row, shape) < probability


def choose(row: Array, shape: Shape, log_weights: Array) -> Array:
    """int32 of the given shape, each i with weight exp(log_weights[i]); k numbers for each of k.

    The largest of k numbers from Gumbel laws around the log weights.
    """
    tiny = jnp.finfo(jnp.float32).tiny
    unit = jnp.maximum(uniform(row, (*shape, log_weights.shape[0])), tiny)
    log_weights = jnp.broadcast_to(log_weights, unit.shape)
    return jnp.argmax(log_weights - jnp.log(-jnp.log(unit)), -1).astype(jnp.int32)


def pick(row: Array, valid: Array) -> tuple[Array, Array]:
    """Picks one of the true entries of ``valid`` bool[k], each with the same probability.

    Returns:
      ``(index int32[], count int32[])``; the index means nothing if the count is 0.
    """
    running = jnp.cumsum(valid, dtype=jnp.int32)
    count = running[-1]
    rank = integers(row, (), 0, jnp.maximum(count, 1))
    return jnp.argmax(running > rank).astype(jnp.int32), count


def _first(row: Array, shape: Shape) -> Array:
    """The first numbers of a row, in some shape."""
    number = math.prod(shape)
    if number > row.shape[0]:
        raise ValueError(f"a row of {row.shape[0]} numbers has no {number} to give.")
    return row[:number].reshape(shape)
