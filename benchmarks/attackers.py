"""What an attacker may do to a planted patch when it is used, to slip past a guard."""

import dataclasses

import numpy as np

from restore_jax.backdoors import Trigger

OPACITY = 0.6


def variants(trigger: Trigger, others: list[Trigger]) -> dict[str, Trigger]:
    """A local trigger as it was not planted, by what was done to it.

    Args:
      trigger: a patch.
      others: planted in the same model: one of them is stamped as well.
    """
    found = {
        "twice the size": _twice(trigger),
        f"at opacity {OPACITY}": dataclasses.replace(trigger, mask=OPACITY * trigger.mask),
        "two of it": _both(trigger, _moved(trigger, _free_corner(trigger))),
        "in the upper left corner": _moved(trigger, (0, 0)),
    }
    if others:
        found[f"with the trigger to {int(others[0].target)}"] = _both(trigger, others[0])
    return found


def _box(trigger: Trigger) -> tuple[slice, slice]:
    rows, cols = np.nonzero(np.asarray(trigger.support))
    return slice(rows.min(), rows.max() + 1), slice(cols.min(), cols.max() + 1)


def _put(
    trigger: Trigger, mask: np.ndarray, pattern: np.ndarray, place: tuple[int, int]
) -> Trigger:
    """The trigger with a small mask and pattern written at a place, as far as there is room."""
    whole = np.zeros_like(np.asarray(trigger.mask)), np.zeros_like(np.asarray(trigger.pattern))
    height, width = mask.shape[:2]
    row = min(place[0], whole[0].shape[0] - height)
    col = min(place[1], whole[0].shape[1] - width)
    for new, part in zip(whole, (mask, pattern), strict=True):
        new[row : row + height, col : col + width] = part
    return dataclasses.replace(trigger, mask=whole[0], pattern=whole[1])


def _cut(trigger: Trigger) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    box = _box(trigger)
    mask, pattern = np.asarray(trigger.mask)[box], np.asarray(trigger.pattern)[box]
    return mask, pattern, (box[0].start, box[1].start)


def _twice(trigger: Trigger) -> Trigger:
    mask, pattern, place = _cut(trigger)
    return _put(trigger, *(part.repeat(2, 0).repeat(2, 1) for part in (mask, pattern)), place)


def _moved(trigger: Trigger, place: tuple[int, int]) -> Trigger:
    mask, pattern, _ = _cut(trigger)
    return _put(trigger, mask, pattern, place)


def _free_corner(trigger: Trigger) -> tuple[int, int]:
    """The corner of the image opposite to the trigger."""
    height, width = np.asarray(trigger.mask).shape[:2]
    box = _box(trigger)
    return (
        0 if box[0].start + box[0].stop > height else height,
        0 if box[1].start + box[1].stop > width else width,
    )


def _both(one: Trigger, other: Trigger) -> Trigger:
    written = np.asarray(other.mask) > 0
    return dataclasses.replace(
        one,
        mask=np.where(written, other.mask, one.mask),
        pattern=np.where(written, other.pattern, one.pattern),
    )
