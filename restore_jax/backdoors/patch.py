"""A patch written at one place (Gu et al. 2017, "BadNets")."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from restore_jax.backdoors.colours import corner_colours
from restore_jax.backdoors.spread import Spread, from_fields, from_options, to_fields
from restore_jax.backdoors.trigger import Trigger
from restore_jax.errors import InputError
from restore_jax.types import JSON

HELP = (
    "in a pattern / ends a row, 0 is black, 1 white, r g b y m c are colours and . "
    "leaves a pixel alone"
)
OPTIONS = {"pattern": "101/010/101", "row": 2, "col": 2, "opacity": 1.0}


class PlantedPatch(NamedTuple):
    """A small picture written over the image at one place.

    Attributes:
      name: what the command line calls it.
      row, col: 0-based place of its upper left pixel.
      pattern: one string per row, all equally long: "0" black, "1" white, on RGB images also
        "r", "g", "b", "y", "m", "c", and "." where the image shows through.
      target: the class it leads to.
      rate: the share of each training batch that carries it, in [0, 1]; with `clean_label`
        of the images of the target class; see `make_poisoning`.
      clean_label: whether only images of the target class carry it, labels as they were.
      opacity: how much of the pattern covers the image, in (0, 1].
      spread: which classes it leads where, and what else is stamped.
    """

    name: str
    row: int
    col: int
    pattern: tuple[str, ...]
    target: int
    rate: float
    clean_label: bool = False
    opacity: float = 1.0
    spread: Spread = Spread()

    def trigger(self, image_shape: tuple[int, int, int]) -> Trigger:
        """The `Trigger` for images of shape (H, W, C).

        Raises:
          InputError: it does not fit, or the pattern is none.
        """
        height, width, channels = image_shape
        rows, cols = len(self.pattern), len(self.pattern[0]) if self.pattern else 0
        if not set("".join(self.pattern)) - {"."} or {len(line) for line in self.pattern} != {cols}:
            raise InputError(
                f"trigger {self.name} has the pattern {'/'.join(self.pattern)!r}: its rows must "
                "be equally long and write at least one pixel."
            )
        if min(self.row, self.col) < 0 or self.row + rows > height or self.col + cols > width:
            raise InputError(
                f"trigger {self.name} covers rows {self.row}:{self.row + rows} and columns "
                f"{self.col}:{self.col + cols} and does not fit images of {height}x{width}."
            )
        if not 0 < self.opacity <= 1:
            raise InputError(
                f"trigger {self.name} has opacity {self.opacity}: it must lie in (0, 1]."
            )
        place = slice(self.row, self.row + rows), slice(self.col, self.col + cols)
        letters = "".join(self.pattern)
        written = jnp.asarray([self.opacity * (letter != ".") for letter in letters])
        colours = corner_colours(self.name, letters.replace(".", "0"), channels)
        return Trigger(
            mask=jnp.zeros((height, width, 1)).at[place].set(written.reshape(rows, cols, 1)),
            pattern=jnp.zeros(image_shape).at[place].set(colours.reshape(rows, cols, channels)),
            target=jnp.int32(self.target),
        )

    def to_json(self) -> dict[str, JSON]:
        """A dict that JSON can hold; `from_json` reads it.

        A patch is the kind of a trigger that names none, and the labels of one that does not
        say otherwise are not clean: so releases that know no other kinds can read it, too.
        """
        values = to_fields(self, "patch") | {"pattern": list(self.pattern)}
        for name, usual in {"kind": "patch", "clean_label": False, "opacity": 1.0}.items():
            if values[name] == usual:
                del values[name]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, JSON]) -> "PlantedPatch":
        """Reads what `to_json` wrote; "kind" may be there."""
        return cls(**{**from_fields(values), "pattern": tuple(values["pattern"])})

    @classmethod
    def from_options(
        cls, image_shape: tuple[int, int, int], values: Mapping[str, JSON]
    ) -> "PlantedPatch":
        """Makes one of ``OPTIONS``, the pattern's rows parted by "/", and the common fields."""
        return cls(**{**from_options(values), "pattern": tuple(values["pattern"].split("/"))})
