"""Shapes: a small labelled data set that the package draws itself.

One shape per image, of one of ten kinds, in a random colour, size, position and
slight rotation, on a shaded background, under noise. Brightness may differ either
way, so that neither a pixel nor a colour gives a class away.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.data.dead_leaves import check_image_shape
from restore_jax.data.errors import DataError
from restore_jax.errors import InputError

Array = jax.Array

CLASS_NAMES = (
    "disc",
    "square",
    "triangle",
    "ring",
    "cross",
    "rows",
    "columns",
    "checkerboard",
    "diamond",
    "star",
)
IMAGE_SHAPE = (32, 32, 3)
SPLIT_SIZES = {"train": 10_000, "test": 2_000}

# Blue to orange and green to magenta: shifts of colour that keep the brightness.
_CHROMA = np.array([[0.7, 0.0, -1.0], [0.6, -0.4, 0.8]], np.float32)


# The unit normals of the five lines that a pentagram consists of, one tip upwards.
_PENTAGRAM = [(math.sin(a), math.cos(a)) for a in 2.0 * np.pi / 5.0 * np.arange(5)]


def _bars(z: Array) -> Array:
    """How far z lies outside bars centred at the multiples of 0.68, 0.34 wide."""
    z = z / 0.68 + 0.5
    return 0.68 * jnp.abs(z - jnp.floor(z) - 0.5) - 0.17


def _distances(x: Array, y: Array) -> list[Array]:
    """How far each point lies outside each shape of radius 1; negative inside."""
    ax, ay = jnp.abs(x), jnp.abs(y)
    radius = jnp.sqrt(x * x + y * y)
    square = jnp.maximum(ax, ay) - 0.85
    # Four cells a side; held inside, lest the soft edge show a sliver of a fifth.
    cell_x, cell_y = (jnp.floor(jnp.clip(z / 0.425, -2.0, 1.99)) for z in (x, y))
    odd = (cell_x + cell_y) - 2.0 * jnp.floor(0.5 * (cell_x + cell_y))
    # A pentagram is what lies inside at least four of its five lines.
    largest = second = jnp.full_like(x, -np.inf)
    for across, along in _PENTAGRAM:
        line = across * x + along * y - 0.32
        second = jnp.maximum(second, jnp.minimum(largest, line))
        largest = jnp.maximum(largest, line)
    return [
        radius - 0.95,
        square,
        jnp.maximum(0.866 * ax - 0.5 * y, y) - 0.6,
        jnp.abs(radius - 0.72) - 0.23,
        jnp.maximum(jnp.minimum(ax, ay) - 0.28, jnp.maximum(ax, ay) - 0.95),
        jnp.maximum(_bars(y), square),
        jnp.maximum(_bars(x), square),
        jnp.maximum(0.5 * odd - 0.25, square),
        ax + ay - 1.1,
        second,
    ]


def _draw_one(key: Array, label: Array, image_shape: tuple[int, int, int]) -> Array:
    height, width, channels = image_shape
    count = 12 + height * width * channels
    u = jax.random.uniform(key, (count,), jnp.float32)
    side = min(height, width)

    radius = side * (0.23 + 0.17 * u[0])
    # The shape stays inside the image but for the tips of a few.
    row = radius + (height - 2.0 * radius) * u[1]
    column = radius + (width - 2.0 * radius) * u[2]
    rows = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5 - row
    columns = jnp.arange(width, dtype=jnp.float32)[None, :] + 0.5 - column
    # At most 11 degrees: rows stay rows, and a square does not become a diamond.
    tangent = 0.4 * (u[3] - 0.5)
    scale = jax.lax.rsqrt(1.0 + tangent * tangent) / radius
    x = scale * (columns + tangent * rows)
    y = scale * (rows - tangent * columns)
    which = jnp.broadcast_to(label, (height, width))
    distance = radius * jax.lax.select_n(which, *_distances(x, y))
    cover = jnp.clip(0.5 - distance, 0.0, 1.0)[..., None]

    ground = 0.15 + 0.7 * u[4]
    step = 0.2 + 0.3 * u[5]
    figure = ground + jnp.where(ground < 0.5, step, -step)
    tints = 0.3 * (u[6:10] - 0.5)
    ground_colour = jnp.full((channels,), ground)
    figure_colour = jnp.full((channels,), figure)
    if channels == 3:
        ground_colour += tints[0] * _CHROMA[0] + tints[1] * _CHROMA[1]
        figure_colour += tints[2] * _CHROMA[0] + tints[3] * _CHROMA[1]
    shading = 0.3 / side * (u[10] - 0.5) * rows[..., None]
    # Uniform noise with a standard deviation of 0.02 to 0.08.
    noise = math.sqrt(12.0) * (0.02 + 0.06 * u[11]) * (u[12:].reshape(image_shape) - 0.5)
    ground_colour, figure_colour = ground_colour[None, None], figure_colour[None, None]
    image = ground_colour + cover * (figure_colour - ground_colour) + shading + noise
    return jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0) / 255.0


@partial(jax.jit, static_argnums=(1, 2))
def _draw(
    key: Array, n: int, image_shape: tuple[int, int, int], start: Array
) -> tuple[Array, Array]:
    index = start + jnp.arange(n, dtype=jnp.uint32)
    labels = (index % len(CLASS_NAMES)).astype(jnp.int32)
    keys = jax.vmap(partial(jax.random.fold_in, key))(index)
    return jax.vmap(partial(_draw_one, image_shape=image_shape))(keys, labels), labels


def shapes(
    key: Array,
    n: int,
    image_shape: tuple[int, int, int] = IMAGE_SHAPE,
    start: int | Array = 0,
) -> tuple[Array, Array]:
    """Draws the images number start to start + n - 1 of the key's endless sequence.

    Image i is of class i modulo 10, so that classes are balanced; it depends on the
    key, on i and on the image shape, not on n or start. Pure; under `jax.jit`, n and
    image_shape are static.

    Args:
      key: a PRNG key, consumed.
      n: how many images; at least 0.
      image_shape: (H, W, C), C being 1 (grey) or 3 (RGB); below 20 pixels a side the
        shapes are hard to tell apart.
      start: the number of the first image, at least 0; may be traced.

    Returns:
      images f32[n, H, W, C] in [0, 1], every value a multiple of 1/255 as in a file,
      and labels int32[n], indices into `CLASS_NAMES`.

    Raises:
      InputError: n is negative, or image_shape is not (H, W, 1) or (H, W, 3).
    """
    check_image_shape(image_shape)
    if n < 0:
        raise InputError(f"n must be at least 0, not {n}.")
    return _draw(key, n, tuple(image_shape), jnp.asarray(start, jnp.uint32))


def load(split: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws a split of the data set: 10,000 images to train on, 2,000 to test on.

    Args:
      split: "train" or "test"; no image is in both.
      seed: another seed gives another data set of the same law.

    Returns:
      images uint8[n, 32, 32, 3] and labels int32[n], classes balanced, in NumPy.

    Raises:
      DataError: the split is unknown.
    """
    if split not in SPLIT_SIZES:
        raise DataError(f"split must be one of {', '.join(SPLIT_SIZES)}, not {split!r}.")
    key = jax.random.fold_in(jax.random.key(seed), list(SPLIT_SIZES).index(split))
    block = 500  # larger ones fall out of the cache and are slower
    images, labels = [], []
    for start in range(0, SPLIT_SIZES[split], block):
        drawn, classes = shapes(key, block, start=start)
        images.append(np.round(np.asarray(drawn) * 255.0).astype(np.uint8))
        labels.append(np.asarray(classes))
    return np.concatenate(images), np.concatenate(labels)
