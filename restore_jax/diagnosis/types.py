"""What a scan is given, and what it gives."""

import dataclasses
from typing import Any, NamedTuple

from restore_jax.recovery import Recovery

SCHEMA_VERSION = 1
CLEAN, BACKDOOR, INCONCLUSIVE = "clean", "backdoor", "inconclusive"


@dataclasses.dataclass(frozen=True)
class ScanSettings:
    """How to scan.

    Attributes:
      num_probes: images that a trigger is shown for each class.
      num_draws: random triggers per space.
      block: of those, how many are shown at once; between blocks classes are settled.
      enough_hits: a class that so many draws led to is measured well enough.
      num_deepened: how many of the classes that no draw led to are searched by splitting.
      num_particles: triggers carried along in that search.
      max_levels: of that search.
      options: what each space takes, by its name; its own defaults where it is missing.
      thresholds: by space, the log10 probability from which a class is suspicious; where it is
        missing, that of `diagnosis.null` for the false alarm rate asked for.
    """

    num_probes: int = 20
    num_draws: int = 3_500
    block: int = 250
    enough_hits: int = 50
    num_deepened: int = 4
    num_particles: int = 32
    max_levels: int = 8
    options: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    thresholds: dict[str, float] = dataclasses.field(default_factory=dict)


class Chance(NamedTuple):
    """How probable it is that a random trigger of one space leads to one class.

    Attributes:
      log10_prob: the estimate; None if nothing led there.
      interval: (low, high), 95 %, decimal logarithms; low is None where high is but a bound.
      hits: of the random draws, how many led there.
      draws: how many random triggers were shown.
      method: "draws" or "splitting".
      excess: log10_prob (or, without one, the bound) over the space's threshold; None without a
        threshold.
    """

    log10_prob: float | None
    interval: tuple[float | None, float]
    hits: int
    draws: int
    method: str
    excess: float | None


@dataclasses.dataclass(frozen=True)
class ClassFinding:
    """What a scan says of one class.

    Attributes:
      target: the class.
      name: its name.
      suspicious: whether a random trigger leads there more often than in clean models.
      chances: by space; a space is missing where the probes did not allow to ask.
      recovery: the trigger recovered for a suspicious class, found or not; None otherwise, or
        if the budget did not pay for it.
    """

    target: int
    name: str
    suspicious: bool
    chances: dict[str, Chance]
    recovery: Recovery | None

    @property
    def confirmed(self) -> bool:
        """Whether fresh probes confirmed a trigger."""
        return self.recovery is not None and self.recovery.found

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        return {
            "class": self.target,
            "name": self.name,
            "suspicious": self.suspicious,
            "confirmed": self.confirmed,
            "spaces": {
                space: chance._asdict() | {"interval": list(chance.interval)}
                for space, chance in self.chances.items()
            },
            "trigger_space": self.recovery.space if self.recovery else None,
        }


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a scan found. `to_json` gives the written form.

    Attributes:
      verdict: "backdoor": the trigger of a suspicious class was recovered and confirmed;
        "inconclusive": a class is suspicious, but no trigger for it was confirmed, or the scan was
        interrupted before it knew; else "clean".
      interrupted: whether Ctrl-C ended it.
      classes: one finding per class, in order.
      fields: everything else that is written: see the README.
    """

    verdict: str
    interrupted: bool
    classes: list[ClassFinding]
    fields: dict[str, Any]

    @property
    def targets(self) -> list[int]:
        """The classes whose trigger was confirmed."""
        return [finding.target for finding in self.classes if finding.confirmed]

    @property
    def recoveries(self) -> list[Recovery]:
        """Theirs."""
        return [f.recovery for f in self.classes if f.recovery is not None and f.recovery.found]

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold: no NaN, no infinity, no arrays."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict,
            "interrupted": self.interrupted,
            "targets": self.targets,
            **self.fields,
            "classes": [finding.to_json() for finding in self.classes],
        }


class ScanProgress(NamedTuple):
    """Where a scan stands.

    Attributes:
      text: what was just done.
      milestone: whether it is worth a line of its own.
      queries: images sent so far.
      budget: images that may be sent.
    """

    text: str
    milestone: bool
    queries: int
    budget: int
