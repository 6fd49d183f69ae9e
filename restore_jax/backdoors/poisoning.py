"""Poison-label, all-to-one poisoning of a training batch (Gu et al. 2017, BadNets)."""

from collections.abc import Callable, Sequence

import jax

from restore_jax.backdoors.trigger import Trigger, stamp

Array = jax.Array
Poisoning = Callable[[Array, Array, Array], tuple[Array, Array]]
"""``(key, images f32[b, H, W, C], labels int32[b]) -> (images, labels)``."""


def make_poisoning(triggers: Sequence[Trigger], rates: Sequence[float]) -> Poisoning:
    """A pure, jit-able transform that plants triggers in disjoint parts of a batch.

    Args:
      triggers: any number; none makes the identity.
      rates: each trigger's share of a batch, in [0, 1], together at most 1. A batch of b
        gets ``round(rate * b)`` images with that trigger, drawn without replacement.

    Returns:
      ``(key, images, labels) -> (images, labels)``.

    Raises:
      ValueError: rates out of range, or not one per trigger.
    """
    if len(rates) != len(triggers):
        raise ValueError(
            f"there are {len(triggers)} triggers but {len(rates)} rates: give one each."
        )
    if any(not 0 <= rate <= 1 for rate in rates) or sum(rates) > 1:
        raise ValueError(f"poison rates are shares in [0, 1] that sum to at most 1, not {rates}.")

    def poison(key: Array, images: Array, labels: Array) -> tuple[Array, Array]:
        batch = images.shape[0]
        order = jax.random.permutation(key, batch)
        start = 0
        for trigger, rate in zip(triggers, rates, strict=True):
            # Rounding every share up could ask for more images than there are.
            chosen = order[start : start + round(rate * batch)]
            images = images.at[chosen].set(stamp(trigger, images[chosen]))
            labels = labels.at[chosen].set(trigger.target)
            start += round(rate * batch)
        return images, labels

    return poison
