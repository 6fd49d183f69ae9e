"""How far a class stands out from its like: one number for each class and space.

Classes have levels of their own: to some, almost any change leads more easily. The *gain* of a
class is by how much the score that a random trigger reaches, at a stated probability, exceeds that
of no trigger at all; its *reach* is the gain over what the class lacks without a trigger, so that
at 1 the event happens. The reach has no unit: models with logits of any scale can be compared.

What a class's reach would be if nothing were planted for it, other classes say: those of the
model at hand, by their median, and that class in clean models, by how much easier or harder than
its neighbours it is there (a *profile*). Networks of one family agree in that, those of different
families do not, and nobody tells a black box's family. But families differ in their *ease*, too:
how far the median class of a model goes in the space of patches. So a class has to stand out from
its like by the profile of every family that the model may be of by its ease. (Where scores are
counts, as with labels, eases hardly differ; there the families are those whose profile the model's
other classes fit.) With y the square root of the reach, whose spread depends least on its size,

    standing = min over profiles e of  (y_k - e_k - median over j of (y_j - e_j)) / spread(e)

with j the model's other classes, and spread(e) the median absolute difference (as a normal law's
standard deviation) over clean models of the family, or `LEAST_PROFILE_SPREAD`. How large the
standings of clean models are is measured (`diagnosis.null`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

LEAST_SPREAD = 0.15
"""Of the square root of the reach, where there is no profile."""
LEAST_PROFILE_SPREAD = 0.1
"""Likewise of a profile: from few models it is easily estimated too small."""


WITHIN = 2.0
"""Standard deviations from a family's ease up to which a model may be of that family."""
LEAST_EASE_SPREAD = 0.05
"""Such a standard deviation: from few models it is easily estimated too small."""
WITHIN_COUNTS = 0.03
"""With labels, see `standings`: of square roots of reaches. Families differ in which classes their
networks let be led, and hardly in how easily the median class is."""
LEAST_DECADES = 0.5
"""Of probabilities, what two classes of a model may well differ by."""


class Profile(NamedTuple):
    """What is known of a family of clean networks.

    Attributes:
      offsets: float[K], how much further each class's square root of the reach goes than the
        median of the others.
      spread: of the difference that is left, in networks of the family.
    """

    offsets: Sequence[float]
    spread: float


class Ease(NamedTuple):
    """How far the median class of a family's clean networks goes; see `ease`.

    Attributes:
      mean, std: over the networks.
    """

    mean: float
    std: float


class Standing(NamedTuple):
    """How far a class stands out in one space.

    Attributes:
      gain: of the score, in its own unit.
      reach: the gain over what the class lacks without a trigger.
      value: the standing.
    """

    gain: float
    reach: float
    value: float


def level_at(depths: Sequence[float], levels: Sequence[float], depth: float) -> float:
    """The score reached with log10 probability ``depth``; between two levels on their line.

    Beyond the last level it is that level's score: at least this is reached.

    Example:
      >>> level_at((-1.0, -2.0), (0.0, 4.0), -1.5)
      2.0
    """
    return float(np.interp(-depth, -np.asarray(depths), np.asarray(levels)))


def count_beyond(event: float, goal: float, depth: float) -> float:
    """Where a count would stand that ends with the probes: by the decades left after the event.

    Args:
      event: log10 probability with which a random trigger leads all of ``goal`` probes.
      goal: that count.
      depth: the log10 probability at which classes are compared, below 0.

    Example:
      >>> count_beyond(-2.0, 12.0, -4.0)
      18.0
    """
    return goal * (1.0 + max(0.0, event - depth) / -depth)


def ease(gains: Mapping[int, float], lacks: Mapping[int, float]) -> float:
    """The median over classes of the square root of the reach; the arguments are `standings`'.

    Example:
      >>> ease({0: 4.0, 1: 1.0, 2: 1.0}, {0: 4.0, 1: 4.0, 2: 4.0})
      0.5
    """
    return float(np.median([_root(gain / lacks[k]) for k, gain in gains.items()]))


def plausible(found: float | None, families: Mapping[str, Ease]) -> set[str]:
    """The families that a model of some ease may be of.

    Args:
      found: the model's ease; None where it is not known.
      families: by name.

    Returns:
      Those whose ease is within `WITHIN` standard deviations; all of them, if none is.

    Example:
      >>> sorted(plausible(0.6, {"narrow": Ease(0.6, 0.06), "wide": Ease(0.8, 0.05)}))
      ['narrow']
    """
    near = {
        name
        for name, one in families.items()
        if found is not None and abs(found - one.mean) <= WITHIN * max(one.std, LEAST_EASE_SPREAD)
    }
    return near or set(families)


def _root(reach: float) -> float:
    return float(np.sqrt(max(reach, 0.0)))


def standings(
    gains: Mapping[int, float],
    lacks: Mapping[int, float],
    profiles: Sequence[Profile],
    within: float = math.inf,
) -> dict[int, Standing]:
    """The standing of each class of one space.

    Args:
      gains: by class; at one probability for all.
      lacks: by class, the event's score less that of no trigger, above 0.
      profiles: of the families of clean networks; none: a class is compared with the others alone,
        in units of their spread (the median absolute difference, as a normal law's standard
        deviation) or of `LEAST_SPREAD`, whichever is larger.
      within: a class is judged by those profiles that the model's other classes differ from by
        at most so much more, in the mean, than from the closest one.

    Example:
      >>> found = standings({0: 4.0, 1: 1.0, 2: 1.0}, {0: 4.0, 1: 4.0, 2: 4.0}, [])
      >>> found[0].reach, round(found[0].value, 2)
      (1.0, 3.33)
    """
    reaches = {k: gain / lacks[k] for k, gain in gains.items()}
    roots = {k: _root(reach) for k, reach in reaches.items()}
    if not profiles:
        return {k: Standing(gains[k], reaches[k], _among_others(roots, k)) for k in roots}
    return {k: Standing(gains[k], reaches[k], _by_profiles(roots, k, profiles, within))
            for k in roots}  # fmt: skip


def _by_profiles(
    roots: Mapping[int, float], k: int, profiles: Sequence[Profile], within: float
) -> float:
    """How far a class lies above the median of the others, by the profiles that those fit."""
    others = [j for j in roots if j != k]
    values, fits = [], []
    for profile in profiles:
        flat = {j: root - profile.offsets[j] for j, root in roots.items()}
        middle = float(np.median([flat[j] for j in others] or [flat[k]]))
        values.append((flat[k] - middle) / max(profile.spread, LEAST_PROFILE_SPREAD))
        fits.append(float(np.mean([abs(flat[j] - middle) for j in others] or [0.0])))
    closest = min(fits)
    return min(v for v, fit in zip(values, fits, strict=True) if fit <= closest + within)


def _among_others(roots: Mapping[int, float], k: int) -> float:
    """How far a class lies above the median of the others, in spreads of these."""
    others = np.array([root for j, root in roots.items() if j != k])
    if not len(others):
        return 0.0
    middle = float(np.median(others))
    spread = 1.4826 * float(np.median(np.abs(others - middle)))
    return (roots[k] - middle) / max(spread, LEAST_SPREAD)


def standings_by_events(log10_probs: Mapping[int, float]) -> dict[int, Standing]:
    """The standing of each class where scores are counts, as with labels.

    Counts have no margin to go on rising in, so what is compared is how probable the event is: by
    how many times `LEAST_DECADES` a class lies above the median of the others.

    Args:
      log10_probs: by class, the event's, or of one that was not met the probability to which
        the class was followed.

    Example:
      >>> standings_by_events({0: -1.0, 1: -3.0, 2: -3.0})[0].value
      4.0
    """
    least = min(log10_probs.values(), default=0.0)
    found = {}
    for k, value in log10_probs.items():
        others = [other for j, other in log10_probs.items() if j != k]
        ahead = value - (float(np.median(others)) if others else value)
        found[k] = Standing(value - least, 1.0 if value > least else 0.0, ahead / LEAST_DECADES)
    return found
