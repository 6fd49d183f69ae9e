"""How many images a scan is expected to send, by what scans have sent."""

import math
from collections.abc import Sequence

from restore_jax.diagnosis.looking import NARROWING
from restore_jax.diagnosis.types import ScanSettings

RACED = 0.5
"""Share of a level's images that are sent, in forty models of ten classes (within a fifth of what
each of six spaces took); the others are not needed to see a candidate fail."""
RACED_LABELS = 0.95
"""Likewise with labels: to be above a low count, a candidate may fail nearly everywhere."""
PROBES = 100
"""Images looked at to choose probes."""


RECOVERY_SHARE = 0.35
"""Of the budget, kept for recovering the triggers of suspicious classes."""


def expected(
    depths: Sequence[float],
    num_classes: int,
    settings: ScanSettings,
    by_labels: bool,
    budget: float = math.inf,
) -> float:
    """The images that a scan takes where no class stands out; recoveries come on top.

    Args:
      depths: log10 of the probability to which each of the spaces is followed.
      num_classes: K, of the model.
      settings: of the scan.
      by_labels: whether labels are all that the model gives.
      budget: images that the scan may send; of what is left of it, the recoveries' share aside,
        each space has as much as its depth is of the depths to come, and ends with the last level
        that this surely pays for.

    >>> round(expected((-6.0, -2.5, -3.25), 10, ScanSettings(), False))
    103246
    >>> round(expected((-5.0,), 10, ScanSettings(), True))
    80242
    >>> round(expected((-12.0, -2.5, -3.25), 1000, ScanSettings(), False, 300_000))
    185227
    """
    m, n = settings.num_probes, settings.num_particles
    pool = math.ceil(m * num_classes / (num_classes - 1))
    a_level = n * settings.num_moves // (settings.num_moves + 1) * m
    raced = RACED_LABELS if by_labels else RACED
    total: float = PROBES
    for number, depth in enumerate(depths):
        left = (1.0 - RECOVERY_SHARE) * budget - total
        end = total + left * depth / sum(depths[number:])
        total += (settings.num_draws + 1) * pool
        decades = -depth + math.log10(n / settings.num_draws)
        levels = math.ceil(decades / -math.log10(settings.survival))
        for level in range(min(levels, settings.max_levels)):
            going = settings.lanes[sum(level >= after for after in NARROWING) - 1]
            most = min(going, num_classes) * a_level
            if total + most > end:
                break
            total += raced * most
    return total
