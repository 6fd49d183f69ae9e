"""Dead leaves: images of occluding shapes whose statistics resemble photographs.

1. Draw leaves (ellipses, rectangles and triangles, rotated) whose radii r follow
   a density proportional to r^-3 between two bounds: the law that makes the
   image look alike at every scale.
2. Colour them from a palette of the image's own: brightness varies most, blue
   against orange less, green against magenta least, as in photographs.
3. Lay them over each other, each with a shading and a grain of its own.
4. Soften the edges, more in some images than in others, and round to 8 bits.

Steps 1 and 3 are the model of Lee, Mumford, Huang, "Occlusion models for natural
images" (IJCV 2001); that networks take such images for real ones is the finding
of Baradad et al., "Learning to see by looking at noise" (NeurIPS 2021). The
palette, the grain and the softness are this module's.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.errors import InputError

Array = jax.Array

_LEAVES = 160
_MIN_RADIUS = 1 / 32  # of the image's side; in the calmest images three times as much
_MAX_RADIUS = 0.6
_MARGIN = 0.15  # leaves whose centre lies this far outside still show at the border

# Relative to brightness, per standard deviation: blue to orange, green to magenta.
_CHROMA = np.array([[0.135, 0.015, -0.15], [0.04, -0.045, 0.04]], np.float32)

# How many uniform numbers a leaf takes, and an image beside its leaves and its noise.
_PER_LEAF = 16
_PER_IMAGE = 10


def _bell(first: Array, second: Array) -> Array:
    """A bell-shaped deviate of mean 0 and variance 1 from two uniforms."""
    return np.float32(np.sqrt(6.0)) * (first + second - 1.0)


def _colour(image: Array, leaf: Array | None, channels: int) -> Array:
    """f32[C]: the colour of a leaf, or, without one, the middle of the palette."""
    brightness = 0.47 + 0.1 * _bell(image[1], image[2])
    warm, pink = _bell(image[3], image[4]), _bell(image[5], image[6])
    if leaf is not None:
        brightness += (0.12 + 0.2 * image[7]) * _bell(leaf[0], leaf[1])
        warm += 1.5 * image[8] * _bell(leaf[2], leaf[3])
        pink += 1.5 * image[8] * _bell(leaf[4], leaf[5])
    tint = 1.0 + warm * _CHROMA[0] + pink * _CHROMA[1] if channels == 3 else np.ones(1, np.float32)
    return jnp.clip(brightness, 0.03, 1.0) * tint


def _distance(kind: Array, x: Array, y: Array, half: Array, inverse: Array) -> Array:
    """How far the points (x, y), in a leaf's own axes, lie outside its edge.

    In pixels, negative inside; exact only close to the edge, where it matters. kind
    is below 0.65 for an ellipse, below 0.9 for a rectangle, else it is a triangle.
    """
    a, b = half
    square = (x * inverse[0]) ** 2 + (y * inverse[1]) ** 2
    ellipse = 0.5 * (square - 1.0) * jnp.minimum(a, b)
    rectangle = jnp.maximum(jnp.abs(x) - a, jnp.abs(y) - b)
    triangle = jnp.maximum(0.866 * jnp.abs(x) + 0.5 * y - a, -y - b)
    return jnp.where(kind < 0.65, ellipse, jnp.where(kind < 0.9, rectangle, triangle))


def _draw_one(key: Array, image_shape: tuple[int, int, int]) -> Array:
    height, width, channels = image_shape
    area, count = height * width, _LEAVES * _PER_LEAF
    # What an image costs is mostly the compilation, which grows with every loop that
    # XLA has to write: so one call for all numbers, and every leaf is worked out
    # where it is laid, by operations that are cheap enough to be merged into one loop.
    uniforms = jax.random.uniform(key, (count + area + _PER_IMAGE,), jnp.float32)
    leaves = uniforms[:count].reshape(_LEAVES, _PER_LEAF)
    noise = uniforms[count : count + area].reshape(height, width) - 0.5
    image = uniforms[count + area :]
    rows = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5
    columns = jnp.arange(width, dtype=jnp.float32)[None, :] + 0.5

    def lay(canvas: Array, numbers: Array) -> tuple[Array, None]:
        u, image = numbers[:_PER_LEAF], numbers[_PER_LEAF:]
        # An image out of focus has soft edges and little grain.
        sharpness = 0.4 + 0.6 * image[9]
        smallest = _MIN_RADIUS * (1.0 + 2.0 * image[0])
        spread = 1.0 - (smallest / _MAX_RADIUS) ** 2
        radius = np.float32(np.sqrt(area)) * smallest * jax.lax.rsqrt(1.0 - spread * u[0])
        half = radius * (0.4 + 0.8 * u[1:3])
        inverse = 1.0 / half
        # Angles from -90 to 90 degrees by their Taylor series, good to half a per cent.
        t = np.float32(np.pi) * (u[3] - 0.5)
        cos = 1.0 - t * t * (1 / 2 - t * t * (1 / 24 - t * t / 720))
        sin = t * (1.0 - t * t * (1 / 6 - t * t * (1 / 120 - t * t / 5040)))
        row = rows - height * ((1.0 + 2.0 * _MARGIN) * u[4] - _MARGIN)
        column = columns - width * ((1.0 + 2.0 * _MARGIN) * u[5] - _MARGIN)
        x, y = cos * column + sin * row, cos * row - sin * column

        cover = jnp.clip(0.5 - sharpness * _distance(u[6], x, y, half, inverse), 0.0, 1.0)
        shading = 0.3 * ((u[7] - 0.5) * inverse[0] * x + (u[8] - 0.5) * inverse[1] * y)
        light = 1.0 + shading + 0.8 * u[9] ** 2 * sharpness * noise
        leaf = light[..., None] * _colour(image, u[10:16], channels)[None, None]
        return canvas + cover[..., None] * (leaf - canvas), None

    background = jnp.broadcast_to(_colour(image, None, channels), image_shape)
    # Each leaf brings the image's numbers along; else XLA hoists eight loops out of this.
    numbers = jnp.concatenate([leaves, jnp.broadcast_to(image, (_LEAVES, _PER_IMAGE))], -1)
    canvas, _ = jax.lax.scan(lay, background, numbers)
    return jnp.round(jnp.clip(canvas, 0.0, 1.0) * 255.0) / 255.0


@partial(jax.jit, static_argnums=(1, 2))
def _draw(key: Array, n: int, image_shape: tuple[int, int, int], start: Array) -> Array:
    keys = jax.vmap(partial(jax.random.fold_in, key))(start + jnp.arange(n, dtype=jnp.uint32))
    return jax.vmap(partial(_draw_one, image_shape=image_shape))(keys)


def dead_leaves(
    key: Array,
    n: int,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    start: int | Array = 0,
) -> Array:
    """Draws the images number start to start + n - 1 of the key's endless sequence.

    Image i depends on the key, on i and on the image shape, not on n or start.
    Pure; under `jax.jit`, n and image_shape are static.

    Args:
      key: a PRNG key, consumed.
      n: how many images; at least 0.
      image_shape: (H, W, C), C being 1 (grey) or 3 (RGB).
      start: the number of the first image, at least 0; may be traced.

    Returns:
      f32[n, H, W, C] in [0, 1], every value a multiple of 1/255 as in a file.

    Raises:
      InputError: n is negative, or image_shape is not (H, W, 1) or (H, W, 3).
    """
    check_image_shape(image_shape)
    if n < 0:
        raise InputError(f"n must be at least 0, not {n}.")
    return _draw(key, n, tuple(image_shape), jnp.asarray(start, jnp.uint32))


def check_image_shape(image_shape: tuple[int, ...]) -> None:
    """Raises a InputError unless image_shape is (H, W, 1) or (H, W, 3), H, W >= 1."""
    shape = tuple(image_shape)
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in (1, 3):
        raise InputError(f"image_shape must be (H, W, 1) or (H, W, 3), not {shape}.")
