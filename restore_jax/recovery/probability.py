"""Probabilities as they are written: decimal logarithms, None for what is not known."""

import math
from typing import SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.splitting import SplittingResult, SplittingState, log_prob_interval

MIN_ANCESTORS = 8
"""With fewer families left a population's last levels bound no probability."""


def finite(value: SupportsFloat) -> float | None:
    """The number, or None for an infinity or NaN."""
    return float(value) if math.isfinite(value) else None


def log10(value: SupportsFloat) -> float | None:
    """The decimal logarithm for a natural one, or None where it is not finite."""
    return finite(float(value) / math.log(10))


def log10_interval(
    state: SplittingState, result: SplittingResult
) -> tuple[float | None, float | None] | None:
    """The 95 % interval, decimal. None as its low end: an upper bound. None in all: no estimate.

    Where the event was not reached, a population that has shrunk to a few families says little
    about the levels it went through since: the bound is then that of the last level with
    MIN_ANCESTORS families.
    """
    low, high = log_prob_interval(result)
    if math.isnan(float(high)):
        return None
    if bool(result.reached):
        return log10(low), log10(high)
    families = np.asarray(state.history.unique_ancestors)[: int(state.index)]
    if len(families) and families[-1] < MIN_ANCESTORS:
        sound = int(np.sum(np.cumprod(families >= MIN_ANCESTORS)))
        if sound == 0:
            return None, 0.0
        last = jax.tree.map(lambda rows: rows[sound - 1], state.history)
        high = jnp.minimum(last.log_prob + 1.645 * last.log_prob_std, 0.0)
    return None, log10(high)
