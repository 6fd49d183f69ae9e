"""Images as arrays of the layout and dtype that a model takes, and what its dimensions say."""

from typing import Any, NamedTuple

import numpy as np

from restore_jax.oracles.options import Description, ModelOptions
from restore_jax.oracles.types import ModelError

CHANNELS = (1, 3, 4)
"""A dimension of one of these sizes may be the channels."""
_AXES = {"nchw": (2, 3, 1), "nhwc": (1, 2, 3)}


class ArrayInput(NamedTuple):
    """The one array of images that a model takes.

    Attributes:
      dims: its four dimensions; None where any size will do, or none is known.
      layout: "nchw" or "nhwc".
      dtype: of its numbers.
    """

    dims: tuple[int | None, ...]
    layout: str
    dtype: np.dtype

    def describe(self, options: ModelOptions, num_classes: int | None = None) -> Description:
        """What the input says of the model; sizes it leaves open are those of the options."""
        said = options.image_shape or (None, None, None)
        height, width, channels = (
            self.dims[axis] or size for axis, size in zip(_AXES[self.layout], said, strict=True)
        )
        return Description(
            image_shape=(height, width, channels) if height and width and channels else None,
            num_classes=num_classes,
            value_range=(0.0, 255.0) if np.issubdtype(self.dtype, np.integer) else None,
            batch=self.dims[0],
        )

    def convert(self, images: Any, xp: Any = np) -> Any:
        """Images f32[b, H, W, C] in the input's layout and dtype; ``xp`` is NumPy or jax.numpy."""
        if np.issubdtype(self.dtype, np.integer):
            limits = np.iinfo(self.dtype)
            images = xp.clip(xp.rint(images), limits.min, limits.max)
        images = images.astype(self.dtype, copy=False)
        return images.transpose(0, 3, 1, 2) if self.layout == "nchw" else images


def array_input(
    place: str,
    dims: tuple[int | None, ...],
    dtype: Any,
    options: ModelOptions,
    default: str | None = None,
) -> ArrayInput:
    """The input, its layout read off its sizes where the options do not give it.

    Args:
      place: where the model is, for the error.
      dims: four; None where any size will do.
      dtype: what NumPy takes for one.
      options: whose ``layout``, or else ``image_shape``, decides.
      default: the layout where nothing decides.

    Raises:
      ModelError: nothing decides, and there is no default; or the dtype holds no images.
    """
    if np.dtype(dtype) in (np.int8, np.bool_):
        raise ModelError(
            f"{place} takes images as {np.dtype(dtype)}, which does not hold 0 to 255: convert it "
            "to take floats or bytes."
        )
    layout = options.layout or _layout(dims, options.image_shape) or default
    if layout is None:
        shown = ", ".join("?" if size is None else str(size) for size in dims)
        raise ModelError(
            f"{place} takes images of shape ({shown}), which does not tell where the channels "
            "are: give `layout` nchw or nhwc."
        )
    return ArrayInput(dims, layout, np.dtype(dtype))


def _layout(dims: tuple[int | None, ...], image_shape: tuple[int, int, int] | None) -> str | None:
    if image_shape is not None:
        fits = [
            layout
            for layout, axes in _AXES.items()
            if all(dims[a] in (None, size) for a, size in zip(axes, image_shape, strict=True))
        ]
        if len(fits) == 1:
            return fits[0]
    fits = [layout for layout, axes in _AXES.items() if dims[axes[-1]] in CHANNELS]
    return fits[0] if len(fits) == 1 else None


def pick(place: str, outputs: Any, name: str | None = None) -> Any:
    """One array of what a model returned: an array, or a list or dict of them.

    Args:
      place: where the model is, for the error.
      outputs: what it returned.
      name: of a dict the key, of a list the number; None: the first.

    Raises:
      ModelError: there is no such output.
    """
    if name is not None and isinstance(outputs, list | tuple | dict):
        known = outputs if isinstance(outputs, dict) else dict(enumerate(outputs))
        keys = {str(key): value for key, value in known.items()}
        if name not in keys:
            raise ModelError(
                f"{place} has no output {name!r}: `output` may be {', '.join(keys) or 'left out'}."
            )
        outputs = keys[name]
    while isinstance(outputs, list | tuple | dict):
        if not outputs:
            raise ModelError(f"{place} returned nothing.")
        outputs = next(iter(outputs.values() if isinstance(outputs, dict) else outputs))
    return outputs


def in_words(name: str, shape: Any) -> str:
    """An output's name and shape, as "probs (?, 10)"."""
    sizes = [str(size) if isinstance(size, int) else "?" for size in shape]
    return f"{name} ({', '.join(sizes)})"


def find_output(place: str, names: list[str], name: str | None) -> int:
    """Which of a model's outputs is read: that of the name or number, or else the first.

    Raises:
      ModelError: there is no such output.
    """
    if name is None:
        return 0
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise ModelError(f"{place} has no output {name!r}: `output` may be {', '.join(names)}.")
