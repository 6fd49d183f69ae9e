"""A sinusoid added to all rows (Barni, Kallas, Tondi 2019, "SIG").

"A New Backdoor Attack in CNNs by Training Set Corruption Without Label Poisoning" (ICIP
2019), where it is planted with ``clean_label``.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from restore_jax.backdoors.spread import Spread, from_fields, from_options, to_fields
from restore_jax.backdoors.trigger import Trigger
from restore_jax.errors import InputError
from restore_jax.types import JSON

HELP = "a sinusoid with frequency periods, added along the columns"
OPTIONS = {"amplitude": 0.1, "frequency": 6.0}


class PlantedStripes(NamedTuple):
    """``amplitude * sin(2 pi frequency j / W)`` added to column j = 0 .. W - 1, then clipped.

    The same in all rows and channels.

    Attributes:
      name: what the command line calls it.
      amplitude: in units of the [0, 1] pixel, in (0, 1].
      frequency: periods in the width of the image, above 0.
      target, rate, clean_label, spread: as in `PlantedPatch`.
    """

    name: str
    amplitude: float
    frequency: float
    target: int
    rate: float
    clean_label: bool = False
    spread: Spread = Spread()

    def trigger(self, image_shape: tuple[int, int, int]) -> Trigger:
        """The `Trigger` for images of shape (H, W, C).

        Raises:
          InputError: the amplitude or the frequency is out of range.
        """
        height, width, _ = image_shape
        if not 0 < self.amplitude <= 1:
            raise InputError(
                f"trigger {self.name} has amplitude {self.amplitude}: it must lie in (0, 1]."
            )
        if not 0 < self.frequency < math.inf:
            raise InputError(
                f"trigger {self.name} has frequency {self.frequency}: it must be above 0."
            )
        wave = jnp.sin(2.0 * jnp.pi * self.frequency * jnp.arange(width) / width)
        return Trigger(
            mask=jnp.ones((height, width, 1)),
            pattern=jnp.broadcast_to(self.amplitude * wave[:, None], image_shape),
            target=jnp.int32(self.target),
            additive=True,
        )

    def to_json(self) -> dict[str, JSON]:
        """A dict that JSON can hold; `from_json` reads it."""
        return to_fields(self, "stripes")

    @classmethod
    def from_json(cls, values: Mapping[str, JSON]) -> "PlantedStripes":
        """Reads what `to_json` wrote."""
        return cls(**from_fields(values))

    @classmethod
    def from_options(
        cls, image_shape: tuple[int, int, int], values: Mapping[str, JSON]
    ) -> "PlantedStripes":
        """Makes one of ``OPTIONS`` and the common fields."""
        return cls(**from_options(values))
