"""The windows of an image that stand out from what surrounds them, and what would be there."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
CLOSE = 0.8
"""A window more is painted over where it stands out this much, as a share of the first."""


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def stand_out(
    images: Array, side: int, number: int, more: int = 0, close: float = CLOSE
) -> tuple[Array, Array]:
    """The windows that stand out most, and the images with them painted over.

    A window's pixels are predicted from the ring around it, along their row and along their
    column; it stands out by the smaller error of the two, so that an edge that goes through
    does not count.

    Args:
      images: f32[b, H, W, C].
      side: of a window, in pixels, at most min(H, W).
      number: how many windows, which do not overlap while there is room.
      more: windows that come in addition, if they stand out nearly as much as the first.
      close: how much that is, as a share of it.

    Returns:
      ``(covers bool[b, H, W, 1], filled f32[b, H, W, C])``: what the windows cover, and the
      images with the mean of both predictions there.

    >>> images = jnp.full((1, 8, 8, 3), 0.5).at[:, 2:4, 3:5].set(1.0)
    >>> covers, filled = stand_out(images, side=2, number=1)
    >>> int(covers.sum()), float(filled.max())
    (4, 0.5)
    """
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    places = height - side + 1, width - side + 1

    by_channel = jnp.moveaxis(padded, -1, 0)  # neighbours then lie together in memory

    def at(row: int, col: int) -> Array:
        return by_channel[..., row : row + places[0], col : col + places[1]]

    error = jnp.zeros((images.shape[0], *places))
    for i in range(side):
        for j in range(side):
            left, right, top, bottom = (
                at(1 + i, 0), at(1 + i, 1 + side), at(0, 1 + j), at(1 + side, 1 + j)
            )  # fmt: skip
            along_row = left + (j + 1) / (side + 1) * (right - left)
            along_col = top + (i + 1) / (side + 1) * (bottom - top)
            pixel = at(1 + i, 1 + j)
            errors = [sum(jnp.abs(pixel - guess)) for guess in (along_row, along_col)]
            error = error + jnp.minimum(*errors)
    far = (jnp.arange(side) + 1.0)[:, None] / (side + 1)

    def one_image(image: Array, padded: Array, error: Array) -> tuple[Array, Array]:
        def fill(row: Array, col: Array) -> Array:
            """f32[side, side, C]: what its ring predicts in a window."""
            around = lax.dynamic_slice(padded, (row, col, 0), (side + 2, side + 2, image.shape[-1]))
            left, right = around[1:-1, :1], around[1:-1, -1:]
            top, bottom = around[:1, 1:-1], around[-1:, 1:-1]
            along_row = left + far[None] * (right - left)
            along_col = top + far[:, None] * (bottom - top)
            return 0.5 * (along_row + along_col)

        least = close * jnp.max(error)

        def next_window(
            index: Array, carry: tuple[Array, Array, Array]
        ) -> tuple[Array, Array, Array]:
            error, covers, filled = carry
            flat = jnp.argmax(error)
            row, col = flat // places[1], flat % places[1]
            counts = (index < number) | (error[row, col] >= least)
            near = (jnp.abs(jnp.arange(places[0]) - row) < side)[:, None] & (
                jnp.abs(jnp.arange(places[1]) - col) < side
            )
            block = jnp.ones((side, side, 1), bool)
            with_it = (
                lax.dynamic_update_slice(covers, block, (row, col, 0)),
                lax.dynamic_update_slice(filled, fill(row, col), (row, col, 0)),
            )
            return (
                jnp.where(near, -1.0, error),
                jnp.where(counts, with_it[0], covers),
                jnp.where(counts, with_it[1], filled),
            )

        start = (error, jnp.zeros((height, width, 1), bool), image)
        return lax.fori_loop(0, number + more, next_window, start)[1:]

    return jax.vmap(one_image)(images, padded, error)
