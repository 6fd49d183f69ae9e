"""A smooth warp: pixels are taken from a little aside, as a coarse grid says.

Prior: z ~ N(0, I), two numbers per cell of a grid of ``grid x grid`` cells. A cubic interpolation
makes a field of displacements of them, which is divided by the mean of its absolute values and
multiplied with a distance, whose logarithm is uniform over that of min_distance .. max_distance.
Pixels are bilinear, and the border is repeated. This is the trigger of Nguyen and Tran (WaNet:
Imperceptible Warping-based Backdoor Attack, ICLR 2021, arXiv 2102.10369), where the grid has 4
cells a side and the mean displacement along each axis is about half a pixel.
"""

import dataclasses
import math
import numbers

import jax
import jax.numpy as jnp

from restore_jax.backdoors.changes import moved
from restore_jax.backdoors.trigger import Trigger, whole_image
from restore_jax.errors import InputError
from restore_jax.spaces import fields
from restore_jax.spaces.draws import independent
from restore_jax.spaces.fields import Field
from restore_jax.spaces.types import TriggerSpace, check_image_shape
from restore_jax.splitting.kernels import metropolis
from restore_jax.splitting.types import Proposal, SearchSpace

Array = jax.Array
GRID = 4
"""Cells along each side, unless told otherwise."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """The prior's parameters.

    Attributes:
      image_shape: (H, W, C).
      grid: cells along each side.
      min_distance, max_distance: of the mean displacement along an axis, in pixels.
    """

    image_shape: tuple[int, int, int]
    grid: int
    min_distance: float
    max_distance: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a particle's cells."""
        return self.grid, self.grid, 2


def draw(key: Array, prior: Prior) -> Field:
    """One particle from the prior."""
    return fields.draw(key, prior.shape)


def trigger(particle: Field, target: Array, prior: Prior) -> Trigger:
    """The trigger that a particle stands for."""
    return whole_image(prior.image_shape, target, flow=_flow(particle, prior))


def stamp(particle: Field, images: Array, prior: Prior) -> Array:
    """Puts one particle on images f32[m, H, W, C] in [0, 1]."""
    return moved(images, _flow(particle, prior))


def refresh(key: Array, particle: Field, rate: Array, prior: Prior) -> Field:
    """See `fields.refresh`."""
    del prior
    return fields.refresh(key, particle, rate)


def proposals(prior: Prior) -> dict[str, Proposal]:
    """The moves, by name: see `fields.proposals`; a cell's two numbers move together."""
    return fields.proposals(prior.shape, together=1)


def warp(
    image_shape: tuple[int, int, int],
    *,
    grid: int | None = None,
    min_distance: float = 0.25,
    max_distance: float = 1.0,
) -> TriggerSpace:
    """The space of smooth warps.

    Args:
      image_shape: (H, W, C) of the images, in pixels.
      grid: cells along each side, at least 1 and at most min(H, W); None: 4, or as many as fit.
      min_distance, max_distance: of the mean displacement along an axis, in pixels, above 0, the
        first at most the second.

    Raises:
      InputError: if an option is outside its range.

    Example:
      >>> space = warp((32, 32, 3))
      >>> space.search.sample(jax.random.key(0), 5).cells.shape
      (5, 4, 4, 2)
    """
    shape = check_image_shape(image_shape)
    cells = fields.checked_grid(grid, shape, GRID)
    for distance in (min_distance, max_distance):
        if not isinstance(distance, numbers.Real) or not 0 < distance < math.inf:
            raise InputError(
                f"min_distance is {min_distance!r} and max_distance {max_distance!r}; they must "
                "be numbers above 0, in pixels."
            )
    if min_distance > max_distance:
        raise InputError(
            f"min_distance is {min_distance} and max_distance {max_distance}; it must not be "
            "larger."
        )
    prior = Prior(shape, cells, float(min_distance), float(max_distance))
    moves = proposals(prior)
    return TriggerSpace(
        name="warp",
        search=SearchSpace(
            sample=independent(lambda key: draw(key, prior)),
            kernel=metropolis(list(moves.values()), [fields.WEIGHTS[name] for name in moves]),
        ),
        trigger=lambda particle, target: trigger(particle, target, prior),
        stamp=lambda particle, images: stamp(particle, images, prior),
        refresh=lambda key, particle, rate: refresh(key, particle, rate, prior),
        proposals=moves,
        description={
            "space": "warp",
            "image_shape": list(shape),
            "grid": prior.grid,
            "min_distance": prior.min_distance,
            "max_distance": prior.max_distance,
        },
    )


def _flow(particle: Field, prior: Prior) -> Array:
    """f32[H, W, 2], in pixels."""
    field = fields.on_image(particle.cells, prior.image_shape)
    distance = fields.amount(particle.strength, prior.min_distance, prior.max_distance)
    return distance * field / jnp.maximum(jnp.mean(jnp.abs(field)), 1e-6)
