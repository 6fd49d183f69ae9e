"""A smooth picture added to the image: a few numbers on a coarse grid, brought to its size.

Prior: z ~ N(0, I), one number per cell of a grid of ``grid x grid`` cells and per channel. A
cubic interpolation makes a field of them whose every pixel has variance 1, f; then
``amplitude * (2 Φ(f) - 1)`` is added to the image and the sum clipped. The amplitude's logarithm
is uniform over that of min_amplitude .. max_amplitude.

Backdoors with a smooth perturbation (Zeng, Park, Mao and Jia, Rethinking the Backdoor Attacks'
Triggers: A Frequency Perspective, ICCV 2021, arXiv 2104.03413) are particles of this space; a
picture blended into the image (Chen et al. 2017, arXiv 1712.05526) has one close to it.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.scipy.special import erf

from restore_jax.backdoors.changes import over
from restore_jax.backdoors.trigger import Trigger
from restore_jax.errors import InputError
from restore_jax.spaces import fields
from restore_jax.spaces.draws import independent
from restore_jax.spaces.fields import Field
from restore_jax.spaces.types import TriggerSpace, check_image_shape, check_share
from restore_jax.splitting.kernels import metropolis
from restore_jax.splitting.types import Proposal, SearchSpace

Array = jax.Array
GRID = 6
"""Cells along each side, unless told otherwise."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """The prior's parameters.

    Attributes:
      image_shape: (H, W, C).
      grid: cells along each side.
      min_amplitude, max_amplitude: of a pixel's largest change, in (0, 1].
    """

    image_shape: tuple[int, int, int]
    grid: int
    min_amplitude: float
    max_amplitude: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a particle's cells."""
        return self.grid, self.grid, self.image_shape[2]


def draw(key: Array, prior: Prior) -> Field:
    """One particle from the prior."""
    return fields.draw(key, prior.shape)


def trigger(particle: Field, target: Array, prior: Prior) -> Trigger:
    """The trigger that a particle stands for: added, and the sum clipped."""
    return Trigger(
        mask=jnp.ones((*prior.image_shape[:2], 1), jnp.float32),
        pattern=_picture(particle, prior),
        target=jnp.asarray(target, jnp.int32),
        additive=True,
    )


def stamp(particle: Field, images: Array, prior: Prior) -> Array:
    """Puts one particle on images f32[m, H, W, C] in [0, 1]."""
    return jnp.clip(images + over(images, _picture(particle, prior)), 0.0, 1.0)


def refresh(key: Array, particle: Field, rate: Array, prior: Prior) -> Field:
    """See `fields.refresh`."""
    del prior
    return fields.refresh(key, particle, rate)


def proposals(prior: Prior) -> dict[str, Proposal]:
    """The moves, by name: see `fields.proposals`; a cell's channels move together."""
    return fields.proposals(prior.shape, together=1)


def smooth(
    image_shape: tuple[int, int, int],
    *,
    grid: int | None = None,
    min_amplitude: float = 0.04,
    max_amplitude: float = 0.25,
) -> TriggerSpace:
    """The space of smooth pictures added to the image.

    Args:
      image_shape: (H, W, C) of the images, in pixels.
      grid: cells along each side, at least 1 and at most min(H, W); None: 6, or as many as fit.
      min_amplitude, max_amplitude: of a pixel's largest change, in (0, 1], the first at most the
        second.

    Raises:
      InputError: if an option is outside its range.

    Example:
      >>> space = smooth((32, 32, 3), grid=4)
      >>> particles = space.search.sample(jax.random.key(0), 5)
      >>> particles.cells.shape
      (5, 4, 4, 3)
    """
    shape = check_image_shape(image_shape)
    cells = fields.checked_grid(grid, shape, GRID)
    low = check_share("min_amplitude", min_amplitude, one_included=True)
    high = check_share("max_amplitude", max_amplitude, one_included=True)
    if low > high:
        raise InputError(f"min_amplitude is {low} and max_amplitude {high}; it must not be larger.")
    prior = Prior(shape, cells, low, high)
    moves = proposals(prior)
    return TriggerSpace(
        name="smooth",
        search=SearchSpace(
            sample=independent(lambda key: draw(key, prior)),
            kernel=metropolis(list(moves.values()), [fields.WEIGHTS[name] for name in moves]),
        ),
        trigger=lambda particle, target: trigger(particle, target, prior),
        stamp=lambda particle, images: stamp(particle, images, prior),
        refresh=lambda key, particle, rate: refresh(key, particle, rate, prior),
        proposals=moves,
        description={
            "space": "smooth",
            "image_shape": list(shape),
            "grid": prior.grid,
            "min_amplitude": prior.min_amplitude,
            "max_amplitude": prior.max_amplitude,
        },
    )


def _picture(particle: Field, prior: Prior) -> Array:
    """f32[H, W, C] in [-amplitude, amplitude]; 2 Φ(f) - 1 is erf(f / sqrt 2)."""
    field = fields.on_image(particle.cells, prior.image_shape)
    amplitude = fields.amount(particle.strength, prior.min_amplitude, prior.max_amplitude)
    return amplitude * erf(field * math.sqrt(0.5))
