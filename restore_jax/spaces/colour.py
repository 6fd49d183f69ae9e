"""A colour filter: an affine map of colours, a power, and darker corners.

Prior: C (C + 1) + 2 numbers, z ~ N(0, I), and an amount a whose logarithm is uniform over that of
min_amount .. max_amount. Colours are raised to the power exp(0.4 a z), multiplied with the matrix
I + 0.5 a Z, 0.15 a z is added per channel, the result is clipped; and the corners of the image are
darker than its middle by a share of a max(tanh z, 0), at most 1. The filters of the TrojAI rounds
(NIST, pages.nist.gov/trojai) and of ABS (Liu et al., CCS 2019) are of this kind: sepia, cold and
warm tones, other contrasts.
"""

import dataclasses

import jax
import jax.numpy as jnp

from restore_jax.backdoors.changes import Colouring, recoloured
from restore_jax.backdoors.trigger import Trigger, whole_image
from restore_jax.errors import InputError
from restore_jax.spaces import fields
from restore_jax.spaces.draws import independent
from restore_jax.spaces.fields import Field
from restore_jax.spaces.types import TriggerSpace, check_image_shape, check_share
from restore_jax.splitting.kernels import metropolis
from restore_jax.splitting.types import Proposal, SearchSpace

Array = jax.Array
MATRIX, SHIFT, POWER = 0.5, 0.15, 0.4
"""Standard deviations at an amount of 1: of matrix entries, shifts, the power's logarithm."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """The prior's parameters.

    Attributes:
      image_shape: (H, W, C).
      min_amount, max_amount: of the filter, in (0, 1].
    """

    image_shape: tuple[int, int, int]
    min_amount: float
    max_amount: float

    @property
    def shape(self) -> tuple[int]:
        """Of a particle's cells: the matrix, the shift, the power and the corners."""
        channels = self.image_shape[2]
        return (channels * (channels + 1) + 2,)


def draw(key: Array, prior: Prior) -> Field:
    """One particle from the prior."""
    return fields.draw(key, prior.shape)


def trigger(particle: Field, target: Array, prior: Prior) -> Trigger:
    """The trigger that a particle stands for."""
    return whole_image(prior.image_shape, target, colouring=_colouring(particle, prior))


def stamp(particle: Field, images: Array, prior: Prior) -> Array:
    """Puts one particle on images f32[m, H, W, C] in [0, 1]."""
    return recoloured(images, _colouring(particle, prior))


def refresh(key: Array, particle: Field, rate: Array, prior: Prior) -> Field:
    """See `fields.refresh`."""
    del prior
    return fields.refresh(key, particle, rate)


def proposals(prior: Prior) -> dict[str, Proposal]:
    """The moves, by name: see `fields.proposals`."""
    return fields.proposals(prior.shape)


def colour(
    image_shape: tuple[int, int, int], *, min_amount: float = 0.1, max_amount: float = 1.0
) -> TriggerSpace:
    """The space of colour filters.

    Args:
      image_shape: (H, W, C) of the images, in pixels.
      min_amount, max_amount: of the filter, in (0, 1], the first at most the second.

    Raises:
      InputError: if an option is outside its range.

    Example:
      >>> colour((32, 32, 3)).search.sample(jax.random.key(0), 5).cells.shape
      (5, 14)
    """
    shape = check_image_shape(image_shape)
    low = check_share("min_amount", min_amount, one_included=True)
    high = check_share("max_amount", max_amount, one_included=True)
    if low > high:
        raise InputError(f"min_amount is {low} and max_amount {high}; it must not be larger.")
    prior = Prior(shape, low, high)
    moves = proposals(prior)
    return TriggerSpace(
        name="colour",
        search=SearchSpace(
            sample=independent(lambda key: draw(key, prior)),
            kernel=metropolis(list(moves.values()), [fields.WEIGHTS[name] for name in moves]),
        ),
        trigger=lambda particle, target: trigger(particle, target, prior),
        stamp=lambda particle, images: stamp(particle, images, prior),
        refresh=lambda key, particle, rate: refresh(key, particle, rate, prior),
        proposals=moves,
        description={
            "space": "colour",
            "image_shape": list(shape),
            "min_amount": prior.min_amount,
            "max_amount": prior.max_amount,
        },
    )


def _colouring(particle: Field, prior: Prior) -> Colouring:
    channels = prior.image_shape[2]
    amount = fields.amount(particle.strength, prior.min_amount, prior.max_amount)
    z, square = particle.cells, channels * channels
    return Colouring(
        matrix=jnp.eye(channels) + MATRIX * amount * z[:square].reshape(channels, channels),
        shift=SHIFT * amount * z[square : square + channels],
        gamma=jnp.exp(POWER * amount * z[-2]),
        vignette=jnp.clip(amount * jnp.tanh(z[-1]), 0.0, 1.0),
    )
