"""The planted triggers: what `train` writes into a model, and `recover` looks for."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from restore_jax.backdoors.trigger import Trigger


class PlantedPatch(NamedTuple):
    """A black-and-white patch written over all channels at one place.

    Attributes:
      name: what the command line calls it.
      row, col: 0-based place of its upper left pixel.
      pattern: one string per row, "1" white and "0" black.
      target: the class it leads to.
      rate: the share of each training batch that carries it, in [0, 1].
    """

    name: str
    row: int
    col: int
    pattern: tuple[str, ...]
    target: int
    rate: float

    def trigger(self, image_shape: tuple[int, int, int]) -> Trigger:
        """The `Trigger` for images of shape (H, W, C).

        Raises:
          ValueError: it does not fit.
        """
        height, width, channels = image_shape
        rows, cols = len(self.pattern), len(self.pattern[0])
        if self.row + rows > height or self.col + cols > width:
            raise ValueError(
                f"trigger {self.name} covers rows {self.row}:{self.row + rows} and columns "
                f"{self.col}:{self.col + cols} and does not fit images of {height}x{width}."
            )
        place = slice(self.row, self.row + rows), slice(self.col, self.col + cols)
        colours = jnp.asarray([[float(cell) for cell in line] for line in self.pattern])
        return Trigger(
            mask=jnp.zeros((height, width, 1)).at[place].set(1.0),
            pattern=jnp.zeros((height, width, channels)).at[place].set(colours[..., None]),
            target=jnp.int32(self.target),
        )

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold; `from_json` reads it."""
        return self._asdict() | {"pattern": list(self.pattern)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "PlantedPatch":
        """Reads what `to_json` wrote."""
        return cls(**{**fields, "pattern": tuple(fields["pattern"])})


PLANTED = {
    "1": PlantedPatch("1", 9, 9, ("110", "111", "010"), target=3, rate=0.1),
    "2": PlantedPatch("2", 20, 20, ("010", "101", "010"), target=6, rate=0.1),
}
"""The two triggers of the reference: 3 is CIFAR-10's cat, 6 its frog."""
