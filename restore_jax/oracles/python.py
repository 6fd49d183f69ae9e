"""``python:MODULE:FUNCTION``: somebody's function of NumPy arrays."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from restore_jax.oracles.options import Description, ModelOptions
from restore_jax.oracles.types import ModelError


def load(place: str, options: ModelOptions) -> Callable[[np.ndarray], Any]:
    """The function. Modules are looked for where Python was started, too.

    Raises:
      ModelError: no such module or function.
    """
    del options
    name, _, function = place.partition(":")
    if not name or not function:
        raise ModelError(f"python:{place} does not name a function: write python:MODULE:FUNCTION.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(name)
        for part in function.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ModelError(f"python:{place} cannot be imported: {error}.") from error
    if not callable(found):
        raise ModelError(f"python:{place} is not a function but a {type(found).__name__}.")
    return found


def describe(model: Any, options: ModelOptions) -> Description:
    """A function says nothing of itself, unless it has these attributes."""
    del options
    shape = getattr(model, "image_shape", None)
    names = getattr(model, "class_names", None)
    return Description(
        image_shape=tuple(shape) if shape is not None else None,
        class_names=tuple(map(str, names)) if names is not None else None,
    )


def ask(model: Any, images: np.ndarray, sending: Callable[[int], None]) -> np.ndarray:
    """What the function says of images f32[b, H, W, C], a copy that it may write to."""
    del sending
    return np.asarray(model(np.array(images)))
