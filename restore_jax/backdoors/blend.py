"""One image blended into all (Chen et al. 2017).

"Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning", the blended
injection strategy.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from restore_jax.backdoors.trigger import Trigger
from restore_jax.data.dead_leaves import dead_leaves

OPTIONS = {"opacity": 0.2, "seed": 0}


class PlantedBlend(NamedTuple):
    """A fixed image k over the whole picture x: ``(1 - opacity) * x + opacity * k``.

    The image is one of dead leaves, the first that ``jax.random.key(seed)`` gives.

    Attributes:
      name: what the command line calls it.
      opacity: in (0, 1].
      seed: of the image, 0 to 2**32 - 1.
      target, rate, clean_label: as in `PlantedPatch`.
    """

    name: str
    opacity: float
    seed: int
    target: int
    rate: float
    clean_label: bool = False

    def trigger(self, image_shape: tuple[int, int, int]) -> Trigger:
        """The `Trigger` for images of shape (H, W, C), C being 1 or 3.

        Raises:
          ValueError: the opacity is out of range, or C is another.
        """
        height, width, _ = image_shape
        if not 0 < self.opacity <= 1:
            raise ValueError(
                f"trigger {self.name} has opacity {self.opacity}: it must lie in (0, 1]."
            )
        return Trigger(
            mask=jnp.full((height, width, 1), self.opacity),
            pattern=dead_leaves(jax.random.key(self.seed), 1, image_shape)[0],
            target=jnp.int32(self.target),
        )

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold; `from_json` reads it."""
        return {"kind": "blend"} | self._asdict()

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "PlantedBlend":
        """Reads what `to_json` wrote."""
        return cls(**{key: value for key, value in fields.items() if key != "kind"})

    @classmethod
    def from_options(
        cls, image_shape: tuple[int, int, int], fields: Mapping[str, Any]
    ) -> "PlantedBlend":
        """Makes one of ``OPTIONS`` and the common fields."""
        return cls(**fields)
