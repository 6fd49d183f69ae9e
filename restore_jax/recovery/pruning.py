"""Leaves out of a trigger what it can do without.

Each pixel is left out by itself, faded, which says what it is worth; then as many of the
least worthy as the trigger can spare go at once, found by bisection, and what remains is looked
at again.
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
"""With labels a pixel's worth shows only where the trigger just about works: tried in turn."""
STRICT = (0.6, 0.5)
"""How faded a trigger must still work, if it can; a pruned one then is not a weak one."""
NUM_LOOKS = 8
"""Probes on which a pixel's worth is measured; with labels all."""
ROUNDS = 4


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
    for _ in range(ROUNDS):
        on = np.flatnonzero(mask.reshape(-1) > 0)
        dearest = len(on) * looks.shape[0] + m * int(np.ceil(np.log2(len(on) + 1)))
        if len(on) < 2 or question.ledger.left - dearest < end:
            break
        margins = leads([without(on[[i]]) for i in range(len(on))], looks, at, question)
        least_worthy = on[np.argsort(-margins.mean(-1), kind="stable")]
        spared, missed = 0, len(on)
        while missed - spared > 1:
            number = (spared + missed) // 2
            lead = leads([without(least_worthy[:number])], probes, fade, question)
            if (lead >= 0).sum() >= bar:
                spared = number
            else:
                missed = number
        if spared == 0:
            break
        trigger = without(least_worthy[:spared])
        mask = np.asarray(trigger.mask)
    return trigger
