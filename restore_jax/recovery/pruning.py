"""Leaves out of a trigger what it can do without.

Each piece is left out by itself, faded, which says what it is worth; then the least worthy go,
if the trigger can spare them, and what remains is looked at again. The pieces of a rectangle
are its four sides, one of which goes at a time, so that it stays one; those of any other trigger
its pixels, of which as many go at once as can be spared, found by bisection.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import Trigger
from restore_jax.recovery.choosing import leads
from restore_jax.recovery.question import Question
from restore_jax.scoring import needed

Array = jax.Array
FADES = (0.8, 0.7, 0.6, 0.5)
"""With labels a piece's worth shows only where the trigger just about works: tried in turn."""
STRICT = (0.6, 0.5)
"""How faded a trigger must still work, if it can; a pruned one then is not a weak one."""
NUM_LOOKS = 8
"""Probes on which a piece's worth is measured; with labels all."""


def prune(trigger: Trigger, probes: Array, fade: float, most: int, question: Question) -> Trigger:
    """The trigger with fewer pixels that leads as many probes as before, faded.

    Args:
      trigger: one that is written on some pixels; others are given back as they are.
      probes: f32[m, H, W, C].
      fade: in [0, 1), see `scoring.faded`; where it does not work so faded, half or not at all.
      most: images that may be asked about.
      question: what is asked, and the ledger that counts it.
    """
    m, end = probes.shape[0], question.ledger.left - most
    mask = np.asarray(trigger.mask)
    if trigger.additive or (mask > 0).all() or question.ledger.left - m < end:
        return trigger

    def without(pixels: np.ndarray) -> Trigger:
        left = mask.reshape(-1).copy()
        left[pixels] = 0.0
        return dataclasses.replace(trigger, mask=jnp.asarray(left.reshape(mask.shape)))

    # What it does now it must go on doing, as faded as it can.
    enough, bar = needed(question.success, m), 0
    for at in (*STRICT, fade, 0.5 * fade, 0.0):
        if question.ledger.left - m < end:
            return trigger
        bar, fade = int((leads([trigger], probes, at, question) >= 0).sum()), at
        if bar >= enough:
            break
    else:
        return trigger
    looks = probes[:NUM_LOOKS]
    if question.oracle.access == "labels":
        looks = probes
        for at in FADES:
            if question.ledger.left - m < end:
                return trigger
            if (leads([trigger], probes, at, question) >= 0).mean() > 0.3:
                break
    rectangle = _is_rectangle(mask)

    def spares(pieces: list[np.ndarray]) -> bool:
        lead = leads([without(np.concatenate(pieces))], probes, fade, question)
        return bool((lead >= 0).sum() >= bar)

    while True:
        pieces = _sides(mask) if rectangle else _pixels(mask)
        dearest = len(pieces) * looks.shape[0] + m * int(np.ceil(np.log2(len(pieces) + 1)))
        if len(pieces) < 2 or question.ledger.left - dearest < end:
            break
        margins = leads([without(piece) for piece in pieces], looks, at, question)
        order = np.argsort(-margins.mean(-1), kind="stable")
        least_worthy = [pieces[i] for i in order]
        spared, missed = 0, 2 if rectangle else len(pieces)
        while missed - spared > 1:
            number = (spared + missed) // 2
            if spares(least_worthy[:number]):
                spared = number
            else:
                missed = number
        if spared == 0:
            break
        trigger = without(np.concatenate(least_worthy[:spared]))
        mask = np.asarray(trigger.mask)
    return trigger


def _is_rectangle(mask: np.ndarray) -> bool:
    """Whether a mask [H, W, 1] covers one rectangle, and all of it."""
    rows, cols = np.nonzero(mask[..., 0] > 0)
    return len(rows) == (np.ptp(rows) + 1) * (np.ptp(cols) + 1)


def _sides(mask: np.ndarray) -> list[np.ndarray]:
    """The first and last row and column of a rectangle, as flat indices of its pixels."""
    rows, cols = np.nonzero(mask[..., 0] > 0)
    places = rows * mask.shape[1] + cols
    sides = []
    for line in (rows, cols):
        if np.ptp(line) > 0:
            sides += [places[line == line.min()], places[line == line.max()]]
    return sides


def _pixels(mask: np.ndarray) -> list[np.ndarray]:
    """Each pixel of a mask by itself."""
    return list(np.flatnonzero(mask[..., 0] > 0)[:, None])
