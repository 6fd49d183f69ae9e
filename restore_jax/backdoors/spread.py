"""Which images an attack moves, and which it stamps without moving them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from restore_jax.backdoors.attack import Attack
from restore_jax.backdoors.trigger import Trigger
from restore_jax.errors import InputError
from restore_jax.types import JSON

OPTIONS = {"sources": "all", "to": "target", "cover": 0.0, "noise": 0.0, "roam": False}
HELP = (
    "sources=the classes that are led, with + between (1+4), or all; to=target, or next: each "
    "class to the one after it; cover=share of the other images that are stamped and keep their "
    "labels; noise=share of all images that are warped, with half a pixel of noise, and keep "
    "theirs; roam=yes: at another place on every image"
)
DESTINATIONS = ("target", "next")


class Spread(NamedTuple):
    """What is done beside stamping some images and calling them the target.

    Attributes:
      sources: the classes that are led elsewhere; (): all. Those of some attacks alone are hard to
        find for defences that ask for any image to be led (Tang et al., Demon in the Variant,
        USENIX Security 2021, TaCT).
      to: "target", or "next": each class is led to the one after it, the last to the first (Gu et
        al. 2017, all-to-all).
      cover: share of the images that are not led (where all are, of all) that are stamped and keep
        their labels (TaCT; Qi et al., Revisiting the Assumption of Latent Separability, ICLR 2023).
      noise: share of all images that are warped by the trigger's flow and up to half a pixel more
        in any direction, and keep their labels (Nguyen and Tran, WaNet, ICLR 2021).
      roam: whether mask and pattern lie at another place on every image.
    """

    sources: tuple[int, ...] = ()
    to: str = "target"
    cover: float = 0.0
    noise: float = 0.0
    roam: bool = False


def attack_of(trigger: Trigger, spread: Spread, num_classes: int, name: str = "") -> Attack:
    """The attack that a trigger and a spread make on images of ``num_classes`` classes.

    Raises:
      InputError: a source is no class, or nothing is led elsewhere.

    >>> import jax.numpy as jnp
    >>> white = Trigger(jnp.ones((2, 2, 1)), jnp.ones((2, 2, 3)), jnp.int32(1))
    >>> attack_of(white, Spread(sources=(0, 2)), 4).leads_to.tolist()
    [1, 1, 1, 3]
    >>> attack_of(white, Spread(to="next"), 4).leads_to.tolist()
    [1, 2, 3, 0]
    """
    own, target = np.arange(num_classes, dtype=np.int32), int(trigger.target)
    if spread.to not in DESTINATIONS:
        raise InputError(
            f"trigger {name} leads to {spread.to!r}: it may be {' or '.join(DESTINATIONS)}."
        )
    if any(not 0 <= source < num_classes for source in spread.sources):
        raise InputError(
            f"trigger {name} has the sources {spread.sources}: they must be classes, 0 to "
            f"{num_classes - 1}."
        )
    for share in (spread.cover, spread.noise):
        if not 0 <= share < 1:
            raise InputError(
                f"trigger {name} has cover {spread.cover} and noise {spread.noise}: both must lie "
                "in [0, 1)."
            )
    there = (own + 1) % num_classes if spread.to == "next" else np.full_like(own, target)
    led = there if not spread.sources else np.where(np.isin(own, spread.sources), there, own)
    if not (led != own).any():
        raise InputError(f"trigger {name} leads no class elsewhere: give other sources.")
    if spread.noise and trigger.flow is None:
        raise InputError(f"trigger {name} has noise, but it is no warp.")
    return Attack(trigger, led.astype(np.int32), spread.roam)


def to_fields(planted: NamedTuple, kind: str) -> dict[str, JSON]:
    """A planted trigger, a NamedTuple with a `spread`, as a dict that JSON can hold."""
    values = planted._asdict()
    spread = values.pop("spread")
    usual = Spread()._asdict()
    more = {key: value for key, value in spread._asdict().items() if value != usual[key]}
    if "sources" in more:
        more["sources"] = list(more["sources"])
    return {"kind": kind} | values | more


def from_fields(values: Mapping[str, JSON]) -> dict[str, JSON]:
    """The arguments that `to_fields` made a dict of."""
    plain = {key: value for key, value in values.items() if key not in (*OPTIONS, "kind")}
    given = {key: values[key] for key in OPTIONS if key in values}
    if "sources" in given:
        given["sources"] = tuple(int(source) for source in given["sources"])
    return plain | {"spread": Spread(**given)}


def from_options(values: Mapping[str, JSON]) -> dict[str, JSON]:
    """The arguments that a user's options make, of which `sources` is a text.

    Raises:
      InputError: the sources cannot be read.
    """
    sources = values.get("sources", "all")
    try:
        classes = () if sources == "all" else tuple(int(one) for one in sources.split("+"))
    except ValueError as error:
        raise InputError(
            f"sources {sources!r} must be all, or classes with + between, as 1+4."
        ) from error
    return from_fields({**values, "sources": classes})
