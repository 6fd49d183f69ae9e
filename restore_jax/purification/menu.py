"""The rules that a guard is chosen from: pairs of looks that were seen to work.

They were found on nine models with planted triggers (patches, scattered pixels, a faint patch, a
blended picture, a smooth picture, a filter, a warp, cosine coefficients), among some thousand pairs
of looks. So few, because the probes that one of them is chosen on are no photographs, and the
recovered triggers not the planted one: the best of a thousand by such measures is good at nothing
else.
"""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from restore_jax.backdoors import Trigger
from restore_jax.purification import looks
from restore_jax.purification.inverses import subtract
from restore_jax.purification.types import Look, Rule

Array = jax.Array
SIDE = 3
"""Of the windows against a rectangle, of which there are as many as it takes to cover what was
recovered."""
LARGER = 5
"""Of the one window against a larger rectangle."""
NUM_PIXELS = 16
"""Windows of one pixel, against scattered pixels and faint patches."""
DENSE = 0.25
"""A trigger that covers more than this share of an image is taken back."""


def menu(shape: tuple[int, int, int], triggers: Sequence[Trigger], probe: Array) -> list[Rule]:
    """The rules for a class, those first that are to be preferred.

    Args:
      shape: (H, W, C) of the images.
      triggers: those recovered: how many windows there are, and what is taken back.
      probe: f32[H, W, C], of another class and easily led, onto which windows are put.
    """
    mirrored, low = Look("mirrored", looks.mirrored), Look("low frequencies", looks.low_frequencies)
    pixels, on_probe = _windows(1, NUM_PIXELS, 0, probe)
    rules = [
        Rule("mean", low, pixels),
        Rule("mean", mirrored, Look("moved", looks.moved_by_one)),
        Rule("mean", low, mirrored),
    ]
    if shape[2] == 3:
        grey = Look("grey", looks.grey)
        rules.append(Rule("mean", grey, Look("mirrored grey", looks.mirrored_grey)))
    rules.append(Rule("mean", Look("median", looks.median), mirrored))
    if min(shape[:2]) >= 2 * LARGER:
        rules.append(Rule("first", pixels, _windows(LARGER, 1, 0, probe)[0]))
    rules.append(Rule("led", pixels, on_probe))
    rules.append(Rule("led", *_windows(SIDE, _number(triggers), 1, probe)))
    rules.append(Rule("either", mirrored, low))
    area = shape[0] * shape[1]
    rules += [
        Rule("alone", Look("trigger taken back", partial(subtract, one)))
        for one in triggers
        if one.additive or one.changes_all or int(one.pixels) > DENSE * area
    ]
    return rules


def _number(triggers: Sequence[Trigger]) -> int:
    """How many windows of `SIDE` pixels cover the smallest of some triggers."""
    local = [int(one.pixels) for one in triggers if not (one.additive or one.changes_all)]
    area = min([*local, LARGER**2]) if local else SIDE**2
    return max(1, int(np.round(area / SIDE**2)))


def _windows(side: int, number: int, more: int, probe: Array) -> tuple[Look, Look]:
    """The windows that stand out most painted over, and the same windows on a probe."""
    what = f"{number} window{'s' if number > 1 else ''} of {side}x{side}"
    paint = partial(looks.painted, side=side, number=number, more=more)
    move = partial(looks.transplanted, probe=probe, side=side, number=number, more=more)
    return Look(f"{what} painted over", paint), Look(f"{what} on a probe", move)
