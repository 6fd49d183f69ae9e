"""Fewer levels for each channel, with and without dithering.

Prior: the logarithm of the number of levels is uniform over that of 2 .. max_levels, rounded down;
with probability 1/2 the rounding is dithered by a 4x4 tile. So few triggers can simply be listed:
a handful of draws sees most of them. Wang, Zhai and Ma (BppAttack: Stealthy and Efficient Trojan
Attacks against Deep Neural Networks via Image Quantization and Contrastive Adversarial Learning,
CVPR 2022, arXiv 2205.13383) dither by spreading each pixel's error to its neighbours; a tile
(Bayer 1973) leaves a like texture and needs no order among the pixels.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from restore_jax.backdoors.changes import Rounding, rounded
from restore_jax.backdoors.trigger import Trigger, whole_image
from restore_jax.errors import InputError
from restore_jax.spaces import uniforms
from restore_jax.spaces.draws import independent
from restore_jax.spaces.types import TriggerSpace, check_image_shape, is_whole
from restore_jax.splitting.kernels import metropolis
from restore_jax.splitting.types import Proposal, SearchSpace

Array = jax.Array
NUMBERS = 2
"""How many numbers a particle holds: those of the levels and of the dithering."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """The prior's parameters.

    Attributes:
      image_shape: (H, W, C).
      max_levels: most levels per channel, at least 2.
    """

    image_shape: tuple[int, int, int]
    max_levels: int


def draw(key: Array, prior: Prior) -> Array:
    """One particle, f32[2] in [0, 1)."""
    del prior
    return uniforms.draw(key, NUMBERS)


def trigger(particle: Array, target: Array, prior: Prior) -> Trigger:
    """The trigger that a particle stands for."""
    return whole_image(prior.image_shape, target, rounding=_rounding(particle, prior))


def stamp(particle: Array, images: Array, prior: Prior) -> Array:
    """Puts one particle on images f32[m, H, W, C] in [0, 1]."""
    return rounded(images, _rounding(particle, prior))


def refresh(key: Array, particle: Array, rate: Array, prior: Prior) -> Array:
    """See `uniforms.refresh`."""
    del prior
    return uniforms.refresh(key, particle, rate)


def proposals(prior: Prior) -> dict[str, Proposal]:
    """The moves, by name: see `uniforms.proposals`."""
    del prior
    return uniforms.proposals(NUMBERS)


def quantise(image_shape: tuple[int, int, int], *, max_levels: int = 64) -> TriggerSpace:
    """The space of coarser levels.

    Args:
      image_shape: (H, W, C) of the images, in pixels.
      max_levels: most levels per channel, 2 to 256.

    Raises:
      InputError: if an option is outside its range.

    Example:
      >>> quantise((32, 32, 3)).search.sample(jax.random.key(0), 5).shape
      (5, 2)
    """
    shape = check_image_shape(image_shape)
    if not is_whole(max_levels) or not 2 <= max_levels <= 256:
        raise InputError(f"max_levels is {max_levels!r}; it must be a whole number in 2 .. 256.")
    prior = Prior(shape, int(max_levels))
    moves = proposals(prior)
    return TriggerSpace(
        name="quantise",
        search=SearchSpace(
            sample=independent(lambda key: draw(key, prior)),
            kernel=metropolis(list(moves.values()), [uniforms.WEIGHTS[name] for name in moves]),
        ),
        trigger=lambda particle, target: trigger(particle, target, prior),
        stamp=lambda particle, images: stamp(particle, images, prior),
        refresh=lambda key, particle, rate: refresh(key, particle, rate, prior),
        proposals=moves,
        description={
            "space": "quantise",
            "image_shape": list(shape),
            "max_levels": prior.max_levels,
        },
    )


def _rounding(particle: Array, prior: Prior) -> Rounding:
    low, high = math.log(2.0), math.log(prior.max_levels + 1.0)
    levels = jnp.floor(jnp.exp(low + (high - low) * particle[0]) + 1e-5)
    return Rounding(
        levels=jnp.clip(levels, 2.0, prior.max_levels),
        dither=(particle[1] >= 0.5).astype(jnp.float32),
    )
