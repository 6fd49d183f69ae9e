"""The planted triggers: what `train` writes into a model, and `recover` looks for."""

from collections.abc import Mapping
from typing import NamedTuple

from restore_jax.backdoors import blend, patch, pixels, stripes
from restore_jax.backdoors.blend import PlantedBlend
from restore_jax.backdoors.patch import PlantedPatch
from restore_jax.backdoors.pixels import PlantedPixels
from restore_jax.backdoors.stripes import PlantedStripes
from restore_jax.errors import InputError
from restore_jax.types import JSON, Argument

Planted = PlantedPatch | PlantedPixels | PlantedBlend | PlantedStripes


class Kind(NamedTuple):
    """One kind of planted trigger.

    Attributes:
      planted: its class, with `trigger`, `to_json`, `from_json` and `from_options`.
      options: what `from_options` takes beside name, target, rate and clean_label, with
        the defaults, whose types are the options'.
      help: what there is to know of the options, for the help; "" if nothing.
    """

    planted: type[Planted]
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

PLANTED = {
    "1": PlantedPatch("1", 9, 9, ("110", "111", "010"), target=3, rate=0.1),
    "2": PlantedPatch("2", 20, 20, ("010", "101", "010"), target=6, rate=0.1),
}
"""The two triggers of the reference: 3 is CIFAR-10's cat, 6 its frog."""


def planted_from_json(fields: Mapping[str, JSON]) -> Planted:
    """Reads what a planted trigger's `to_json` wrote; one without a "kind" is a patch.

    Raises:
      InputError: an unknown kind, or fields that do not describe it.
    """
    kind = fields.get("kind", "patch")
    if kind not in KINDS:
        raise InputError(
            f"a planted trigger is of the unknown kind {kind!r}: this release knows "
            f"{', '.join(KINDS)}."
        )
    try:
        found: Planted = KINDS[kind].planted.from_json(fields)
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the fields {dict(fields)} do not describe a {kind} trigger.") from error
