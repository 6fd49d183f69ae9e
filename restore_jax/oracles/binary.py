"""Models with one number an image: the second of two classes."""

from typing import Any

import numpy as np

from restore_jax.oracles.errors import ModelError


def two_classes(name: str, access: str, outputs: np.ndarray, number: int) -> np.ndarray:
    """One number an image as what two classes get; labels as they are.

    Args:
      name: of the model, for the error.
      access: of logits the number is the second class's lead, else its probability.
      outputs: [number] or [number, 1].
      number: of images.

    Returns:
      [number, 2], or integers[number].

    Raises:
      ModelError: there is more than one number an image, or it is no probability.
    """
    if outputs.shape not in ((number,), (number, 1)):
        raise ModelError(
            f"{name} must answer {number} images with one number each, not with an array of shape "
            f"{outputs.shape}: leave out `binary`."
        )
    if not np.can_cast(outputs.dtype, np.float64, "same_kind"):
        raise ModelError(f"{name} must answer with numbers, not {outputs.dtype}.")
    values = outputs.reshape(number)
    if access == "labels" and np.issubdtype(values.dtype, np.integer):
        return values
    if access != "logits" and not (np.isnan(values) | ((values >= 0) & (values <= 1))).all():
        raise ModelError(
            f"{name} answered {values.min():g} to {values.max():g}, which are no probabilities: "
            "say `access` logits."
        )
    return paired(access, values, np)


def paired(access: str, values: Any, xp: Any) -> Any:
    """[b] as [b, 2]; ``xp`` is NumPy or jax.numpy."""
    return xp.stack([0 * values if access == "logits" else 1 - values, values], -1)
