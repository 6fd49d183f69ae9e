"""Sorting numbers, quickly on a CPU too."""

import jax.numpy as jnp
from jax import lax

from restore_jax.splitting.types import Array

_ALL_BUT_SIGN = 0x7FFFFFFF


def ascending(values: Array) -> Array:
    """Sorts f32[..., n] along the last axis.

    XLA compares floating-point numbers by a function that it calls for each pair, on a CPU, and
    integers without one, which takes an eighth of the time. Bits of float32 numbers, read as
    integers, are in the numbers' order, once those of negative numbers are turned round.

    Args:
      values: without NaN; infinities may be.

    >>> ascending(jnp.array([0.5, -jnp.inf, -2.0, jnp.inf, -1.0])).tolist()
    [-inf, -2.0, -1.0, 0.5, inf]
    """
    if values.dtype != jnp.float32:
        return jnp.sort(values)
    ordered = jnp.sort(_turned(lax.bitcast_convert_type(values, jnp.int32)))
    return lax.bitcast_convert_type(_turned(ordered), jnp.float32)


def _turned(bits: Array) -> Array:
    """Integers in the numbers' order for their bits, and back."""
    return jnp.where(bits < 0, bits ^ jnp.int32(_ALL_BUT_SIGN), bits)


def false_first(marks: Array) -> Array:
    """int32[n], the places of bool[n]: first of those that are False, each in their order.

    >>> false_first(jnp.array([True, False, True, False])).tolist()
    [1, 3, 0, 2]
    """
    places = jnp.arange(marks.shape[0], dtype=jnp.int32)
    number = jnp.sum(~marks, dtype=jnp.int32)
    true, false = (jnp.cumsum(some, dtype=jnp.int32) - 1 for some in (marks, ~marks))
    return jnp.zeros_like(places).at[jnp.where(marks, number + true, false)].set(places)
