"""How far the classes of *clean* models stand out, and what that allows to be said.

The standing (`diagnosis.standing`) of the class that stands out most was measured on clean models
of several architectures and trainings (``null.json``, made by ``benchmarks/diagnosis.py``). If one
more clean model is like those, its largest standing has each place among theirs with the same
probability; so it is at least as large as the r-th largest of n with a probability of at most
r / (n + 1). This needs no law of the standings, and holds for any n (conformal prediction: Vovk,
Gammerman and Shafer, Algorithmic Learning in a Random World, 2005). A rate below 1 / (n + 1) cannot
be vouched for by n models.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import NamedTuple

from restore_jax.diagnosis.standing import Ease, Profile
from restore_jax.diagnosis.types import ScanSettings
from restore_jax.types import JSON

PROBES_SEED = 0
"""Of the synthetic probes that clean models were shown."""
EASE_SPACE = "patch"
"""The space in which families of networks differ most in how easily they are led."""


class Conditions(NamedTuple):
    """Under what a scan looks.

    Attributes:
      access: "logits", "probabilities" or "labels".
      probes: name of the probes.
      success: share of them that makes the event.
      image_shape: (H, W, C).
      num_classes: K.
    """

    access: str
    probes: str
    success: float
    image_shape: tuple[int, int, int]
    num_classes: int


@functools.cache
def measured() -> list[dict[str, JSON]]:
    """The contents of null.json, for each kind of access.

    Each holds the conditions; by space its prior, depth and profiles; and standings.
    """
    text = resources.files("restore_jax.diagnosis").joinpath("null.json").read_text("utf-8")
    found: list[dict[str, JSON]] = json.loads(text)
    return found


def measured_by(access: str) -> dict[str, JSON]:
    """What was measured with this access; nothing of anything, if it was with none."""
    for null in measured():
        if access in null["access"]:
            return null
    return {"spaces": {}, "eases": {}, "standings": {}}


def was_measured(conditions: Conditions) -> bool:
    """Whether clean models were looked at under such conditions."""
    null = measured_by(conditions.access)
    return bool(null["spaces"]) and (
        conditions.probes == null["probes"]
        and conditions.success == null["success"]
        and list(conditions.image_shape) == null["image_shape"]
        and conditions.num_classes == null["num_classes"]
    )


def profiles(
    conditions: Conditions, settings: ScanSettings, prior: Mapping[str, JSON]
) -> dict[str, Profile]:
    """The profiles of clean families for one space, by name; none where it was not measured so.

    Args:
      conditions, settings: of the scan.
      prior: the description of the space's prior.
    """
    null = measured_by(conditions.access)
    space = null["spaces"].get(str(prior["space"]))
    same = (
        space is not None
        and was_measured(conditions)
        and as_json(settings_that_matter(settings)) == null["settings"]
        and as_json(prior) == space["prior"]
        and settings.depths.get(str(prior["space"])) == space["depth"]
    )
    if not same:
        return {}
    return {name: Profile(one["offsets"], one["spread"]) for name, one in space["profiles"].items()}


def eases(access: str) -> dict[str, Ease]:
    """How easily clean networks of each family are led, in the space `EASE_SPACE`."""
    return {
        name: Ease(one["mean"], one["std"]) for name, one in measured_by(access)["eases"].items()
    }


def clean_standings(access: str, names: Sequence[str]) -> list[float]:
    """The largest standing, over these spaces, of each clean model measured in all of them.

    Each was compared with profiles that it had no part in.
    """
    models = measured_by(access)["standings"].values()
    return [max(one[n] for n in names) for one in models if all(n in one for n in names)]


def settings_that_matter(settings: ScanSettings) -> dict[str, JSON]:
    """The settings that standings depend on, but for depths and options, which go by space."""
    names = ("num_probes", "num_draws", "num_particles", "survival", "num_moves")
    return {name: getattr(settings, name) for name in names}


def as_json(value: JSON) -> JSON:
    """What JSON gives back of a value."""
    return json.loads(json.dumps(value))


def false_alarm_bound(standing: float, clean: Sequence[float]) -> float:
    """At most this share of clean models has a class that stands out as much, or more.

    Example:
      >>> false_alarm_bound(2.0, [0.5, 1.0, 3.0])
      0.5
    """
    return (1 + sum(other >= standing for other in clean)) / (len(clean) + 1)
