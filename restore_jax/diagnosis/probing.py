"""The probes of a scan: few, as evenly spread over the model's classes as it allows.

A class has its own event, over those probes that are not of that class without a trigger. All
classes' probes are taken from one pool, so that one answer of the model speaks for every class.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.data.probes import ProbeSource
from restore_jax.errors import Inconclusive
from restore_jax.run import Run

Array = jax.Array
FIRST_LOOK = 96
MOST_LOOKED_AT = 288


class Pool(NamedTuple):
    """The probes of a scan.

    Attributes:
      probes: f32[M, H, W, C].
      valid: bool[K, M]: whose event a probe belongs to; of each class m probes, or none at all
        if too few are of another class.
      predicted: int32[M], the classes of the probes without a trigger.
      looked_at: f32[N, H, W, C] and int32[N]: all images that were looked at, and their classes.
      covered: how many classes the model gave to any of them.
    """

    probes: Array
    valid: np.ndarray
    predicted: np.ndarray
    looked_at: tuple[np.ndarray, np.ndarray]
    covered: int

    @property
    def judged(self) -> np.ndarray:
        """bool[K]: the classes that have an event at all."""
        return np.asarray(self.valid.any(1))

    def turned_away(self, target: int) -> Array:
        """f32[k, H, W, C]: the images looked at that the model gives class ``target``."""
        images, answers = self.looked_at
        return jnp.asarray(images[answers == target])


def make_pool(run: Run, sources: list[ProbeSource], m: int) -> Pool:
    """Chooses the fewest probes of which m serve every class, by turns of the predicted classes.

    Args:
      run: asks about images, and books it.
      sources: where they come from: the first as far as it does, then the next.
      m: probes of each class's event.

    Raises:
      Inconclusive: all images are of one class to this model, or not even one class has m probes.
      DataError: a source cannot be read.
    """
    num_classes = run.model.num_classes
    images = np.zeros((0, *sources[0].image_shape), np.float32)
    answers = np.zeros(0, np.int32)
    for source in sources:
        if _enough(answers, num_classes, m) and _even(answers, num_classes):
            break
        asked = 0
        most = MOST_LOOKED_AT if source.available is None else source.available
        while asked < min(most, MOST_LOOKED_AT):
            more = min(FIRST_LOOK, most - asked, run.ledger.left)
            if more <= 0:
                break
            fresh = np.asarray(source.draw(asked, more))
            answers = np.concatenate([answers, run.labels(fresh)])
            images, asked = np.concatenate([images, fresh]), asked + more
            if _enough(answers, num_classes, m):
                break
    covered = len(np.unique(answers))
    if covered < 2:
        raise Inconclusive(
            f"the model gives all {len(answers)} probes the same class, {int(answers[0])}, so "
            "nothing can be said of it: is it asked rightly? See `value_range` (0,1 or 0,255), "
            "`mean` and `std`, `layout`; or give other `probes`."
        )
    served = [k for k in range(num_classes) if (answers != k).sum() >= m]
    if not served:
        raise Inconclusive(
            f"of {len(answers)} probes fewer than {m} are not of one and the same class to this "
            "model: give other `probes`."
        )
    order = _by_turns(answers)
    # The classes that any probe is of decide how many are needed; of all others each probe serves.
    taken = [k for k in np.unique(answers) if (answers != k).sum() >= m]
    counts = np.stack([np.cumsum(answers[order] != k) for k in taken] or [np.arange(len(order))])
    size = max(m, int(np.argmax((counts >= m).all(0))) + 1)
    chosen = order[:size]
    valid = answers[chosen] != np.arange(num_classes)[:, None]
    valid &= np.cumsum(valid, 1) <= m
    valid &= valid.sum(1, keepdims=True) == m
    return Pool(jnp.asarray(images[chosen]), valid, answers[chosen], (images, answers), covered)


def _enough(answers: np.ndarray, num_classes: int, m: int) -> bool:
    """Whether every class has m probes that are not of it."""
    if not len(answers):
        return False
    return bool(len(answers) - np.bincount(answers, minlength=num_classes).max() >= m)


def _even(answers: np.ndarray, num_classes: int) -> bool:
    """Whether the answers name at least half of the classes, or eight."""
    return len(np.unique(answers)) >= min(8, (num_classes + 1) // 2)


def _by_turns(answers: np.ndarray) -> np.ndarray:
    """The places of all answers, ordered so that classes take turns while they last."""
    turn = np.zeros(len(answers), int)
    for k in np.unique(answers):
        turn[answers == k] = np.arange((answers == k).sum())
    return np.lexsort((np.arange(len(answers)), turn))
