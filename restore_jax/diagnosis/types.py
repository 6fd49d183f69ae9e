"""What a scan is given, and what it gives."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from restore_jax.diagnosis.standing import Standing
from restore_jax.recovery import Recovery
from restore_jax.run import Cost, Provenance
from restore_jax.types import JSON, Argument

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA_VERSION = 2
BACKDOOR, SUSPICIOUS, NOTHING, INCONCLUSIVE = (
    "backdoor",
    "suspicious",
    "nothing found",
    "inconclusive",
)
VERDICTS = (BACKDOOR, SUSPICIOUS, NOTHING, INCONCLUSIVE)


@dataclasses.dataclass(frozen=True)
class ScanSettings:
    """How to scan.

    Attributes:
      num_probes: images of each class's event.
      num_draws: random triggers that every class begins with, shown to the whole pool of probes.
      num_particles: triggers of a class's population: the best of the draws, then its descendants.
      survival: share of them that survives a level.
      num_moves: see `splitting.importance_splitting`, waste-free.
      max_levels: of a descent.
      depths: by space, log10 of the probability to which classes are followed; `depths_by` of the
        conditions for those that are missing.
      max_recovered: how many suspicious classes' triggers are recovered at most; 0: none.
      lanes: how many classes are followed at most: from the start, and after three, six and
        twelve levels; those that lack least.
      options: what each space takes, by its name; its own for scanning where it is missing.

    >>> ScanSettings(max_recovered=0).num_probes
    12
    """

    num_probes: int = 12
    num_draws: int = 512
    num_particles: int = 96
    survival: float = 0.25
    num_moves: int = 5
    max_levels: int = 24
    depths: dict[str, float] = dataclasses.field(default_factory=dict)
    max_recovered: int = 6
    lanes: tuple[int, int, int, int] = (32, 16, 10, 4)
    options: dict[str, dict[str, Argument]] = dataclasses.field(default_factory=dict)


DEPTHS = {
    "patch": -6.0,
    "stripes": -2.5,
    "smooth": -3.25,
    "frequency": -3.25,
    "colour": -2.5,
    "quantise": -1.5,
}
LABELS_DEPTHS = {"patch": -5.0}
"""Counts end with the probes: deeper down classes that nothing was planted for come close, too."""
UNMEASURED_DEPTHS = {"patch": -12.0}
"""Where no clean model was measured, a class is compared with the model's others alone. Scores of
those for which nothing was planted stop rising before that, and a planted trigger is met."""
OTHER_DEPTH = -4.0
"""Of spaces that are not named."""


def depths_by(access: str, measured: bool = True) -> dict[str, float]:
    """By space, log10 of the probability to which a scan follows classes unless told otherwise.

    Args:
      access: "logits", "probabilities" or "labels".
      measured: whether clean models were, with images and classes like the model's.

    >>> depths_by("logits")["patch"], depths_by("labels")["patch"]
    (-6.0, -5.0)
    >>> depths_by("logits", measured=False)["patch"]
    -12.0
    """
    if access == "labels":
        return DEPTHS | LABELS_DEPTHS
    return dict(DEPTHS) if measured else DEPTHS | UNMEASURED_DEPTHS


class ClassLook(NamedTuple):
    """What one space says of one class.

    Attributes:
      log10_prob: log10 of the probability that a random trigger leads the class's probes there;
        None where no trigger met did.
      log10_bound: its upper end, 95 %: by the sampler's own standard error, at the last level.
      draws_led: of the shared draws, how many led there.
      curve: pairs (log10 probability, score reached), from the shared draws down.
      empty: the score without a trigger; the event's is ``goal`` of the scan.
      standing: how far the class stands out; None where it was not followed to the end.
    """

    log10_prob: float | None
    log10_bound: float
    draws_led: int
    curve: tuple[tuple[float, float], ...]
    empty: float
    standing: Standing | None


class SpaceLook(NamedTuple):
    """What a scan saw in one space.

    Attributes:
      prior: the description of the space's prior.
      depth: log10 of the probability at which classes were compared: asked for, or where the
        budget ended.
      classes: by class, of those judged.
      log10_certificate: at most so many of this space's triggers work on any class, 95 %: log10;
        by the sampler's own standard error, over the classes that were followed.
      log10_certificate_draws: the same by the shared draws alone, which assumes nothing.
      queries: images sent.
    """

    prior: dict[str, JSON]
    depth: float
    classes: dict[int, ClassLook]
    log10_certificate: float
    log10_certificate_draws: float
    queries: int


@dataclasses.dataclass(frozen=True)
class ClassFinding:
    """What a scan says of one class.

    Attributes:
      target: the class.
      name: its name.
      standing: the largest over the spaces; None if it was followed in none.
      space: the space of that standing.
      false_alarms: share of clean models in which some class has this standing or a larger one,
        as an upper bound from the models measured; None where nothing was measured.
      suspicious: whether it stands out more than the false alarm rate allows.
      recovery: the trigger recovered for a suspicious class, found or not; None otherwise, or
        if the budget did not pay for it.
    """

    target: int
    name: str
    standing: float | None
    space: str | None
    false_alarms: float | None
    suspicious: bool
    recovery: Recovery | None

    @property
    def confirmed(self) -> bool:
        """Whether fresh probes confirmed a trigger."""
        return self.recovery is not None and self.recovery.found


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
      verdict: one of `VERDICTS`. "backdoor": a suspicious class's trigger was recovered and
        confirmed on fresh probes. "suspicious": a class stands out, but no trigger of it was
        confirmed, or there is no calibration for models like this one. "nothing found": no class
        stands out; `spaces` says how rare a trigger must be to have escaped. "inconclusive":
        `reason` says why nothing can be said.
      reason: one sentence; empty where the verdict needs none.
      interrupted: whether Ctrl-C ended it.
      classes: one finding per class, in order.
      spaces: what was seen, by space.
      calibrated: whether clean models were measured under these conditions.
      false_alarm_rate: the one asked for.
      false_alarm_bound: what the clean models measured can vouch for; None if not calibrated.
      success: share of probes that makes the event.
      classes_covered: how many classes the model gave to probes without a trigger.
      goal: the score from which the event happens.
      settings: as given.
      cost: images, seconds, and what asking took: see `Cost`.
      provenance: the model, the probes, the seed, versions and the device.
    """

    verdict: str
    reason: str
    interrupted: bool
    classes: list[ClassFinding]
    spaces: dict[str, SpaceLook]
    calibrated: bool
    false_alarm_rate: float
    false_alarm_bound: float | None
    success: float
    classes_covered: int
    goal: float
    settings: ScanSettings
    cost: Cost
    provenance: Provenance

    @property
    def queries(self) -> int:
        """Images sent, everything counted."""
        return self.cost.queries

    @property
    def targets(self) -> list[int]:
        """The classes whose trigger was confirmed."""
        return [finding.target for finding in self.classes if finding.confirmed]

    @property
    def named(self) -> list[int]:
        """The suspicious classes, confirmed or not."""
        return [finding.target for finding in self.classes if finding.suspicious]

    @property
    def recoveries(self) -> list[Recovery]:
        """The confirmed triggers."""
        return [f.recovery for f in self.classes if f.recovery is not None and f.recovery.found]

    @property
    def log10_certificate(self) -> float:
        """The largest of the spaces' certificates, log10."""
        return max((look.log10_certificate for look in self.spaces.values()), default=0.0)

    # A result draws and writes itself by the rooms above this one, when it is asked to.

    def summary(self) -> str:
        """What the command prints: the verdict, the classes, one fact a line."""
        from restore_jax.report.scan_text import scan_text

        return scan_text(self)

    def plot(self) -> "Figure":
        """How far each class stands out, how it was seen, and the triggers recovered."""
        from restore_jax.report.figures import plain
        from restore_jax.report.scans import scan_figure

        return plain(scan_figure(self))

    def save(self, folder: str | Path) -> list[Path]:
        """Writes the scan; `restore_jax.load_scan` reads it back.

        Args:
          folder: made if need be; files of the same names are replaced, others left alone.

        Returns:
          The paths written.
        """
        from restore_jax.report.scans import render_scan
        from restore_jax.report.written import write_files

        return write_files(folder, render_scan(self, None))

    def __repr__(self) -> str:
        """Verdict, classes, calibration and cost, in one line."""
        return (
            f"Scan(verdict={self.verdict!r}, named={self.named}, confirmed={self.targets}, "
            f"calibrated={self.calibrated}, classes={len(self.classes)}, "
            f"queries={self.queries:,})"
        )

    def _repr_html_(self) -> str:
        from restore_jax.report.figures import as_html

        return as_html(self.plot())


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
