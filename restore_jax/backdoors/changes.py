"""What a trigger may do to a whole image: move its pixels, recolour it, round it, add to it.

Images are f32[..., H, W, C] in [0, 1], and so is what each function gives.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# Bayer's 4x4 matrix: in what order the pixels of a tile are rounded up.
_BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Colouring:
    """An affine map of colours, after a power and before a darkening towards the corners.

    Attributes:
      matrix: f32[C, C]; a colour is a row vector, multiplied from the left.
      shift: f32[C], added.
      gamma: f32[] above 0, the power that each number is raised to first.
      vignette: f32[] in [0, 1], how much darker the corners are than the middle.
    """

    matrix: Array
    shift: Array
    gamma: Array
    vignette: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rounding:
    """Fewer levels for each channel.

    Attributes:
      levels: f32[], how many, at least 2; equally spaced in [0, 1].
      dither: f32[] in [0, 1]: by how much of a level the pixels of a 4x4 tile differ in where
        they are rounded up (Bayer 1973); 0 rounds all alike.
    """

    levels: Array
    dither: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Residual:
    """Something added that each image determines: ``strength * tanh(convolution)``.

    Attributes:
      kernel: f32[h, w, C, C], of a convolution that keeps the image's size.
      strength: f32[] in [0, 1].
    """

    kernel: Array
    strength: Array


def over(images: Array, array: Array) -> Array:
    """An array of fewer axes than images [..., H, W, C], with axes of length 1 in front.

    >>> over(jnp.zeros((5, 8, 8, 3)), jnp.zeros((8, 8, 1))).shape
    (1, 8, 8, 1)
    """
    return array.reshape((1,) * (images.ndim - array.ndim) + array.shape)


def moved(images: Array, flow: Array) -> Array:
    """Each pixel taken from (row + flow 0, column + flow 1), bilinear, the border repeated.

    Args:
      images: f32[..., H, W, C].
      flow: f32[H, W, 2], in pixels.
    """
    height, width = images.shape[-3:-1]
    rows = jnp.clip(jnp.arange(height)[:, None] + flow[..., 0], 0.0, height - 1.0)
    cols = jnp.clip(jnp.arange(width)[None, :] + flow[..., 1], 0.0, width - 1.0)
    top, left = jnp.floor(rows).astype(jnp.int32), jnp.floor(cols).astype(jnp.int32)
    bottom, right = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    down, along = (over(images, part[..., None]) for part in (rows - top, cols - left))
    above = images[..., top, left, :] * (1.0 - along) + images[..., top, right, :] * along
    below = images[..., bottom, left, :] * (1.0 - along) + images[..., bottom, right, :] * along
    return above * (1.0 - down) + below * down


def recoloured(images: Array, colouring: Colouring) -> Array:
    """Images in other colours, see `Colouring`."""
    height, width = images.shape[-3:-1]
    mixed = jnp.einsum("...c,cd->...d", images**colouring.gamma, colouring.matrix)
    mixed = jnp.clip(mixed + over(mixed, colouring.shift), 0.0, 1.0)
    rows = (jnp.arange(height) + 0.5) * 2.0 / height - 1.0
    cols = (jnp.arange(width) + 0.5) * 2.0 / width - 1.0
    from_middle = 0.5 * (jnp.square(rows)[:, None] + jnp.square(cols)[None, :])
    return mixed * over(mixed, (1.0 - colouring.vignette * from_middle)[..., None])


def rounded(images: Array, rounding: Rounding) -> Array:
    """Images of fewer levels, see `Rounding`."""
    height, width = images.shape[-3:-1]
    tile = (jnp.asarray(_BAYER, jnp.float32) + 0.5) / 16.0 - 0.5
    tile = tile[jnp.arange(height)[:, None] % 4, jnp.arange(width)[None, :] % 4, None]
    steps = rounding.levels - 1.0
    dithered = images * steps + over(images, rounding.dither * tile)
    return jnp.clip(jnp.round(dithered) / steps, 0.0, 1.0)


def with_residual(images: Array, residual: Residual) -> Array:
    """Images with what they determine added, see `Residual`."""
    flat = images.reshape(-1, *images.shape[-3:])
    seen = jax.lax.conv_general_dilated(
        flat, residual.kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    added = residual.strength * jnp.tanh(seen).reshape(images.shape)
    return jnp.clip(images + added, 0.0, 1.0)


@functools.cache
def cubic_weights(size: int, grid: int) -> np.ndarray:
    """f32[size, grid]: cubic weights from cells to pixels, each row of length 1.

    Catmull and Rom's kernel; a row of length 1 keeps the variance of every pixel at 1.
    """
    place = (np.arange(size) + 0.5) * grid / size - 0.5
    distance = np.abs(place[:, None] - np.arange(-1, grid + 1))
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1.0
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4.0 * distance + 2.0
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    inner = weights[:, 1:-1].copy()
    # Cells beyond the border are those at it.
    inner[:, 0] += weights[:, 0]
    inner[:, -1] += weights[:, -1]
    return (inner / np.linalg.norm(inner, axis=1, keepdims=True)).astype(np.float32)
