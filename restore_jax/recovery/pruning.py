"""Pruning: leaves out of a trigger what it can do without.

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
from restore_jax.errors import OutOfQueries
from restore_jax.racing import needed
from restore_jax.recovery.aims import NUM_CONFIRMATION
from restore_jax.recovery.candidates import leads
from restore_jax.recovery.found import Found, known
from restore_jax.run import Run

Array = jax.Array
MAX_PRUNING = 2_000
"""Images that pruning may send, if the budget has them."""
FADES = (0.8, 0.7, 0.6, 0.5)
"""Tried in turn. With labels a piece's worth shows only where the trigger barely works."""
STRICT = (0.6, 0.5)
"""At which fading a pruned trigger must still work, the largest first: so none becomes weak."""
NUM_LOOKS = 8
"""Probes on which a piece's worth is measured; with labels all."""


def prune(run: Run, found: Found) -> Found:
    """The trigger with fewer pixels that leads as many probes as before, as faded as it can be.

    A trigger that is not past the goal, or not written on some pixels, is given back as it is.
    """
    aim = found.aim
    with run.stage("pruning"), run.keeping(2 * NUM_CONFIRMATION):
        if not found.past or found.interrupted:
            return found
        most = min(MAX_PRUNING, run.ledger.left - 2 * NUM_CONFIRMATION)
        looking = _Looking(run, known(found.probes), run.ledger.left - most)
        try:
            pruned = _pruned(looking, known(found.trigger), aim.settings.fade, aim.success)
        except OutOfQueries:  # images had to be sent again
            return found
    return found.now(trigger=pruned)


@dataclasses.dataclass(frozen=True)
class _Looking:
    """Looks at triggers as long as the images last.

    Attributes:
      run: asks the model.
      probes: f32[m, H, W, C].
      end: of the budget, the images that are not for this.
    """

    run: Run
    probes: Array
    end: int

    def pays_for(self, images: int) -> bool:
        return self.run.ledger.left - images >= self.end

    def leads(self, triggers: list[Trigger], fade: float, looks: int | None = None) -> np.ndarray:
        """f32[k, m], or of the first ``looks`` probes."""
        return leads(self.run, triggers, self.probes[:looks], fade)


def _pruned(looking: _Looking, trigger: Trigger, fade: float, success: float) -> Trigger:
    """The smallest trigger that the images pay for finding."""
    m, mask = looking.probes.shape[0], np.asarray(trigger.mask)
    if trigger.additive or np.asarray(trigger.support).all() or not looking.pays_for(m):
        return trigger
    standard = _standard(looking, trigger, fade, needed(success, m))
    telling = None if standard is None else _telling_fade(looking, trigger, standard[1])
    if standard is None or telling is None:
        return trigger
    looks = m if looking.run.model.access == "labels" else min(NUM_LOOKS, m)
    rectangle = _is_rectangle(mask)
    while True:
        pieces = _sides(mask) if rectangle else _pixels(mask)
        dearest = len(pieces) * looks + m * int(np.ceil(np.log2(len(pieces) + 1)))
        if len(pieces) < 2 or not looking.pays_for(dearest):
            return trigger
        alone = [_without(trigger, mask, piece) for piece in pieces]
        order = np.argsort(-looking.leads(alone, telling, looks).mean(-1), kind="stable")
        least_worthy = [pieces[i] for i in order]
        most = 1 if rectangle else len(pieces) - 1
        spared = _spared(looking, trigger, mask, least_worthy, most, standard)
        if spared == 0:
            return trigger
        trigger = _without(trigger, mask, np.concatenate(least_worthy[:spared]))
        mask = np.asarray(trigger.mask)


def _standard(
    looking: _Looking, trigger: Trigger, fade: float, enough: int
) -> tuple[int, float] | None:
    """What the trigger does now and must go on doing, as faded as it can: ``(probes led, fade)``.

    None where it does not do enough even unfaded, or the images do not pay.
    """
    for at in (*STRICT, fade, 0.5 * fade, 0.0):
        if not looking.pays_for(looking.probes.shape[0]):
            return None
        led = int((looking.leads([trigger], at) >= 0).sum())
        if led >= enough:
            return led, at
    return None


def _telling_fade(looking: _Looking, trigger: Trigger, fade: float) -> float | None:
    """How faded a piece's worth is measured; None if the images do not pay for finding out.

    Margins tell it as faded as the trigger must work; labels where it just about works.
    """
    if looking.run.model.access != "labels":
        return fade
    for at in FADES:
        if not looking.pays_for(looking.probes.shape[0]):
            return None
        if (looking.leads([trigger], at) >= 0).mean() > 0.3:
            break
    return at


def _spared(
    looking: _Looking,
    trigger: Trigger,
    mask: np.ndarray,
    least_worthy: list[np.ndarray],
    most: int,
    standard: tuple[int, float],
) -> int:
    """How many of the pieces, the least worthy first, can be left out at once: by bisection."""
    led, fade = standard
    spared, missed = 0, most + 1
    while missed - spared > 1:
        number = (spared + missed) // 2
        without = _without(trigger, mask, np.concatenate(least_worthy[:number]))
        if (looking.leads([without], fade) >= 0).sum() >= led:
            spared = number
        else:
            missed = number
    return spared


def _without(trigger: Trigger, mask: np.ndarray, pixels: np.ndarray) -> Trigger:
    """The trigger without some pixels, flat indices."""
    left = mask.reshape(-1).copy()
    left[pixels] = 0.0
    return dataclasses.replace(trigger, mask=jnp.asarray(left.reshape(mask.shape)))


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
