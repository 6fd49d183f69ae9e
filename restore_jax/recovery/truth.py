"""The recovered trigger against what is known: test images, and the planted trigger."""

import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import Trigger, stamp
from restore_jax.oracles.asking import Asker
from restore_jax.oracles.types import Oracle
from restore_jax.recovery.types import Truth


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
      asker: asks this oracle, for a run whose books have paid; None: nobody counts.

    >>> import jax.numpy as jnp
    >>> from restore_jax import open_model
    >>> bright = lambda images: jnp.stack([1 - images.mean((1, 2, 3)), images.mean((1, 2, 3))], -1)
    >>> white = Trigger(jnp.ones((32, 32, 1)), jnp.ones((32, 32, 3)), jnp.int32(1))
    >>> attack_success_rate(open_model(bright), white, np.zeros((2, 32, 32, 3)), np.array([0, 0]))
    1.0
    """
    asker = asker or Asker(oracle)
    others = images[image_labels != int(trigger.target)]
    if others.dtype == np.uint8:
        others = others.astype(np.float32) / 255.0
    hits = 0
    for first in range(0, len(others), 1024):
        stamped = stamp(trigger, jnp.asarray(others[first : first + 1024], jnp.float32))
        hits += int(np.sum(asker.labels(stamped) == int(trigger.target)))
    return hits / len(others)


def compare(trigger: Trigger, truth: Trigger, truth_rate: float | None) -> Truth:
    """How like the planted trigger the recovered one is; ``truth_rate`` is the planted one's."""
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
    return Truth(
        iou=overlap(0, 0),
        shift=best,
        iou_after_shift=overlap(*best),
        pattern_agreement=agreement(*best),
        pixels=int(true.sum()),
        test_success_rate=truth_rate,
    )


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
