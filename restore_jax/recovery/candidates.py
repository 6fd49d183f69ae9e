"""Triggers among particles, told apart by asking."""

import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import Trigger, same_marks, stamp
from restore_jax.racing import faded, needed
from restore_jax.recovery.found import Candidate
from restore_jax.run import Run
from restore_jax.spaces.types import TriggerSpace
from restore_jax.splitting.types import Particles

Array = jax.Array


def candidates(
    particles: Particles, scores: Array, space: TriggerSpace, target: int, goal: float
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
        candidate = Candidate(particle, float(values[place]), trigger)
        distinct.setdefault(same_marks(trigger), candidate)
    return list(distinct.values())


def inclusion(found: Sequence[Candidate], image_shape: tuple[int, int, int]) -> np.ndarray:
    """f32[H, W]: in what share of the candidates each pixel takes part."""
    total = np.zeros(image_shape[:2], np.float32)
    for candidate in found:
        total += np.asarray(candidate.trigger.support)
    return total / max(1, len(found))


def leads(run: Run, triggers: Sequence[Trigger], images: Array, fade: float) -> np.ndarray:
    """f32[k, m]: the margins of k triggers on images f32[m, H, W, C], faded; all booked.

    At least 0 where (and only where) the target is predicted; see `oracles.margins`.

    Raises:
      OutOfQueries: the budget does not pay for them.
    """
    stamped = jnp.concatenate(
        [faded(stamp(trigger, images), images, jnp.float32(fade)) for trigger in triggers]
    )
    return run.margins(stamped, triggers[0].target).reshape(len(triggers), -1)


def robust(margins: np.ndarray, success: float) -> bool:
    """Whether any of the triggers with margins f32[k, m] makes the event happen."""
    return bool((margins >= 0).sum(-1).max() >= needed(success, margins.shape[1]))


def smallest(found: Sequence[Candidate], margins: np.ndarray) -> Candidate:
    """Of the candidates that lead most, the one of fewest pixels; then the clearest."""
    counts = (margins >= 0).sum(-1)
    pixels = [int(candidate.trigger.pixels) for candidate in found]
    eligible = np.flatnonzero(counts == counts.max())
    return found[int(min(eligible, key=lambda i: (pixels[i], -margins[i].min())))]
