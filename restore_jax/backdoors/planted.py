"""The planted triggers: what `train` writes into a model, and `recover` looks for."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from restore_jax.backdoors import blend, patch, pixels, stripes
from restore_jax.backdoors.blend import PlantedBlend
from restore_jax.backdoors.patch import PlantedPatch
from restore_jax.backdoors.pixels import PlantedPixels
from restore_jax.backdoors.stripes import PlantedStripes

Planted = PlantedPatch | PlantedPixels | PlantedBlend | PlantedStripes


class Kind(NamedTuple):
    """One kind of planted trigger.

    Attributes:
      planted: its class, with `trigger`, `to_json`, `from_json` and `from_options`.
      options: what `from_options` takes beside name, target, rate and clean_label, with
        the defaults, whose types are the options'.
    """

    planted: type[Planted]
    options: Mapping[str, Any]


KINDS = {
    "patch": Kind(PlantedPatch, patch.OPTIONS),
    "pixels": Kind(PlantedPixels, pixels.OPTIONS),
    "blend": Kind(PlantedBlend, blend.OPTIONS),
    "stripes": Kind(PlantedStripes, stripes.OPTIONS),
}

PLANTED = {
    "1": PlantedPatch("1", 9, 9, ("110", "111", "010"), target=3, rate=0.1),
    "2": PlantedPatch("2", 20, 20, ("010", "101", "010"), target=6, rate=0.1),
}
"""The two triggers of the reference: 3 is CIFAR-10's cat, 6 its frog."""


def planted_from_json(fields: Mapping[str, Any]) -> Planted:
    """Reads what a planted trigger's `to_json` wrote; one without a "kind" is a patch.

    Raises:
      ValueError: an unknown kind, or fields that do not describe it.
    """
    kind = fields.get("kind", "patch")
    if kind not in KINDS:
        raise ValueError(
            f"a planted trigger is of the unknown kind {kind!r}: this release knows "
            f"{', '.join(KINDS)}."
        )
    try:
        return KINDS[kind].planted.from_json(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the fields {dict(fields)} do not describe a {kind} trigger.") from error
