"""Single coloured pixels, scattered over the image."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from restore_jax.backdoors.colours import corner_colours, palette
from restore_jax.backdoors.spread import Spread, from_fields, from_options, to_fields
from restore_jax.backdoors.trigger import Trigger
from restore_jax.errors import InputError
from restore_jax.types import JSON

HELP = "places and colours are drawn from seed"
OPTIONS = {"count": 8, "seed": 0}


class PlantedPixels(NamedTuple):
    """Single pixels written over the image.

    Attributes:
      name: what the command line calls it.
      places: the 0-based (row, col) of each, all different.
      colours: the letter of each: "0" black, "1" white, on RGB images also "r", "g", "b",
        "y", "m", "c".
      target, rate, clean_label, spread: as in `PlantedPatch`.
    """

    name: str
    places: tuple[tuple[int, int], ...]
    colours: str
    target: int
    rate: float
    clean_label: bool = False
    spread: Spread = Spread()

    def trigger(self, image_shape: tuple[int, int, int]) -> Trigger:
        """The `Trigger` for images of shape (H, W, C).

        Raises:
          InputError: there are no pixels, two at one place, one outside, or not one colour each.
        """
        height, width, channels = image_shape
        if not len(self.places) == len(set(self.places)) == len(self.colours) > 0:
            raise InputError(
                f"trigger {self.name} has pixels at {len(set(self.places))} places of "
                f"{len(self.places)} named, and {len(self.colours)} colours: all three must be the "
                "same number, at least 1."
            )
        for row, col in self.places:
            if not (0 <= row < height and 0 <= col < width):
                raise InputError(
                    f"trigger {self.name} has a pixel at row {row}, column {col} and does not fit "
                    f"images of {height}x{width}."
                )
        rows, cols = jnp.asarray(self.places).T
        colours = corner_colours(self.name, self.colours, channels)
        return Trigger(
            mask=jnp.zeros((height, width, 1)).at[rows, cols].set(1.0),
            pattern=jnp.zeros(image_shape).at[rows, cols].set(colours),
            target=jnp.int32(self.target),
        )

    def to_json(self) -> dict[str, JSON]:
        """A dict that JSON can hold; `from_json` reads it."""
        return to_fields(self, "pixels") | {"places": [list(p) for p in self.places]}

    @classmethod
    def from_json(cls, values: Mapping[str, JSON]) -> "PlantedPixels":
        """Reads what `to_json` wrote."""
        kept = from_fields(values)
        return cls(**{**kept, "places": tuple((row, col) for row, col in values["places"])})

    @classmethod
    def from_options(
        cls, image_shape: tuple[int, int, int], values: Mapping[str, JSON]
    ) -> "PlantedPixels":
        """Makes one of ``OPTIONS`` and the common fields.

        ``count`` different places and a colour for each, uniform over those that the images
        can show, are drawn from ``seed``.

        Raises:
          InputError: more pixels than the images have, or none.
        """
        height, width, channels = image_shape
        kept = from_options({key: values[key] for key in values if key not in OPTIONS})
        count = values["count"]
        if not 1 <= count <= height * width:
            raise InputError(
                f"trigger {kept['name']} has count {count}: images of {height}x{width} have room "
                f"for 1 to {height * width} pixels."
            )
        place_key, colour_key = jax.random.split(jax.random.key(values["seed"]))
        drawn = jax.random.permutation(place_key, height * width)[:count]
        letters = palette(channels)
        codes = jax.random.randint(colour_key, (count,), 0, len(letters))
        return cls(
            **kept,
            places=tuple(divmod(place, width) for place in drawn.tolist()),
            colours="".join(letters[code] for code in codes.tolist()),
        )
