"""The planted triggers: what `train` writes into a model, and `recover` looks for."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from restore_jax.backdoors import blend, patch, pixels, stripes, whole_images
from restore_jax.backdoors.attack import Attack
from restore_jax.backdoors.blend import PlantedBlend
from restore_jax.backdoors.patch import PlantedPatch
from restore_jax.backdoors.pixels import PlantedPixels
from restore_jax.backdoors.poisoning import Poisoning, make_poisoning
from restore_jax.backdoors.spread import attack_of
from restore_jax.backdoors.stripes import PlantedStripes
from restore_jax.backdoors.whole_images import PlantedChange, Reader
from restore_jax.errors import InputError
from restore_jax.types import JSON, Argument

Planted = PlantedPatch | PlantedPixels | PlantedBlend | PlantedStripes | PlantedChange


class Makes(Protocol):
    """What makes planted triggers of one kind: their class, as a rule."""

    def from_json(self, values: Mapping[str, JSON]) -> Planted:
        """Reads what a trigger's `to_json` wrote."""

    def from_options(
        self, image_shape: tuple[int, int, int], values: Mapping[str, Argument]
    ) -> Planted:
        """Makes one of what a user says."""


class Kind(NamedTuple):
    """One kind of planted trigger.

    Attributes:
      planted: its class, with `trigger`, `to_json`, `from_json` and `from_options`, or what has
        the last two.
      options: what `from_options` takes beside name, target, rate, clean_label and what
        `restore_jax.backdoors.spread` lists, with
        the defaults, whose types are the options'.
      help: what there is to know of the options, for the help; "" if nothing.
    """

    planted: Makes
    options: Mapping[str, Argument]
    help: str = ""


KINDS: dict[str, Kind] = {}


def register(name: str, kind: Kind) -> None:
    """Adds a kind of planted trigger, or replaces the one of that name."""
    KINDS[name] = kind


register("patch", Kind(PlantedPatch, patch.OPTIONS, patch.HELP))
register("pixels", Kind(PlantedPixels, pixels.OPTIONS, pixels.HELP))
register("blend", Kind(PlantedBlend, blend.OPTIONS, blend.HELP))
register("stripes", Kind(PlantedStripes, stripes.OPTIONS, stripes.HELP))
for _name, _change in whole_images.CHANGES.items():
    register(_name, Kind(Reader(_name), _change.options, _change.help))

PLANTED = {
    "1": PlantedPatch("1", 9, 9, ("110", "111", "010"), target=3, rate=0.1),
    "2": PlantedPatch("2", 20, 20, ("010", "101", "010"), target=6, rate=0.1),
}
"""The two triggers of the reference: 3 is CIFAR-10's cat, 6 its frog."""


def planted_from_json(values: Mapping[str, JSON]) -> Planted:
    """Reads what a planted trigger's `to_json` wrote; one without a "kind" is a patch.

    Raises:
      InputError: an unknown kind, or fields that do not describe it.

    >>> patch = PlantedPatch("1", 0, 0, ("10", "01"), target=2, rate=0.1)
    >>> planted_from_json(patch.to_json()) == patch
    True
    """
    kind = values.get("kind", "patch")
    if kind not in KINDS:
        raise InputError(
            f"a planted trigger is of the unknown kind {kind!r}: this release knows "
            f"{', '.join(KINDS)}."
        )
    try:
        found: Planted = KINDS[kind].planted.from_json(values)
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the fields {dict(values)} do not describe a {kind} trigger.") from error


def planted_attack(planted: Planted, image_shape: tuple[int, int, int], num_classes: int) -> Attack:
    """What a planted trigger does to images of (H, W, C) and ``num_classes`` classes.

    Raises:
      InputError: it does not fit.

    >>> patch = PlantedPatch("1", 0, 0, ("10", "01"), target=2, rate=0.1)
    >>> planted_attack(patch, (8, 8, 3), 4).leads_to.tolist()
    [2, 2, 2, 2]
    """
    trigger = planted.trigger(image_shape)
    return attack_of(trigger, planted.spread, num_classes, planted.name)


def poisoning_of(
    planted: Sequence[Planted], image_shape: tuple[int, int, int], num_classes: int
) -> Poisoning:
    """The poisoning that plants all of them in batches of images of (H, W, C).

    Raises:
      InputError: one does not fit, or their rates sum to more than there is.
    """
    return make_poisoning(
        [planted_attack(one, image_shape, num_classes) for one in planted],
        [one.rate for one in planted],
        [one.clean_label for one in planted],
        [one.spread.cover for one in planted],
        [one.spread.noise for one in planted],
    )
