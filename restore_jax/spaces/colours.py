"""The colours that a pixel of a discrete trigger may have.

A colour is a whole number (its *code*), the digits of which, in base ``levels``, are
the levels of its channels: equally spaced in [0, 1], 0 and 1 included.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from restore_jax.errors import InputError
from restore_jax.spaces.draws import integers
from restore_jax.spaces.types import is_whole

Array = jax.Array
MAX_COLOURS = 65_535


@dataclasses.dataclass(frozen=True)
class Colours:
    """A palette.

    Attributes:
      kind: "grey" (one level for all channels) or "rgb" (a level for each channel).
      levels: levels per channel, >= 2; 2 gives black and white, or the corner colours.
      digits: how many levels a colour has: 1 if grey, else the image's channels.
      channels: the image's channels.
    """

    kind: str
    levels: int
    digits: int
    channels: int

    @property
    def count(self) -> int:
        """How many colours there are: levels ** digits."""
        count: int = self.levels**self.digits
        return count

    @property
    def dtype(self) -> DTypeLike:
        """The smallest unsigned type that holds the codes 0 .. count."""
        return np.uint8 if self.count < 256 else np.uint16


def draw(row: Array, shape: tuple[int, ...], colours: Colours) -> Array:
    """Codes of the given shape, independent and uniform over 0 .. count - 1."""
    return integers(row, shape, 0, colours.count).astype(colours.dtype)


def another(row: Array, code: Array, colours: Colours) -> Array:
    """For each code a different one, uniform over the others; same shape and dtype."""
    step = integers(row, code.shape, 1, colours.count)
    return ((code.astype(jnp.int32) + step) % colours.count).astype(colours.dtype)


def values(codes: Array, colours: Colours) -> Array:
    """The colours of codes [...] as f32[..., C] in [0, 1]."""
    powers = jnp.array([colours.levels**i for i in range(colours.digits)], jnp.int32)
    powers = powers.reshape((1,) * codes.ndim + powers.shape)
    digits = (codes.astype(jnp.int32)[..., None] // powers) % colours.levels
    return jnp.broadcast_to(
        digits.astype(jnp.float32) / (colours.levels - 1), (*codes.shape, colours.channels)
    )


def make_colours(channels: str, levels: int, image_channels: int) -> Colours:
    """Checks the options; on images with one channel "rgb" is the same as "grey".

    Raises:
      InputError: for other words than "rgb" and "grey", fewer than two levels, or more
        than 65,535 colours.
    """
    if channels not in ("rgb", "grey"):
        raise InputError(f"channels is {channels!r}; it must be 'rgb' or 'grey'.")
    kind = channels if image_channels > 1 else "grey"
    digits = image_channels if kind == "rgb" else 1
    if not is_whole(levels) or levels < 2 or levels**digits > MAX_COLOURS:
        most = int((MAX_COLOURS + 0.5) ** (1 / digits))
        raise InputError(
            f"levels is {levels!r}; it must be a whole number between 2 and {most} "
            f"for {digits} independent channel(s)."
        )
    return Colours(kind, int(levels), digits, image_channels)
