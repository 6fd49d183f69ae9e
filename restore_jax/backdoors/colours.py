"""The colours that a planted trigger may be written in: black, white and the corners of RGB."""

import jax
import jax.numpy as jnp

from restore_jax.errors import InputError

Array = jax.Array

CORNERS: dict[str, tuple[float, ...]] = {
    "0": (0.0, 0.0, 0.0),
    "1": (1.0, 1.0, 1.0),
    "r": (1.0, 0.0, 0.0),
    "g": (0.0, 1.0, 0.0),
    "b": (0.0, 0.0, 1.0),
    "y": (1.0, 1.0, 0.0),
    "m": (1.0, 0.0, 1.0),
    "c": (0.0, 1.0, 1.0),
}
"""Each colour's letter and its (red, green, blue), in [0, 1]."""


def palette(channels: int) -> str:
    """The letters that images with so many channels can show: all if RGB, else "01"."""
    return "".join(CORNERS) if channels == 3 else "01"


def corner_colours(name: str, letters: str, channels: int) -> Array:
    """The colours f32[len(letters), channels] in [0, 1] of a string of letters.

    Args:
      name: the trigger's, for the error.
      letters: of `palette(channels)`.
      channels: the images'.

    Raises:
      InputError: a letter that those images cannot show.
    """
    allowed = palette(channels)
    for letter in letters:
        if letter not in allowed:
            raise InputError(
                f"trigger {name} has the colour {letter!r}: on images with {channels} channel(s) "
                f"it may be {', '.join(allowed)}."
            )
    colours = [CORNERS[letter] for letter in letters]
    if channels != 3:  # black and white, in any number of channels
        colours = [(colour[0],) * channels for colour in colours]
    return jnp.asarray(colours, jnp.float32)
