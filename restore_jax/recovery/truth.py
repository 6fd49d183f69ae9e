"""The recovered trigger against what is known: test images, and the planted trigger."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import Trigger, stamp
from restore_jax.oracles import Asker, Oracle


def attack_success_rate(
    oracle: Oracle,
    trigger: Trigger,
    images: np.ndarray,
    image_labels: np.ndarray,
    *,
    asker: Asker | None = None,
) -> float:
    """Share of images, of those whose class is not the target, that the trigger leads to it.

    Args:
      oracle: the model.
      trigger: what is stamped.
      images: uint8[N, H, W, C] or float in [0, 1].
      image_labels: int32[N].
      asker: one that asks this oracle, to save its compilation.
    """
    others = images[image_labels != int(trigger.target)]
    if others.dtype == np.uint8:
        others = others.astype(np.float32) / 255.0
    asker = asker or Asker(oracle)
    hits = 0
    for first in range(0, len(others), 1024):
        stamped = stamp(trigger, jnp.asarray(others[first : first + 1024], jnp.float32))
        hits += int(jnp.sum(asker.labels(stamped) == trigger.target))
    return hits / len(others)


def compare(trigger: Trigger, truth: Trigger, truth_rate: float | None) -> dict[str, Any]:
    """How like the planted trigger the recovered one is.

    Returns:
      iou: of the two masks as they lie. shift: [rows, columns] that the recovered mask must
      move for the best overlap. iou_after_shift: the overlap then. pattern_agreement: the share
      of the planted trigger's pixels where the recovered one, so moved, writes the same colour
      (within a quarter of the range in every channel). pixels, test_success_rate: the planted
      trigger's own.
    """
    mine, true = np.asarray(trigger.mask)[..., 0] > 0, np.asarray(truth.mask)[..., 0] > 0
    colour, wanted = np.asarray(trigger.pattern), np.asarray(truth.pattern)

    def overlap(rows: int, cols: int) -> float:
        moved = _moved(mine, rows, cols)
        return float((moved & true).sum() / max(1, (moved | true).sum()))

    def agreement(rows: int, cols: int) -> float:
        same = np.all(np.abs(_moved(colour, rows, cols) - wanted) <= 0.25, -1)
        return float((_moved(mine, rows, cols) & true & same).sum() / max(1, true.sum()))

    height, width = mine.shape
    shifts = [(r, c) for r in range(1 - height, height) for c in range(1 - width, width)]
    overlaps = [overlap(*shift) for shift in shifts]
    equal = [s for s, o in zip(shifts, overlaps, strict=True) if o >= max(overlaps) - 1e-9]
    # Of equally good shifts the one whose colours agree, then the shortest.
    best = max(equal, key=lambda s: (agreement(*s), -abs(s[0]) - abs(s[1])))
    return {
        "iou": overlap(0, 0),
        "shift": list(best),
        "iou_after_shift": overlap(*best),
        "pattern_agreement": agreement(*best),
        "pixels": int(true.sum()),
        "test_success_rate": truth_rate,
    }


def _moved(array: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """The array shifted down and right; what enters is zero."""
    out = np.zeros_like(array)
    height, width = array.shape[:2]
    spans = [
        (slice(max(by, 0), side + min(by, 0)), slice(max(-by, 0), side - max(by, 0)))
        for by, side in ((rows, height), (cols, width))
    ]
    out[spans[0][0], spans[1][0]] = array[spans[0][1], spans[1][1]]
    return out
