"""Particles made of normal numbers and a strength: the prior and the moves that three spaces share.

Prior: the numbers are independent and standard normal; the strength is uniform over [0, 1), and
says where the logarithm of an amount lies between those of the least and the most (`amount`).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors.changes import cubic_weights
from restore_jax.errors import InputError
from restore_jax.spaces.gaussian import pcn
from restore_jax.spaces.types import is_whole
from restore_jax.splitting.types import Proposal

Array = jax.Array
WEIGHTS = {"walk": 3.0, "some": 2.0, "strengthen": 1.0, "fresh": 0.25}
"""How often the kernel tries each move, relative to the others."""


class Field(NamedTuple):
    """One particle.

    Attributes:
      cells: f32, of the space's shape, standard normal.
      strength: f32[] in [0, 1), where the amount's logarithm lies in its range.
    """

    cells: Array
    strength: Array


def draw(key: Array, shape: tuple[int, ...]) -> Field:
    """One particle from the prior, with cells of a shape."""
    key_cells, key_strength = jax.random.split(key)
    return Field(
        jax.random.normal(key_cells, shape, jnp.float32),
        jax.random.uniform(key_strength, (), jnp.float32),
    )


def refresh(key: Array, particle: Field, rate: Array) -> Field:
    """`pcn` of the cells with s = ``rate``; with probability ``rate`` another strength."""
    key_cells, key_which, key_strength = jax.random.split(key, 3)
    fresh = draw(key_strength, particle.cells.shape).strength
    which = jax.random.bernoulli(key_which, rate)
    return Field(pcn(key_cells, particle.cells, rate), jnp.where(which, fresh, particle.strength))


def proposals(shape: tuple[int, ...], together: int = 0) -> dict[str, Proposal]:
    """The moves, by name.

    - ``walk``: `pcn` of all cells with s = ``strength``.
    - ``some``: the same of about a quarter of the cells.
    - ``strengthen``: the strength moves by up to half of the move's own ``strength``, and is
      reflected at the ends.
    - ``fresh``: a new draw from the prior.

    Args:
      shape: of the cells.
      together: how many of the last axes are chosen as one by ``some``.
    """
    chosen = shape[: len(shape) - together] + (1,) * together

    def walk(key: Array, particle: Field, strength: Array) -> tuple[Field, Array]:
        return particle._replace(cells=pcn(key, particle.cells, strength)), jnp.float32(0)

    def some(key: Array, particle: Field, strength: Array) -> tuple[Field, Array]:
        key_which, key_noise = jax.random.split(key)
        which = jax.random.bernoulli(key_which, 0.25, chosen)
        moved = pcn(key_noise, particle.cells, strength)
        return particle._replace(cells=jnp.where(which, moved, particle.cells)), jnp.float32(0)

    def strengthen(key: Array, particle: Field, strength: Array) -> tuple[Field, Array]:
        moved = particle.strength + strength * (jax.random.uniform(key, (), jnp.float32) - 0.5)
        moved = jnp.abs(moved)
        moved = jnp.where(moved >= 1.0, 2.0 - moved, moved)
        # Exactly 1 is no draw of the prior's.
        moved = jnp.minimum(moved, 1.0 - 2.0**-23)
        return particle._replace(strength=moved), jnp.float32(0)

    def fresh(key: Array, particle: Field, strength: Array) -> tuple[Field, Array]:
        del particle, strength
        return draw(key, shape), jnp.float32(0)

    return {"walk": walk, "some": some, "strengthen": strengthen, "fresh": fresh}


def amount(strength: Array, least: float, most: float) -> Array:
    """f32[]: the amount that a strength stands for, its logarithm uniform."""
    low, high = math.log(least), math.log(most)
    return jnp.exp(low + (high - low) * strength)


def on_image(cells: Array, image_shape: tuple[int, int, int]) -> Array:
    """f32[H, W, k]: cells f32[grid, grid, k] interpolated; every pixel has variance 1."""
    rows = jnp.asarray(cubic_weights(image_shape[0], cells.shape[0]))
    cols = jnp.asarray(cubic_weights(image_shape[1], cells.shape[1]))
    return jnp.einsum("ir,rsc,js->ijc", rows, cells, cols)


def checked_grid(grid: object, image_shape: tuple[int, int, int], usual: int) -> int:
    """Cells along each side; None: the usual number, or as many as fit.

    Raises:
      InputError: it is no whole number, or more than fit.
    """
    most = min(image_shape[:2])
    if grid is None:
        return min(usual, most)
    if not isinstance(grid, (int, np.integer)) or not is_whole(grid) or not 1 <= grid <= most:
        raise InputError(
            f"grid is {grid!r}; it must be a whole number in 1 .. {most}, the image's smaller side."
        )
    return int(grid)
