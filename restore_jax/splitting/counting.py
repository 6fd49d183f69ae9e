"""Exact counts beyond 32 bits, on devices that only have 32-bit integers.

A count is uint32[..., 2]: the high and the low half of a 64-bit number.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from restore_jax.splitting.types import Array

MAX_COUNT = 2**64 - 1


def halves(number: int) -> Array:
    """The count uint32[2] of a Python integer in [0, 2^64)."""
    if not 0 <= number <= MAX_COUNT:
        raise ValueError(f"number must be in [0, 2^64), got {number!r}.")
    return jnp.array([number >> 32, number & 0xFFFFFFFF], jnp.uint32)


def add(counted: Array, more: Array) -> Array:
    """``counted`` uint32[..., 2] plus ``more`` uint32[...], exactly."""
    low = counted[..., 1] + more.astype(jnp.uint32)
    carry = (low < counted[..., 1]).astype(jnp.uint32)
    return jnp.stack([counted[..., 0] + carry, low], axis=-1)


def less(counted: Array, by: Array) -> tuple[Array, Array]:
    """``counted`` minus ``by``, both uint32[2], exactly, and bool[]: whether it is that much."""
    low = counted[1] - by[1]
    borrow = (counted[1] < by[1]).astype(jnp.uint32)
    return jnp.stack([counted[0] - by[0] - borrow, low]), at_most(by, counted)


def at_most(counted: Array, limit: Array) -> Array:
    """bool[...]: whether ``counted`` <= ``limit``, both uint32[..., 2]."""
    high, low = counted[..., 0], counted[..., 1]
    return (high < limit[..., 0]) | ((high == limit[..., 0]) & (low <= limit[..., 1]))


def count(counted: object) -> Any:
    """Reads an exact count on the host.

    Args:
      counted: uint32[..., 2], or anything with such a ``num_queries``: a
        `SplittingResult`, a `SplittingState` or a `LevelInfo`, vmapped or not.

    Returns:
      An int for a single count, else uint64[...] (a NumPy array).

    >>> count(jnp.array([1, 5], jnp.uint32))
    4294967301
    """
    pair = np.asarray(getattr(counted, "num_queries", counted))
    if pair.ndim < 1 or pair.shape[-1] != 2 or pair.dtype != np.uint32:
        raise ValueError(
            f"counted must be uint32[..., 2] or have such a num_queries, "
            f"got {pair.dtype}{list(pair.shape)}."
        )
    total = (pair[..., 0].astype(np.uint64) << np.uint64(32)) | pair[..., 1].astype(np.uint64)
    return int(total) if total.ndim == 0 else total
