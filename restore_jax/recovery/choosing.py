"""Which of the triggers that a search found is given back, and whether it is confirmed."""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import Trigger, stamp
from restore_jax.recovery.question import Question
from restore_jax.scoring import faded, needed
from restore_jax.spaces import TriggerSpace

Array = jax.Array
NUM_CONFIRMATION = 100
MAX_CANDIDATES = 24


class Candidate(NamedTuple):
    """A trigger among the particles.

    Attributes:
      particle: the particle, without a leading axis.
      score: its score.
      trigger: what it stands for.
    """

    particle: Any
    score: float
    trigger: Trigger


def candidates(
    particles: Any, scores: Array, space: TriggerSpace, target: int, goal: float
) -> list[Candidate]:
    """The distinct triggers past the goal, best first, or else the best one alone."""
    values = np.asarray(scores)
    order = np.argsort(-values, kind="stable")[: max(1, int((values >= goal).sum()))]
    distinct: dict[bytes, Candidate] = {}
    trigger_of = jax.jit(space.trigger)
    particles = jax.tree.map(np.asarray, particles)
    for place in map(int, order):
        particle = jax.tree.map(operator.itemgetter(place), particles)
        trigger = trigger_of(particle, jnp.int32(target))
        seen = np.concatenate([trigger.mask, trigger.mask * trigger.pattern], -1)
        distinct.setdefault(seen.tobytes(), Candidate(particle, float(values[place]), trigger))
    return list(distinct.values())


def inclusion(found: list[Candidate], image_shape: tuple[int, int, int]) -> np.ndarray:
    """f32[H, W]: in what share of the candidates each pixel takes part."""
    total = np.zeros(image_shape[:2], np.float32)
    for candidate in found:
        total += np.asarray(candidate.trigger.mask)[..., 0] > 0
    return total / max(1, len(found))


def leads(triggers: list[Trigger], images: Array, fade: float, question: Question) -> np.ndarray:
    """f32[k, m]: the margins of k triggers on images f32[m, H, W, C], faded; all counted.

    At least 0 where (and only where) the target is predicted; see `oracles.margins`.
    """
    question.ledger.charge(len(triggers) * images.shape[0])
    stamped = jnp.concatenate(
        [faded(stamp(trigger, images), images, jnp.float32(fade)) for trigger in triggers]
    )
    margins = question.asker.margins(stamped, triggers[0].target)
    return np.asarray(margins).reshape(len(triggers), -1)


def robust(margins: np.ndarray, success: float) -> bool:
    """Whether any of the triggers with margins f32[k, m] makes the event happen."""
    return bool((margins >= 0).sum(-1).max() >= needed(success, margins.shape[1]))


def smallest(found: list[Candidate], margins: np.ndarray) -> Candidate:
    """Of the candidates that lead most, the one of fewest pixels; then the clearest."""
    counts = (margins >= 0).sum(-1)
    pixels = [int(candidate.trigger.pixels) for candidate in found]
    eligible = np.flatnonzero(counts == counts.max())
    return found[min(eligible, key=lambda i: (pixels[i], -margins[i].min()))]


def confirm(trigger: Trigger, question: Question) -> float | None:
    """The share of fresh probes led to the target; None if the budget does not pay for it."""
    wanted = min(NUM_CONFIRMATION, question.ledger.left // 2)
    if wanted < NUM_CONFIRMATION // 2:
        return None
    probes = question.feed.take(wanted, question.ledger.left - wanted)
    return float(np.mean(leads([trigger], probes, 0.0, question) >= 0))
