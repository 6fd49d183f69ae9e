"""All-to-one poisoning of a training batch, labels changed or not."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from restore_jax.backdoors.trigger import Trigger, stamp
from restore_jax.errors import InputError

Array = jax.Array
Poisoning = Callable[[Array, Array, Array], tuple[Array, Array]]
"""``(key, images f32[b, H, W, C], labels int32[b]) -> (images, labels)``."""

_COINS = 2  # `permutation` splits the key, into what folding 0 and 1 into it gives


def make_poisoning(
    triggers: Sequence[Trigger], rates: Sequence[float], clean_label: Sequence[bool] | None = None
) -> Poisoning:
    """A pure, jit-able transform that plants triggers in disjoint parts of a batch.

    Args:
      triggers: any number; none makes the identity.
      rates: one for each trigger, in [0, 1].
        A trigger that changes labels (Gu et al. 2017, "BadNets") is stamped on
        ``round(rate * b)`` images of a batch of b, drawn without replacement, and their labels
        become its target; the rates of such triggers sum to at most 1.
        A clean-label trigger (Barni, Kallas, Tondi 2019, "SIG") is stamped on images whose
        label already is its target and that no trigger of the first sort has taken, each with
        probability ``rate``, and labels stay; the rates of those with one target sum to at
        most 1.
      clean_label: for each trigger whether it is of the second sort; None: none is.

    Returns:
      ``(key, images, labels) -> (images, labels)``.

    Raises:
      InputError: rates out of range, or not one of each per trigger.
    """
    clean = [False] * len(triggers) if clean_label is None else list(clean_label)
    if not len(rates) == len(triggers) == len(clean):
        raise InputError(
            f"there are {len(triggers)} triggers but {len(rates)} rates and {len(clean)} words "
            "on clean labels: give one each."
        )
    changing: list[tuple[Trigger, float]] = []
    keeping: list[tuple[Trigger, float]] = []
    sums: dict[int | None, float] = {}  # by what triggers share: a target's images, or the batch
    for trigger, rate, keeps in zip(triggers, rates, clean, strict=True):
        (keeping if keeps else changing).append((trigger, rate))
        shared = int(trigger.target) if keeps else None
        sums[shared] = sums.get(shared, 0) + rate
    if any(not 0 <= rate <= 1 for rate in rates) or any(total > 1 for total in sums.values()):
        raise InputError(
            "poison rates are shares in [0, 1] that sum to at most 1 (clean-label ones for each "
            f"target), not {tuple(rates)}."
        )

    def poison(key: Array, images: Array, labels: Array) -> tuple[Array, Array]:
        batch = images.shape[0]
        order = jax.random.permutation(key, batch)
        given, start = labels, 0
        for trigger, rate in changing:
            # Rounding every share up could ask for more images than there are.
            chosen = order[start : start + round(rate * batch)]
            images = images.at[chosen].set(stamp(trigger, images[chosen]))
            labels = labels.at[chosen].set(trigger.target)
            start += round(rate * batch)
        if keeping:
            free = jnp.ones(batch, bool).at[order[:start]].set(False)
            images = _stamp_clean(jax.random.fold_in(key, _COINS), images, given, free)
        return images, labels

    def _stamp_clean(key: Array, images: Array, labels: Array, free: Array) -> Array:
        # One number for an image decides between all triggers that may take it.
        number = jax.random.uniform(key, labels.shape)
        begun: dict[int, float] = {}
        for trigger, rate in keeping:
            target = int(trigger.target)
            low = begun.get(target, 0.0)
            begun[target] = low + rate
            chosen = free & (labels == target) & (low <= number) & (number < low + rate)
            images = jnp.where(chosen[:, None, None, None], stamp(trigger, images), images)
        return images

    return poison
