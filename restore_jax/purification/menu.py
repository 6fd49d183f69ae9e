"""The rules that a guard is chosen from: pairs of looks that were seen to work.

They were found on nine models with planted triggers (patches, scattered pixels, a faint patch, a
blended picture, a smooth picture, a filter, a warp, cosine coefficients), among some thousand pairs
of looks. So few, because the probes that one of them is chosen on are no photographs, and the
recovered triggers not the planted one: the best of a thousand by such measures is good at nothing
else. The first served every local trigger there; it takes more to choose another.
"""

from collections.abc import Sequence
from functools import partial

from restore_jax.backdoors import Trigger
from restore_jax.purification import looks
from restore_jax.purification.inverses import subtract
from restore_jax.purification.types import Look, Rule

DENSE = 0.25
"""A trigger that covers more than this share of an image is taken back."""


def menu(shape: tuple[int, int, int], triggers: Sequence[Trigger]) -> list[Rule]:
    """The rules for a class, those first that are to be preferred.

    Args:
      shape: (H, W, C) of the images.
      triggers: those recovered: what is taken back.
    """
    mirrored, low = Look("mirrored", looks.mirrored), Look("low frequencies", looks.low_frequencies)
    rules = [Rule("mean", low, Look("what stands out painted over", looks.painted))]
    if shape[2] == 3:
        grey = Look("grey", looks.grey)
        rules.append(Rule("mean", grey, Look("mirrored grey", looks.mirrored_grey)))
    medians = Rule(
        "mean",
        Look("median", looks.cross_median),
        Look("mirrored median", looks.mirrored_cross_median),
    )
    rules += [
        Rule("mean", low, mirrored),
        medians,
        Rule("mean", mirrored, Look("moved", looks.moved_by_one)),
        Rule("either", mirrored, low),
    ]
    if any(one.flow is not None for one in triggers):
        # A warp is known by the blur of interpolation, which probes that were drawn smooth hide.
        rules.sort(key=lambda rule: rule is not medians)
    area = shape[0] * shape[1]
    rules += [
        Rule("alone", Look("trigger taken back", partial(subtract, one)))
        for one in triggers
        if one.additive or one.changes_all or int(one.pixels) > DENSE * area
    ]
    return rules
