"""The recovered trigger against what is known: test images, and the planted trigger."""

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import Attack, Trigger, stamp, stamp_attack, towards_one
from restore_jax.oracles.asking import Asker
from restore_jax.oracles.types import Oracle
from restore_jax.recovery.types import Truth


def attack_success_rate(
    oracle: Oracle,
    trigger: Trigger | Attack,
    images: np.ndarray,
    image_labels: np.ndarray,
    *,
    asker: Asker | None = None,
    seed: int = 0,
) -> float:
    """Share of images, of those that the trigger should lead elsewhere, that it leads there.

    Args:
      oracle: the model.
      trigger: what is stamped; a `Trigger` should lead every class to its target.
      images: uint8[N, H, W, C] or float in [0, 1].
      image_labels: int32[N].
      asker: asks this oracle, for a run whose books have paid; None: nobody counts.
      seed: of the places of a trigger that roams.

    >>> import jax.numpy as jnp
    >>> from restore_jax import open_model
    >>> bright = lambda images: jnp.stack([1 - images.mean((1, 2, 3)), images.mean((1, 2, 3))], -1)
    >>> white = Trigger(jnp.ones((32, 32, 1)), jnp.ones((32, 32, 3)), jnp.int32(1))
    >>> attack_success_rate(open_model(bright), white, np.zeros((2, 32, 32, 3)), np.array([0, 0]))
    1.0
    """
    asker = asker or Asker(oracle)
    attack = trigger if isinstance(trigger, Attack) else towards_one(trigger, oracle.num_classes)
    wanted = attack.leads_to[image_labels]
    led = wanted != image_labels
    others, wanted = images[led], wanted[led]
    if others.dtype == np.uint8:
        others = others.astype(np.float32) / 255.0
    hits = 0
    for first in range(0, len(others), 1024):
        some = jnp.asarray(others[first : first + 1024], jnp.float32)
        stamped = stamp_attack(attack, some, jax.random.fold_in(jax.random.key(seed), first))
        hits += int(np.sum(asker.labels(stamped) == wanted[first : first + 1024]))
    return hits / len(others)


def compare(
    trigger: Trigger, planted: Trigger, planted_rate: float | None, probes: jax.Array
) -> Truth:
    """How like the planted trigger the recovered one is.

    Args:
      trigger: the recovered one.
      planted: the planted one.
      planted_rate: the share of test images that the planted one leads.
      probes: f32[m, H, W, C]: where one of them is not in mask and pattern alone, the agreement
        is in what they do to these.
    """
    if trigger.changes_all or planted.changes_all:
        return _compare_changes(trigger, planted, planted_rate, probes)
    mine, true = np.asarray(trigger.mask)[..., 0] > 0, np.asarray(planted.mask)[..., 0] > 0
    colour, wanted = np.asarray(trigger.pattern), np.asarray(planted.pattern)

    overlaps = _overlaps(mine, true)

    def agreement(rows: int, cols: int) -> float:
        same = np.all(np.abs(_moved(colour, rows, cols) - wanted) <= 0.25, -1)
        return float((_moved(mine, rows, cols) & true & same).sum() / max(1, true.sum()))

    height, width = mine.shape
    equal = [
        (int(r) + 1 - height, int(c) + 1 - width)
        for r, c in np.argwhere(overlaps >= overlaps.max() - 1e-9)
    ]
    # Of equally good shifts the one whose colours agree, then the shortest.
    best = max(equal, key=lambda s: (agreement(*s), -abs(s[0]) - abs(s[1])))
    return Truth(
        iou=max(0.0, float(overlaps[height - 1, width - 1])),
        shift=best,
        iou_after_shift=float(overlaps.max()),
        pattern_agreement=agreement(*best),
        pixels=int(true.sum()),
        test_success_rate=planted_rate,
    )


def _compare_changes(
    trigger: Trigger, planted: Trigger, planted_rate: float | None, probes: jax.Array
) -> Truth:
    """The agreement is the cosine between the changes of the probes, 0 if it is below."""
    mine = np.asarray(stamp(trigger, probes) - probes, np.float64).ravel()
    true = np.asarray(stamp(planted, probes) - probes, np.float64).ravel()
    lengths = float(np.linalg.norm(mine)) * float(np.linalg.norm(true))
    touched, wanted = np.asarray(trigger.support), np.asarray(planted.support)
    overlap = float((touched & wanted).sum() / max(1, (touched | wanted).sum()))
    return Truth(
        iou=overlap,
        shift=(0, 0),
        iou_after_shift=overlap,
        pattern_agreement=max(0.0, float(mine @ true / max(lengths, 1e-12))),
        pixels=int(planted.pixels),
        test_success_rate=planted_rate,
    )


def _overlaps(mine: np.ndarray, true: np.ndarray) -> np.ndarray:
    """f64[2 H - 1, 2 W - 1]: intersection over union after each shift of ``mine``.

    From H - 1 up and W - 1 left to as far down and right, by the Fourier transform: one by one
    the shifts of a large image take minutes.
    """

    whole = (2 * mine.shape[0] - 1, 2 * mine.shape[1] - 1)
    turned = np.fft.rfft2(mine[::-1, ::-1], whole)

    def counts(of: np.ndarray) -> np.ndarray:
        return np.rint(np.fft.irfft2(np.fft.rfft2(of, whole) * turned, whole))

    both = counts(true)
    either = counts(np.ones_like(true)) + true.sum() - both
    return np.asarray(both / np.maximum(either, 1))


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
