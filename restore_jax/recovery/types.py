"""What a recovery gives."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from restore_jax.backdoors import Trigger
from restore_jax.run import Cost, Provenance
from restore_jax.splitting.types import Particles
from restore_jax.types import JSON

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA_VERSION = 1


class Progress(NamedTuple):
    """Where a search stands, after each level.

    Attributes:
      levels: how many are behind.
      level: the score that the particles now exceed; the event begins at ``goal``.
      goal: see above.
      acceptance: mean share of accepted moves at this level, in [0, 1].
      queries: images sent so far.
      budget: images that may be sent.
      best: the highest score.
    """

    levels: int
    level: float
    goal: float
    acceptance: float
    queries: int
    budget: int
    best: float


class Level(NamedTuple):
    """One level of a search, as it is written; None where there is no such number.

    Attributes:
      level: the score that had to be exceeded.
      survival: the share of particles that did, in [0, 1].
      log10_prob: decimal logarithm of the probability of exceeding it.
      acceptance: mean share of accepted moves, in [0, 1].
      best_score: the highest score in the population.
      unique_ancestors: how many of the first particles have descendants.
      queries: images that the search had sent by then.
    """

    level: float | None = None
    survival: float | None = None
    log10_prob: float | None = None
    acceptance: float | None = None
    best_score: float | None = None
    unique_ancestors: int | None = None
    queries: int | None = None


class Truth(NamedTuple):
    """How like the planted trigger the recovered one is.

    Attributes:
      iou: overlap (intersection over union) of the two masks as they lie, in [0, 1].
      shift: (rows, columns) that the recovered mask must move for the best overlap.
      iou_after_shift: the overlap then.
      pattern_agreement: the share of the planted trigger's pixels where the recovered one, so
        moved, writes the same colour (within a quarter of the range in every channel); of
        triggers that change the whole image the cosine between what they do to the probes.
      pixels: of the planted trigger.
      test_success_rate: of the planted trigger, in [0, 1]; None where there are no test images.
    """

    iou: float
    shift: tuple[int, int]
    iou_after_shift: float
    pattern_agreement: float
    pixels: int
    test_success_rate: float | None


class Attempt(NamedTuple):
    """What became of one of the spaces that ``space="auto"`` tried.

    Attributes:
      space: its name.
      queries: images that it took.
      log10_prob, interval, probe_success_rate, found: as of `Recovery`.
    """

    space: str
    queries: int
    log10_prob: float | None
    interval: tuple[float | None, float | None] | None
    probe_success_rate: float | None
    found: bool


class Other(NamedTuple):
    """What the same search does for another class of the model.

    Attributes:
      target, target_name: the class.
      found: whether fresh probes confirmed a trigger of it, too.
      log10_prob, interval: as of `Recovery`.
      queries: images that it took.
    """

    target: int
    target_name: str
    found: bool
    log10_prob: float | None
    interval: tuple[float | None, float | None] | None
    queries: int


@dataclasses.dataclass(frozen=True)
class Recovery:
    """What a recovery found.

    Attributes:
      trigger: the trigger chosen, found or not.
      found: whether fresh probes confirmed it.
      status: how the search ended: "reached", "stalled", "out_of_levels", "out_of_queries",
        "out_of_time" or "interrupted"; see `Cost.limit` for what ended the rest.
      target, target_name: the class that was searched for.
      source, source_name: the class whose images alone the trigger should lead; None: all others.
      success: share of probes that made the event, in (0, 1].
      space: the name of the space.
      prior: its description: probabilities are compared only where these are equal.
      protocol: "default" or "reference".
      stop: what ended the search: "estimate", "first_hit", or "levels" (reference).
      settings: how it was searched.
      cost: images and seconds; see `Cost`.
      provenance: model, probes, seed, versions; see `Provenance`.
      log10_prob: decimal logarithm of the probability that a trigger drawn from the prior makes
        the event happen; None where there is no estimate.
      interval: (low, high), 95 %, decimal logarithms: low None where high is an upper bound; None
        where nothing is known.
      best_score: the highest score of the last population.
      goal: the score at which the event begins.
      probe_success_rate: share of the search's own probes that the trigger leads, in [0, 1]; None
        where the budget did not pay for looking.
      confirmation_success_rate: share of fresh probes, likewise.
      test_success_rate: share of test images of the classes that it should lead, likewise; None
        without test images.
      faded_success_rate: share of probes that the best candidate led with its effect faded.
      guides: how many guides the search was shown.
      pixels_before_pruning: of the trigger.
      truth: the comparison with the planted trigger, where the model says what was planted.
      spaces_tried: with ``space="auto"``, what became of each space, in order.
      others: what searches of other classes with as many images found, where asked for.
      levels: of the search, in order.
      particles, scores: the last population, a pytree with leading axis n, and f32[n].
      planted_trigger: the planted one, where the model says so.
      probes: f32[m, H, W, C], the images searched on.
      inclusion: f32[H, W] in [0, 1]: in what share of the distinct triggers past the goal each
        pixel takes part; all 0 if there is none.
    """

    trigger: Trigger
    found: bool
    status: str
    target: int
    target_name: str
    particles: Particles
    scores: np.ndarray
    probes: np.ndarray
    inclusion: np.ndarray
    cost: Cost
    provenance: Provenance
    source: int | None = None
    source_name: str | None = None
    success: float = 0.95
    space: str = ""
    prior: Mapping[str, JSON] = dataclasses.field(default_factory=dict)
    protocol: str = "default"
    stop: str = "estimate"
    settings: Mapping[str, JSON] = dataclasses.field(default_factory=dict)
    log10_prob: float | None = None
    interval: tuple[float | None, float | None] | None = None
    best_score: float | None = None
    goal: float | None = None
    probe_success_rate: float | None = None
    confirmation_success_rate: float | None = None
    test_success_rate: float | None = None
    faded_success_rate: float | None = None
    guides: int = 0
    pixels_before_pruning: int | None = None
    truth: Truth | None = None
    spaces_tried: tuple[Attempt, ...] = ()
    others: tuple[Other, ...] = ()
    levels: tuple[Level, ...] = ()
    planted_trigger: Trigger | None = None

    @property
    def queries(self) -> int:
        """Images sent, everything counted."""
        return self.cost.queries

    @property
    def trigger_pixels(self) -> int:
        """How many pixels the trigger touches."""
        return int(self.trigger.pixels)

    # A result draws and writes itself by the rooms above this one, when it is asked to.

    def summary(self) -> str:
        """What the command prints: one fact a line."""
        from restore_jax.report.text import recovery_lines

        return "\n".join(recovery_lines(self))

    def plot(self) -> "Figure":
        """The page of pictures: triggers, stamped probes, the search by level."""
        from restore_jax.report.figures import plot_recovery

        return plot_recovery(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Writes the recovery; `restore_jax.load_recovery` reads it back.

        Args:
          folder: made if need be; files of the same names are replaced, others left alone.

        Returns:
          The paths written.
        """
        from restore_jax.report.written import write_recovery

        return write_recovery(self, None, folder)

    def __repr__(self) -> str:
        """Verdict, target, space, probability and cost, in one line."""
        prob = "" if self.log10_prob is None else f", log10_prob={self.log10_prob:.2f}"
        return (
            f"Recovery(found={self.found}, status={self.status!r}, target={self.target}, "
            f"space={self.space!r}, trigger_pixels={self.trigger_pixels}{prob}, "
            f"queries={self.queries:,})"
        )

    def _repr_html_(self) -> str:
        from restore_jax.report.figures import as_html

        return as_html(self.plot())
