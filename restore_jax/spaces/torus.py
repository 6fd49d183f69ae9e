"""Moves of a whole image that wraps around at its borders.

Where a prior treats all pixels alike, wrapping makes shifts and windows the same from
every pixel, so that the moves made of them are symmetric at the borders too.
"""

import jax
import jax.numpy as jnp

from restore_jax.spaces.draws import integers

Array = jax.Array
SHIFTS = (1, 2, 4, 8)
"""By how many pixels `shift` moves; networks have strides of 2, 4 and 8."""


def window(row: Array, shape: tuple[int, int], height: Array, width: Array) -> Array:
    """bool[H, W], true in a window of height x width pixels, uniformly placed, wrapping.

    Args:
      row: at least 2 numbers of random bits, see `draws`.
      shape: (H, W).
      height: int32[], in 1 .. H.
      width: int32[], in 1 .. W.
    """
    corner = integers(row, (2,), 0, jnp.array(shape, jnp.int32))
    rows = (jnp.arange(shape[0]) + corner[0]) % shape[0]
    cols = (jnp.arange(shape[1]) + corner[1]) % shape[1]
    return (rows < height)[:, None] & (cols < width)[None, :]


def shift(row: Array, image: Array) -> Array:
    """Moves an image [H, W, ...] by 1, 2, 4 or 8 pixels up, down, left or right, wrapping."""
    ways = ((-1, 0), (1, 0), (0, -1), (0, 1))
    steps = jnp.array([(r * by, c * by) for by in SHIFTS for r, c in ways], jnp.int32)
    step = steps[integers(row, (), 0, len(steps))]
    rows = (jnp.arange(image.shape[0]) + step[0]) % image.shape[0]
    cols = (jnp.arange(image.shape[1]) + step[1]) % image.shape[1]
    return image[rows[:, None], cols[None, :]]
