"""One image blended into all (Chen et al. 2017).

"Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning", the blended
injection strategy.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from restore_jax.backdoors.spread import Spread, from_fields, from_options, to_fields
from restore_jax.backdoors.trigger import Trigger
from restore_jax.errors import InputError
from restore_jax.types import JSON

Array = jax.Array
HELP = "an image over all, drawn from seed"
OPTIONS = {"opacity": 0.2, "seed": 0}
NUM_WAVES = 6
MAX_PERIODS = 4
"""Of a wave across the image, along each side."""


class PlantedBlend(NamedTuple):
    """A fixed image k over the whole picture x: ``(1 - opacity) * x + opacity * k``.

    The image is a plasma of plane waves drawn from ``seed`` (`plasma`): unlike what is in
    photographs, and unlike the package's probes, which a model would else take for the trigger.

    Attributes:
      name: what the command line calls it.
      opacity: in (0, 1].
      seed: of the image, 0 to 2**32 - 1.
      target, rate, clean_label, spread: as in `PlantedPatch`.
    """

    name: str
    opacity: float
    seed: int
    target: int
    rate: float
    clean_label: bool = False
    spread: Spread = Spread()

    def trigger(self, image_shape: tuple[int, int, int]) -> Trigger:
        """The `Trigger` for images of shape (H, W, C).

        Raises:
          InputError: the opacity is out of range.
        """
        height, width, _ = image_shape
        if not 0 < self.opacity <= 1:
            raise InputError(
                f"trigger {self.name} has opacity {self.opacity}: it must lie in (0, 1]."
            )
        return Trigger(
            mask=jnp.full((height, width, 1), self.opacity),
            pattern=plasma(jax.random.key(self.seed), image_shape),
            target=jnp.int32(self.target),
        )

    def to_json(self) -> dict[str, JSON]:
        """A dict that JSON can hold; `from_json` reads it."""
        return to_fields(self, "blend")

    @classmethod
    def from_json(cls, values: Mapping[str, JSON]) -> "PlantedBlend":
        """Reads what `to_json` wrote."""
        return cls(**from_fields(values))

    @classmethod
    def from_options(
        cls, image_shape: tuple[int, int, int], values: Mapping[str, JSON]
    ) -> "PlantedBlend":
        """Makes one of ``OPTIONS`` and the common fields."""
        return cls(**from_options(values))


def plasma(key: Array, image_shape: tuple[int, int, int]) -> Array:
    """f32[H, W, C] in [0, 1], from 0 to 1 in every channel: a sum of plane waves.

    Args:
      key: consumed.
      image_shape: (H, W, C).
    """
    height, width, channels = image_shape
    period_key, phase_key = jax.random.split(key)
    shape = (channels, NUM_WAVES)
    periods = jax.random.randint(period_key, (*shape, 2), -MAX_PERIODS, MAX_PERIODS + 1)
    phases = jax.random.uniform(phase_key, shape)
    rows = jnp.arange(height)[:, None, None, None] / height
    cols = jnp.arange(width)[None, :, None, None] / width
    turns = rows * periods[..., 0] + cols * periods[..., 1] + phases
    field = jnp.sum(jnp.sin(2 * jnp.pi * turns), -1)
    least, most = jnp.min(field, (0, 1)), jnp.max(field, (0, 1))
    return (field - least) / jnp.maximum(most - least, 1e-6)
