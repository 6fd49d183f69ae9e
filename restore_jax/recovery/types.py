"""What a recovery is given, and what it gives."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from restore_jax.backdoors import Trigger

SCHEMA_VERSION = 1


class TooSmallBudget(ValueError):
    """The budget does not pay for what a recovery needs at least; one sentence says so."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to search. `settings_for` gives the defaults of a space.

    Attributes:
      num_probes: images that a candidate is shown.
      num_particles: triggers carried along.
      survival: share of them that survives a level, in (0, 1).
      num_moves: moves of every particle per level.
      max_levels: levels at most, before and after the event is reached.
      fade: how much of a trigger's effect is taken back, in [0, 1), when candidates that make
        the event happen are told apart, and pixels that matter from those that do not.
        Synthetic probes are easier to lead than photographs; what leads them faded, too, also
        leads those.
      refine_levels: if no candidate makes the event happen faded, how many levels at most go on
        towards one that does it three quarters as faded.
      num_guides: with labels, where none of the first particles leads any probe: how many
        images just short of the model's boundary show how close a trigger comes.
      options: what the space takes.
    """

    num_probes: int = 20
    num_particles: int = 96
    survival: float = 0.25
    num_moves: int = 3
    max_levels: int = 60
    fade: float = 0.5
    refine_levels: int = 10
    num_guides: int = 16
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


FIRST_HIT_PARTICLES = 48
"""With ``stop="first_hit"`` fewer particles will do: there is no probability to estimate."""
FIRST_HIT_FADE = 0.4
"""Among the many candidates of a whole population some work more faded than among a few draws."""
DEFAULTS = {
    "patch": Settings(),
    "stripes": Settings(),
    "scattered": Settings(),
    "blend": Settings(num_particles=200),
    "smooth": Settings(),
    "sparse": Settings(options={"density": 0.01, "channels": "rgb"}),
    "gaussian": Settings(),
}
BUDGETS = {
    "patch": 40_000,
    "stripes": 40_000,
    "scattered": 200_000,
    "blend": 200_000,
    "smooth": 100_000,
    "sparse": 400_000,
    "gaussian": 400_000,
}
"""Images that may be sent, by space."""
AUTO = ("patch", "stripes", "scattered", "blend")
"""The spaces that ``space="auto"`` tries, in order of what finding something there costs."""


def settings_for(space: str, stop: str) -> Settings:
    """The default settings of a space."""
    settings = DEFAULTS[space]
    if stop == "first_hit":
        few = min(settings.num_particles, FIRST_HIT_PARTICLES)
        settings = dataclasses.replace(settings, num_particles=few, fade=FIRST_HIT_FADE)
    return settings


class Progress(NamedTuple):
    """Where a search stands, after each level.

    Attributes:
      level: how many levels are behind.
      threshold: the score that the particles now exceed; the event begins at ``goal``.
      goal: see above.
      acceptance: mean share of accepted moves at this level, in [0, 1].
      queries: images sent so far.
      budget: images that may be sent.
      best: the highest score.
    """

    level: int
    threshold: float
    goal: float
    acceptance: float
    queries: int
    budget: int
    best: float


@dataclasses.dataclass(frozen=True)
class Recovery:
    """What a recovery found. `to_json` gives the written form.

    Attributes:
      trigger: the trigger chosen, found or not.
      found: whether fresh probes confirmed it.
      status: "reached", "stalled", "out_of_levels", "out_of_queries" or "interrupted".
      particles: the last population, a pytree with leading axis n, and its scores f32[n].
      true_trigger: the planted one, where the model says so.
      probes: f32[m, H, W, C], the images searched on.
      inclusion: f32[H, W] in [0, 1]: in what share of the distinct triggers past the goal each
        pixel takes part; all 0 if there is none.
      levels: one dict per level: level, survival, log10_prob, acceptance, best_score,
        unique_ancestors, queries.
      fields: everything else that is written: see the README.
    """

    trigger: Trigger
    found: bool
    status: str
    particles: Any
    scores: np.ndarray
    true_trigger: Trigger | None
    probes: np.ndarray
    inclusion: np.ndarray
    levels: list[dict[str, Any]]
    fields: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold: no NaN, no infinity, no arrays."""
        return {
            "schema_version": SCHEMA_VERSION,
            "found": self.found,
            "status": self.status,
            **self.fields,
            "levels": self.levels,
        }
