"""How often random triggers lead to the likeliest class of a *clean* model, and what that allows.

A clean model has a class that saturated, unnatural things look like most, and random triggers lead
there more often than anywhere else. How often was measured on clean models (``null.json``, made by
``benchmarks/diagnosis.py``), in every space by itself, under the prior that scanning draws from.
Over models the logarithm of that probability is taken to be normal, and the threshold is the upper
end of the prediction interval for one more clean model (Student's law, since mean and spread are
estimated), so that the false alarm rate is stated for models like those and no others.
"""

import functools
import json
import math
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from scipy import stats


class Conditions(NamedTuple):
    """What was measured: the thresholds are used under others, too, but promise nothing there.

    Attributes:
      probes: name of the probes.
      num_probes: of each class.
      success: share of them that makes the event.
      image_shape: (H, W, C).
    """

    probes: str
    num_probes: int
    success: float
    image_shape: tuple[int, int, int]


CALIBRATED = Conditions("dead_leaves", 20, 0.95, (32, 32, 3))
CLASSES_TOGETHER = 10
"""The clean models have so many classes; with more of them the rate is shared out among as many."""


@functools.cache
def measured() -> dict[str, Any]:
    """The contents of null.json: by space its prior, and each clean model's largest log10 P."""
    text = resources.files("restore_jax.diagnosis").joinpath("null.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def threshold(
    prior: dict[str, Any], false_alarm_rate: float, num_spaces: int, num_classes: int
) -> float | None:
    """The log10 probability from which a class is suspicious.

    Args:
      prior: the description of the space's prior.
      false_alarm_rate: in (0, 1), the share of clean models in which any class of any space may
        be accused.
      num_spaces: how many spaces are looked through: each takes its share of the rate.
      num_classes: K.

    Returns:
      The threshold; None if this prior was not measured on clean models.
    """
    found = measured().get(str(prior.get("space")))
    if found is None or _comparable(found["prior"]) != _comparable(prior):
        return None
    groups = max(1, math.ceil(num_classes / CLASSES_TOGETHER))
    return prediction_bound(found["largest_log10_prob"], false_alarm_rate / num_spaces / groups)


def prediction_bound(values: Any, rate: float) -> float:
    """What one more value of a normal sample exceeds with probability ``rate``."""
    sample = np.asarray(values, float)
    n = len(sample)
    spread = float(sample.std(ddof=1)) * math.sqrt(1.0 + 1.0 / n)
    return float(sample.mean()) + float(stats.t.isf(rate, n - 1)) * spread


def _comparable(prior: dict[str, Any]) -> dict[str, Any]:
    """A prior without the size of the images, as JSON gives it back."""
    kept: dict[str, Any] = json.loads(json.dumps(prior))
    return {name: value for name, value in kept.items() if name != "image_shape"}
