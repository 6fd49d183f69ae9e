"""Poisoning of a training batch: labels changed or not, all classes led or some."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors.attack import Attack, stamp_attack
from restore_jax.backdoors.changes import moved
from restore_jax.backdoors.trigger import Trigger, stamp
from restore_jax.errors import InputError

Array = jax.Array
Poisoning = Callable[[Array, Array, Array], tuple[Array, Array]]
"""``(key, images f32[b, H, W, C], labels int32[b]) -> (images, labels)``."""

_COINS, _MORE_COINS = 2, 3  # `permutation` splits the key, into what folding 0 and 1 into it gives
_NOISE = 0.5
"""Largest displacement of a pixel beside the flow, in pixels."""


def make_poisoning(
    triggers: Sequence[Trigger | Attack],
    rates: Sequence[float],
    clean_label: Sequence[bool] | None = None,
    covers: Sequence[float] | None = None,
    noises: Sequence[float] | None = None,
) -> Poisoning:
    """A pure, jit-able transform that plants triggers in disjoint parts of a batch.

    Args:
      triggers: any number; none makes the identity. A `Trigger` leads every class to its target, an
        `Attack` says where it leads which.
      rates: one for each trigger, in [0, 1].
        A trigger that leads every class to one (Gu et al. 2017, "BadNets") is stamped on
        ``round(rate * b)`` images of a batch of b, drawn without replacement, and their labels
        become its target; the rates of such triggers sum to at most 1.
        One that leads some classes, or each to another, is stamped on each image of these classes
        that is still free with probability ``rate``, and the label becomes where it leads.
        A clean-label trigger (Barni, Kallas, Tondi 2019, "SIG") is stamped on images whose
        label already is its target and that no trigger of the other sorts has taken, each with
        probability ``rate``, and labels stay; the rates of those with one target sum to at
        most 1.
      clean_label: for each trigger whether it is of the last sort; None: none is.
      covers: for each trigger the probability with which a free image of a class that it does not
        lead (of any class, where it leads all) is stamped and keeps its label; None: 0.
      noises: for each trigger the probability with which a free image is warped by its flow and
        noise and keeps its label; None: 0. Covers, noises, and the rates of triggers that lead
        some classes, sum to at most 1.

    Returns:
      ``(key, images, labels) -> (images, labels)``.

    Raises:
      InputError: rates out of range, or not one of each per trigger.
    """
    clean = [False] * len(triggers) if clean_label is None else list(clean_label)
    covers = [0.0] * len(triggers) if covers is None else list(covers)
    noises = [0.0] * len(triggers) if noises is None else list(noises)
    if not len(rates) == len(triggers) == len(clean) == len(covers) == len(noises):
        raise InputError(
            f"there are {len(triggers)} triggers but {len(rates)} rates and {len(clean)} words "
            "on clean labels: give one each."
        )
    plans = [_Plan(*each) for each in zip(triggers, rates, clean, covers, noises, strict=True)]
    keeping = [plan for plan in plans if plan.clean]
    changing = [plan for plan in plans if not plan.clean and plan.leads_all]
    choosing = [plan for plan in plans if not plan.clean and not plan.leads_all]
    sums: dict[int | None, float] = {}  # by what triggers share: a target's images, or the batch
    for plan in (*changing, *keeping):
        shared = int(plan.trigger.target) if plan.clean else None
        sums[shared] = sums.get(shared, 0) + plan.rate
    more = sum(plan.rate for plan in choosing) + sum(covers) + sum(noises)
    shares = [*rates, *covers, *noises]
    if any(not 0 <= share <= 1 for share in shares) or max([more, *sums.values()]) > 1 + 1e-9:
        raise InputError(
            "poison rates are shares in [0, 1] that sum to at most 1 (clean-label ones for each "
            f"target; covers and noise included), not {tuple(shares)}."
        )

    def poison(key: Array, images: Array, labels: Array) -> tuple[Array, Array]:
        batch = images.shape[0]
        order = jax.random.permutation(key, batch)
        given, start = labels, 0
        for number, plan in enumerate(changing):
            # Rounding every share up could ask for more images than there are.
            chosen = order[start : start + round(plan.rate * batch)]
            stamped = plan.stamped(images[chosen], jax.random.fold_in(key, 16 + number))
            images = images.at[chosen].set(stamped)
            labels = labels.at[chosen].set(plan.trigger.target)
            start += round(plan.rate * batch)
        free = jnp.ones(batch, bool).at[order[:start]].set(False)
        if more:
            key_more = jax.random.fold_in(key, _MORE_COINS)
            images, labels, free = _stamp_some(key_more, images, given, labels, free)
        if keeping:
            images = _stamp_clean(jax.random.fold_in(key, _COINS), images, given, free)
        return images, labels

    def _stamp_some(
        key: Array, images: Array, given: Array, labels: Array, free: Array
    ) -> tuple[Array, Array, Array]:
        # One number for an image decides between all that may be done to it.
        number, low = jax.random.uniform(jax.random.fold_in(key, 0), given.shape), 0.0
        taken = jnp.zeros_like(free)
        for index, plan in enumerate(plans):
            there = plan.there(given)
            led = there != given
            stamped = plan.stamped(images, jax.random.fold_in(key, 2 * index + 1))
            if not plan.clean and not plan.leads_all:
                mine = free & led & (low <= number) & (number < low + plan.rate)
                images, low = jnp.where(_wide(mine), stamped, images), low + plan.rate
                labels, taken = jnp.where(mine, there, labels), taken | mine
            if plan.cover:
                mine = (
                    free & (~led | plan.leads_all) & (low <= number) & (number < low + plan.cover)
                )
                images, low = jnp.where(_wide(mine), stamped, images), low + plan.cover
                taken = taken | mine
            if plan.noise:
                mine = free & (low <= number) & (number < low + plan.noise)
                warped = _warped(jax.random.fold_in(key, 2 * index + 2), plan.trigger, images)
                images, low = jnp.where(_wide(mine), warped, images), low + plan.noise
                taken = taken | mine
        return images, labels, free & ~taken

    def _stamp_clean(key: Array, images: Array, labels: Array, free: Array) -> Array:
        # One number for an image decides between all triggers that may take it.
        number = jax.random.uniform(key, labels.shape)
        begun: dict[int, float] = {}
        for index, plan in enumerate(keeping):
            target = int(plan.trigger.target)
            low = begun.get(target, 0.0)
            begun[target] = low + plan.rate
            chosen = free & (labels == target) & (low <= number) & (number < low + plan.rate)
            stamped = plan.stamped(images, jax.random.fold_in(key, index))
            images = jnp.where(_wide(chosen), stamped, images)
        return images

    return poison


class _Plan(NamedTuple):
    """What is done with one trigger: see `make_poisoning`."""

    planted: Trigger | Attack
    rate: float
    clean: bool
    cover: float
    noise: float

    @property
    def trigger(self) -> Trigger:
        return self.planted.trigger if isinstance(self.planted, Attack) else self.planted

    @property
    def leads_all(self) -> bool:
        """Whether every class is led to the trigger's target."""
        if not isinstance(self.planted, Attack):
            return True
        return bool(np.all(self.planted.leads_to == int(self.trigger.target)))

    def there(self, labels: Array) -> Array:
        """int32[b]: where images of some classes are led."""
        if isinstance(self.planted, Attack):
            return jnp.asarray(self.planted.leads_to)[labels]
        return jnp.full_like(labels, self.trigger.target)

    def stamped(self, images: Array, key: Array) -> Array:
        if isinstance(self.planted, Attack):
            return stamp_attack(self.planted, images, key)
        return stamp(self.planted, images)


def _wide(chosen: Array) -> Array:
    """bool[b] against images [b, H, W, C]."""
    return chosen[:, None, None, None]


def _warped(key: Array, trigger: Trigger, images: Array) -> Array:
    """Images warped by the trigger's flow and noise, another for each image."""
    assert trigger.flow is not None
    noise = jax.random.uniform(
        key, (images.shape[0], *trigger.flow.shape), minval=-_NOISE, maxval=_NOISE
    )
    return jax.vmap(moved)(images, trigger.flow + noise)
