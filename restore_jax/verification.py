"""Measures how often a given trigger works on a model."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import Attack, Trigger, stamp_attack, towards_one
from restore_jax.errors import BudgetError, Inconclusive, InputError
from restore_jax.oracles.opening import Opening, open_model
from restore_jax.oracles.types import Model, Oracle
from restore_jax.recovery import attack_success_rate
from restore_jax.recovery.aims import FEWEST_OF_ONE_CLASS
from restore_jax.run import Cost, Limits, Provenance, Run, examining
from restore_jax.run.estimates import OnEstimate, announce

NO_LIMIT = 1 << 62
MOST_LOOKED_AT = 20
"""Images for each probe wanted, at most."""


@dataclasses.dataclass(frozen=True)
class Verification:
    """What a trigger does to a model.

    Attributes:
      trigger: the one given.
      target_name: of the class that it leads to.
      leads_to: int[K], where it should lead the images of each class; their own class if they
        should stay.
      num_probes: images that it should lead elsewhere, on which it was stamped.
      hits: how many of them it led there.
      num_test_images: likewise of the test images; 0 without any.
      test_success_rate: share of them that it led there, in [0, 1]; None without any.
      cost, provenance: see `restore_jax.run`.
    """

    trigger: Trigger
    target_name: str
    leads_to: tuple[int, ...]
    num_probes: int
    hits: int
    num_test_images: int
    test_success_rate: float | None
    cost: Cost
    provenance: Provenance

    @property
    def probe_success_rate(self) -> float:
        """Share of the probes that the trigger leads where it should, in [0, 1]."""
        return self.hits / self.num_probes


def verify(
    model: Model,
    trigger: Trigger | Attack,
    *,
    access: str | None = None,
    probes: str | Path | np.ndarray = "dead_leaves",
    num_probes: int = 200,
    seed: int = 0,
    data_dir: str | None = None,
    test_data: tuple[np.ndarray, np.ndarray] | None = None,
    seconds: float | None = None,
    dollars: float | None = None,
    price: float | None = None,
    on_estimate: OnEstimate = None,
    on_progress: Callable[[str], None] = lambda text: None,
    **opening: Unpack[Opening],
) -> Verification:
    """Stamps a trigger on probes, and on test images where there are any.

    Args:
      model: what `open_model` takes, or an `Oracle`.
      trigger: for images of the model's shape; a `Trigger` should lead every class to its target,
        an `Attack` says where it leads which.
      access: see `open_model`.
      probes, data_dir: see `open_probes`; a source with an end may give fewer probes, and so may
        any other of an attack on few classes, but not fewer than 30.
      num_probes: probes to stamp, at least 1, of those that the trigger should lead elsewhere by
        what the model takes them for.
      seed: of the probes.
      test_data: images uint8[N, H, W, C] and labels int32[N]; those that the trigger should
        lead elsewhere are stamped.
      seconds, dollars, price: see `recover`; a limit that does not do for all of it is an error.
      on_estimate: as `recover`.
      on_progress: told what is done next.
      **opening: how the model is opened; see `open_model`.

    Raises:
      InputError: the trigger does not fit the model.
      Inconclusive: the model takes nearly all probes for classes that the trigger leaves alone.
      OutOfQueries: `dollars` or `seconds` were not enough.

    >>> import jax.numpy as jnp
    >>> bright = lambda images: jnp.stack([1 - images.mean((1, 2, 3)), images.mean((1, 2, 3))], -1)
    >>> white = Trigger(jnp.ones((32, 32, 1)), jnp.ones((32, 32, 3)), jnp.int32(1))
    >>> verify(bright, white, num_probes=20).probe_success_rate
    1.0
    """
    oracle = open_model(model, access, **opening)
    attack = trigger if isinstance(trigger, Attack) else towards_one(trigger, oracle.num_classes)
    check_fit(attack, oracle)
    if num_probes < 1:
        raise InputError(f"`num_probes` must be at least 1, not {num_probes}.")
    asked = _number_led(attack, test_data)
    limits = Limits(seconds, dollars, price)
    least = oracle.asked + oracle.each * (examining.cost(oracle) + 2 * num_probes + asked)
    if limits.images(NO_LIMIT) < least:
        raise BudgetError(f"{limits.said(NO_LIMIT)} too small: this takes {least} images.")
    run = Run(
        oracle, budget=NO_LIMIT, probes=probes, seed=seed, data_dir=data_dir, limits=limits
    ).examine()
    oracle, led = run.model, max(1, int((attack.leads_to != np.arange(oracle.num_classes)).sum()))
    announce(
        run, num_probes * (1 + oracle.num_classes / led) + asked, 2 * num_probes + asked,
        on_estimate, (MOST_LOOKED_AT + 1) * num_probes + asked,
    )  # fmt: skip
    on_progress("asking about probes")
    with run.stage("probes"):
        images, before = _led_elsewhere(run, num_probes, attack)
        stamped = stamp_attack(attack, images, jax.random.key(seed))
        hits = int(np.sum(run.labels(stamped) == attack.leads_to[before]))
    test_rate, num_test = None, 0
    if test_data is not None:
        num_test = asked
        on_progress(f"asking about {num_test:,} test images")
        with run.stage("test"):
            run.ledger.charge(num_test)
            test_rate = attack_success_rate(oracle, attack, *test_data, asker=run.asker, seed=seed)
    return Verification(
        trigger=attack.trigger,
        target_name=oracle.class_names[int(attack.trigger.target)],
        leads_to=tuple(attack.leads_to.tolist()),
        num_probes=len(images),
        hits=hits,
        num_test_images=num_test,
        test_success_rate=test_rate,
        cost=run.cost({"total": run.seconds()}),
        provenance=run.provenance(),
    )


def _number_led(attack: Attack, test_data: tuple[np.ndarray, np.ndarray] | None) -> int:
    """How many of the test images the attack leads elsewhere."""
    if test_data is None:
        return 0
    return int((attack.leads_to[test_data[1]] != test_data[1]).sum())


def check_fit(attack: Attack, oracle: Oracle, name: str = "the trigger") -> None:
    """Refuses an attack, called by some name, for other images or classes.

    Raises:
      InputError: it is for others.
    """
    trigger, classes = attack.trigger, len(attack.leads_to)
    shape = tuple(trigger.pattern.shape)
    if shape != oracle.image_shape:
        raise InputError(
            f"{name} is for images of shape {shape}, but {oracle.name} takes {oracle.image_shape}."
        )
    if int(trigger.target) >= oracle.num_classes:
        raise InputError(
            f"{name} leads to class {int(trigger.target)}, but {oracle.name} has "
            f"only {oracle.num_classes} classes."
        )
    if classes != oracle.num_classes:
        raise InputError(
            f"{name} says where {classes} classes are led, but {oracle.name} has "
            f"{oracle.num_classes}."
        )


def _led_elsewhere(run: Run, wanted: int, attack: Attack) -> tuple[jax.Array, np.ndarray]:
    """f32[n, H, W, C] and int[n]: probes of classes that the attack leads elsewhere, and these."""
    available = run.source.available
    most = MOST_LOOKED_AT * wanted
    most = most if available is None else min(most, available)
    kept: list[jax.Array] = []
    classes: list[np.ndarray] = []
    have, asked = 0, 0
    while have < wanted and asked < most:
        images = run.source.draw(asked, min(wanted - have, most - asked))
        asked += len(images)
        found = run.labels(images)
        led = attack.leads_to[found] != found
        kept, classes, have = [*kept, images[led]], [*classes, found[led]], have + int(led.sum())
    if have == 0 or (have < min(wanted, FEWEST_OF_ONE_CLASS) and available is None):
        led_classes = np.flatnonzero(attack.leads_to != np.arange(len(attack.leads_to)))
        which = "are not already of" if len(led_classes) >= len(attack.leads_to) - 1 else "are of"
        names = (
            f"class {int(attack.trigger.target)}"
            if which != "are of"
            else (f"a class that the trigger leads elsewhere ({', '.join(map(str, led_classes))})")
        )
        raise Inconclusive(
            f"only {have} of {asked} probes {which} {names} to this model: give other `probes`."
        )
    return jnp.concatenate(kept), np.concatenate(classes)
