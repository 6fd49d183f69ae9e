"""Random draws that the spaces share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from restore_jax.splitting.keys import particle_keys

Array = jax.Array


def independent(draw: Callable[[Array], Any]) -> Callable[[Array, int], Any]:
    """Makes ``sample(key, n)`` of ``draw(key)``; draw i depends on the key and on i alone."""

    def sample(key: Array, n: int) -> Any:
        return jax.vmap(draw)(particle_keys(key, n))

    return sample


def integers(key: Array, shape: tuple[int, ...], low: Array | int, high: Array | int) -> Array:
    """int32 of the given shape, uniform over low .. high - 1, which broadcast against it.

    One block of random bits and a remainder, where `jax.random.randint` takes two blocks
    and a split: moves become faster and quicker to compile. No value's probability is off
    by more than a share of (high - low) / 2^32.
    """
    span = (jnp.asarray(high, jnp.int32) - low).astype(jnp.uint32)
    return low + (jax.random.bits(key, shape, jnp.uint32) % span).astype(jnp.int32)


def pick(key: Array, valid: Array) -> tuple[Array, Array]:
    """Picks one of the true entries of ``valid`` bool[k], each with the same probability.

    Returns:
      ``(index int32[], count int32[])``; the index means nothing if the count is 0.
    """
    running = jnp.cumsum(valid, dtype=jnp.int32)
    count = running[-1]
    rank = integers(key, (), 0, jnp.maximum(count, 1))
    return jnp.argmax(running > rank).astype(jnp.int32), count
