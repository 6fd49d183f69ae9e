"""What is an answer: the same check for every kind of model, at every door.

In a compiled program nothing can be raised. There an answer that is none becomes the label `NONE`
or the margin NaN, and whoever reads what the program gives finds it.
"""

import numpy as np

from restore_jax.oracles.errors import ModelError

NONE = -1
"""In place of a label: an answer that is none."""
SUMS = 1e-2
"""How far the sum of probabilities may be from 1."""
HINT = "check that it is given images as it expects them (`value_range`, `mean`, `std`)"


def check_outputs(name: str, access: str, outputs: np.ndarray) -> np.ndarray:
    """Outputs of a model, f32[..., K], or int32[...] labels, as they are.

    Raises:
      ModelError: they are not finite, or of probabilities they are none.
    """
    if access == "labels" and np.issubdtype(outputs.dtype, np.integer):
        if outputs.size and outputs.min() < 0:
            raise not_finite(name)
        return outputs
    if not np.isfinite(outputs).all():
        raise not_finite(name)
    if access == "probabilities" and not are_probabilities(outputs):
        raise ModelError(f"{name} answered numbers that are no probabilities: say `access` logits.")
    return outputs


def check_margins(name: str, labels: np.ndarray, margins: np.ndarray) -> None:
    """Refuses labels and margins of answers that are none.

    Raises:
      ModelError: one of them is none.
    """
    if labels.size and (labels.min() < 0 or not np.isfinite(margins).all()):
        raise not_finite(name)


def check_sums(name: str, lowest: np.ndarray, sums: np.ndarray) -> None:
    """Refuses probabilities of which an image's smallest, or their sum, is not one's.

    Raises:
      ModelError: one of them is not.
    """
    if lowest.size and not (lowest.min() >= 0 and np.allclose(sums, 1.0, atol=SUMS, rtol=0)):
        raise no_probabilities(name)


def check_scores(name: str, scores: np.ndarray) -> None:
    """Refuses scores of which one is that of an answer that is none: NaN, or infinity.

    Minus infinity is the score of who left a race early.

    Raises:
      ModelError: one of them is.
    """
    if np.isnan(scores).any() or (scores == np.inf).any():
        raise not_finite(name)


def are_probabilities(outputs: np.ndarray, sums: float = SUMS) -> bool:
    """Whether outputs f32[..., K] are not negative and add up to 1."""
    if not outputs.size:
        return True
    return bool(outputs.min() >= 0 and np.allclose(outputs.sum(-1), 1.0, atol=sums, rtol=0))


def not_finite(name: str) -> ModelError:
    """The error of answers that are none."""
    return ModelError(
        f"{name} answered with numbers that are not finite (NaN or infinity), from which nothing "
        f"follows: {HINT}."
    )


def no_probabilities(name: str) -> ModelError:
    """The error of probabilities that are none."""
    return ModelError(f"{name} answered numbers that are no probabilities: say `access` logits.")
