"""``python:MODULE:FUNCTION``: somebody's function of NumPy arrays."""

import importlib
import math
import operator
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from restore_jax.oracles.arrays import pick
from restore_jax.oracles.foreign import foreign, told
from restore_jax.oracles.messages import MOST_CLASSES, MOST_NUMBERS
from restore_jax.oracles.options import Description, ModelOptions
from restore_jax.oracles.types import ModelError


class PythonModel(NamedTuple):
    """A function of NumPy arrays.

    Attributes:
      name: for messages.
      function: images f32[b, H, W, C] to outputs.
      output: which of them is read, where there are several.
    """

    name: str
    function: Callable[[Any], Any]
    output: str | None


def load(place: str, options: ModelOptions) -> PythonModel:
    """The function. Modules are looked for where Python was started, too.

    Raises:
      ModelError: no such module or function.
    """
    name, _, function = place.partition(":")
    if not name or not function:
        raise ModelError(f"python:{place} does not name a function: write python:MODULE:FUNCTION.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    spec = f"python:{place}"
    with foreign(lambda error: ModelError(f"{spec} cannot be imported: {told(error)}.")):
        found: Any = importlib.import_module(name)
        for part in function.split("."):
            found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"{spec} is not a function but a {type(found).__name__}.")
    return PythonModel(spec, found, options.output)


def describe(model: PythonModel, options: ModelOptions) -> Description:
    """A function says nothing of itself, unless it has these attributes.

    Raises:
      ModelError: they are not what they should be.
    """
    del options
    with foreign(lambda error: ModelError(f"{model.name} cannot be read: {told(error)}.")):
        shape = getattr(model.function, "image_shape", None)
        names = getattr(model.function, "class_names", None)
        sides = None if shape is None else tuple(map(operator.index, shape))
        words = None if names is None else tuple(map(str, names))
    if sides is not None and (len(sides) != 3 or not all(side > 0 for side in sides)):
        raise ModelError(f"image_shape of {model.name} must be (H, W, C), not {sides}.")
    if sides is not None and math.prod(sides) > MOST_NUMBERS:
        raise ModelError(f"image_shape of {model.name} is larger than any image: {sides}.")
    if words is not None and not 2 <= len(words) <= MOST_CLASSES:
        raise ModelError(f"class_names of {model.name} must be at least two names.")
    height, width, channels = sides or (0, 0, 0)
    return Description(
        image_shape=(height, width, channels) if sides else None,
        class_names=words,
    )


def ask(model: PythonModel, images: np.ndarray, sending: Callable[[int], None]) -> np.ndarray:
    """What the function says of images f32[b, H, W, C], a copy that it may write to."""
    del sending
    return np.asarray(pick(model.name, model.function(np.array(images)), model.output))
