"""What ``train --plant`` takes: ``KIND:key=value,...``, one planted trigger."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from restore_jax.backdoors import KINDS, Planted
from restore_jax.backdoors.spread import HELP as SPREAD_HELP
from restore_jax.backdoors.spread import OPTIONS as SPREAD
from restore_jax.cli import exits

DEFAULT_RATE = 0.1
_MAX_SEED = 2**32 - 1
_WORDS = {"no": False, "yes": True}

_SHOWN = {False: "no", True: "yes"}


def _listed(options: Mapping[str, object]) -> str:
    """Options and their defaults as a user writes them."""
    return ",".join(
        f"{key}={_SHOWN[value] if isinstance(value, bool) else value}"
        for key, value in options.items()
    )


_OPTIONS = "; ".join(f"{kind}:{_listed(found.options)}" for kind, found in KINDS.items())
_NOTES = "; ".join(f"{kind}: {found.help}" for kind, found in KINDS.items() if found.help)
HELP = (
    f"KIND:key=value,... The kinds and their defaults: {_OPTIONS}. All kinds take name=<1, 2, ... "
    f"in order>,target=0,rate={DEFAULT_RATE},clean_label=no,{_listed(SPREAD)}. What they are: "
    f"{_NOTES}. What all take: {SPREAD_HELP}; clean_label=yes: only images of the target class are "
    "stamped, as many of them as rate says, and no label changes"
)


def planted_from_specs(
    specs: Sequence[str],
    image_shape: tuple[int, int, int],
    num_classes: int,
    rate: float | None = None,
) -> list[Planted]:
    """Reads several SPECs; the n-th is named n unless it says otherwise.

    Args:
      specs: what the user wrote.
      image_shape: (H, W, C) of the images to train on.
      num_classes: how many classes there are.
      rate: for those that give none; None: 0.1.

    Raises:
      UsageError: one cannot be read, or two have the same name.
      ValueError: one does not fit the images.
    """
    planted: list[Planted] = []
    for number, spec in enumerate(specs, 1):
        common = {
            "name": str(number),
            "target": 0,
            "rate": DEFAULT_RATE if rate is None else rate,
            "clean_label": False,
            **SPREAD,
        }
        planted.append(_planted_from(spec, common, image_shape, num_classes))
        if planted[-1].name in [other.name for other in planted[:-1]]:
            raise exits.UsageError(
                f"two --plant have the name {planted[-1].name!r}: give one another name."
            )
    return planted


def _planted_from(
    spec: str, common: dict[str, Any], image_shape: tuple[int, int, int], num_classes: int
) -> Planted:
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        raise exits.UsageError(
            f"unknown kind {kind!r} in --plant {spec}: it may be {', '.join(KINDS)}."
        )
    values = {**common, **KINDS[kind].options}
    given: set[str] = set()
    for item in rest.split(",") if rest else []:
        key, equals, text = item.partition("=")
        if not equals:
            raise exits.UsageError(f"{item!r} in --plant {spec} must be key=value.")
        if key not in values:
            raise exits.UsageError(
                f"unknown key {key!r} in --plant {spec}: {kind} takes {', '.join(values)}."
            )
        if key in given:
            raise exits.UsageError(f"--plant {spec} gives {key} twice.")
        given.add(key)
        values[key] = _value(key, text, type(values[key]), spec)
    if not re.fullmatch(r"[\w-]+", values["name"]):
        raise exits.UsageError(
            f"name in --plant {spec} must be of letters, digits, - and _, not {values['name']!r}."
        )
    if not 0 <= values["target"] < num_classes:
        raise exits.UsageError(
            f"target in --plant {spec} must be a class, 0 to {num_classes - 1}, not "
            f"{values['target']}."
        )
    if not 0 <= values.get("seed", 0) <= _MAX_SEED:
        raise exits.UsageError(
            f"seed in --plant {spec} must be 0 to {_MAX_SEED}, not {values['seed']}."
        )
    return KINDS[kind].planted.from_options(image_shape, values)


def _value(key: str, text: str, wanted: type, spec: str) -> Any:
    """The text as a value of the type wanted: str, bool, int or float."""
    if wanted is bool:
        if text not in _WORDS:
            raise exits.UsageError(f"{key} in --plant {spec} must be yes or no, not {text!r}.")
        return _WORDS[text]
    try:
        return wanted(text)
    except ValueError as error:
        what = "a whole number" if wanted is int else "a number"
        raise exits.UsageError(f"{key} in --plant {spec} must be {what}, not {text!r}.") from error
