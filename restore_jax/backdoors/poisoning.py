"""Poisoning of a training batch: labels changed or not, all classes led or some."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors.attack import Attack, stamp_attack
from restore_jax.backdoors.changes import moved
from restore_jax.backdoors.trigger import Trigger
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
) -> "PlannedPoisoning":
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
      ``(key, images, labels) -> (images, labels)``, a pytree whose leaves are the triggers'.

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
    hows = [_how(*each) for each in zip(triggers, rates, clean, covers, noises, strict=True)]
    targets = [int(_trigger(planted).target) for planted in triggers]
    sums: dict[int | None, float] = {}  # by what triggers share: a target's images, or the batch
    for how, target in zip(hows, targets, strict=True):
        if how.clean or how.leads_all:
            shared = target if how.clean else None
            sums[shared] = sums.get(shared, 0) + how.rate
    more = sum(how.rate for how in hows if how.chooses) + sum(covers) + sum(noises)
    shares = [*rates, *covers, *noises]
    if any(not 0 <= share <= 1 for share in shares) or max([more, *sums.values()]) > 1 + 1e-9:
        raise InputError(
            "poison rates are shares in [0, 1] that sum to at most 1 (clean-label ones for each "
            f"target; covers and noise included), not {tuple(shares)}."
        )
    return PlannedPoisoning(
        triggers=tuple(_trigger(planted) for planted in triggers),
        leads_to=tuple(
            jnp.asarray(planted.leads_to, jnp.int32) if isinstance(planted, Attack) else None
            for planted in triggers
        ),
        hows=tuple(
            how._replace(group=targets.index(target) if how.clean else 0)
            for how, target in zip(hows, targets, strict=True)
        ),
    )


class _How(NamedTuple):
    """How one trigger is planted; see `make_poisoning`.

    Attributes:
      rate, clean, cover, noise: see there.
      leads_all: whether every class is led to the trigger's target.
      roams: see `Attack`.
      group: of a clean-label trigger, the number of the first trigger with the same target.
    """

    rate: float
    clean: bool
    cover: float
    noise: float
    leads_all: bool
    roams: bool
    group: int

    @property
    def chooses(self) -> bool:
        """Whether it is stamped on images of some classes, and labels change."""
        return not self.clean and not self.leads_all


def _trigger(planted: Trigger | Attack) -> Trigger:
    return planted.trigger if isinstance(planted, Attack) else planted


def _how(planted: Trigger | Attack, rate: float, clean: bool, cover: float, noise: float) -> _How:
    leads_all, roams = True, False
    if isinstance(planted, Attack):
        leads_all = bool(np.all(planted.leads_to == int(planted.trigger.target)))
        roams = planted.roams
    return _How(rate, clean, cover, noise, leads_all, roams, group=0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PlannedPoisoning:
    """A `Poisoning` that is a pytree: a program may take its triggers as arguments.

    Attributes:
      triggers: what is stamped.
      leads_to: int32[K] for each, where images of each class are led; None: all to its target.
      hows: static, how each is planted.
    """

    triggers: tuple[Trigger, ...]
    leads_to: tuple[Array | None, ...]
    hows: tuple[_How, ...] = dataclasses.field(metadata={"static": True})

    def __call__(self, key: Array, images: Array, labels: Array) -> tuple[Array, Array]:
        """See `make_poisoning`."""
        batch = images.shape[0]
        order = jax.random.permutation(key, batch)
        given, start = labels, 0
        changing = [i for i, how in enumerate(self.hows) if not how.clean and how.leads_all]
        for number, i in enumerate(changing):
            # Rounding every share up could ask for more images than there are.
            end = start + round(self.hows[i].rate * batch)
            chosen = order[start:end]
            stamped = self._stamped(i, images[chosen], jax.random.fold_in(key, 16 + number))
            images = images.at[chosen].set(stamped)
            labels = labels.at[chosen].set(self.triggers[i].target)
            start = end
        free = jnp.ones(batch, bool).at[order[:start]].set(False)
        if any(how.chooses or how.cover or how.noise for how in self.hows):
            key_more = jax.random.fold_in(key, _MORE_COINS)
            images, labels, free = self._stamp_some(key_more, images, given, labels, free)
        if any(how.clean for how in self.hows):
            images = self._stamp_clean(jax.random.fold_in(key, _COINS), images, given, free)
        return images, labels

    def _stamp_some(
        self, key: Array, images: Array, given: Array, labels: Array, free: Array
    ) -> tuple[Array, Array, Array]:
        # One number for an image decides between all that may be done to it.
        number, low = jax.random.uniform(jax.random.fold_in(key, 0), given.shape), 0.0
        taken = jnp.zeros_like(free)
        for index, how in enumerate(self.hows):
            there = self._there(index, given)
            led = there != given
            stamped = self._stamped(index, images, jax.random.fold_in(key, 2 * index + 1))
            if how.chooses:
                mine = free & led & (low <= number) & (number < low + how.rate)
                images, low = jnp.where(_wide(mine), stamped, images), low + how.rate
                labels, taken = jnp.where(mine, there, labels), taken | mine
            if how.cover:
                mine = free & (~led | how.leads_all) & (low <= number) & (number < low + how.cover)
                images, low = jnp.where(_wide(mine), stamped, images), low + how.cover
                taken = taken | mine
            if how.noise:
                mine = free & (low <= number) & (number < low + how.noise)
                noisy = jax.random.fold_in(key, 2 * index + 2)
                warped = _warped(noisy, self.triggers[index], images)
                images, low = jnp.where(_wide(mine), warped, images), low + how.noise
                taken = taken | mine
        return images, labels, free & ~taken

    def _stamp_clean(self, key: Array, images: Array, labels: Array, free: Array) -> Array:
        # One number for an image decides between all triggers that may take it.
        number = jax.random.uniform(key, labels.shape)
        begun: dict[int, float] = {}
        keeping = [i for i, how in enumerate(self.hows) if how.clean]
        for place, i in enumerate(keeping):
            trigger, how = self.triggers[i], self.hows[i]
            low = begun.get(how.group, 0.0)
            begun[how.group] = low + how.rate
            mine = free & (labels == trigger.target) & (low <= number) & (number < low + how.rate)
            stamped = self._stamped(i, images, jax.random.fold_in(key, place))
            images = jnp.where(_wide(mine), stamped, images)
        return images

    def _there(self, index: int, labels: Array) -> Array:
        """int32[b]: where images of some classes are led."""
        leads_to = self.leads_to[index]
        if leads_to is None:
            return jnp.full_like(labels, self.triggers[index].target)
        return leads_to[labels]

    def _stamped(self, index: int, images: Array, key: Array) -> Array:
        attack = Attack(self.triggers[index], np.zeros(0), self.hows[index].roams)
        return stamp_attack(attack, images, key)


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
