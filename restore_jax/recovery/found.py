"""What is known of a recovery so far; each stage is given it and gives back more of it."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from restore_jax.backdoors import Trigger
from restore_jax.oracles.types import Sampler
from restore_jax.recovery.aims import Aim
from restore_jax.recovery.types import Level, Truth
from restore_jax.run import ProbeFeed
from restore_jax.splitting import SplittingState
from restore_jax.splitting.types import Particle, Particles, Tree
from restore_jax.types import Argument

Array = jax.Array


T = TypeVar("T")


def known(value: T | None) -> T:
    """What an earlier stage has found out."""
    assert value is not None
    return value


class Candidate(NamedTuple):
    """A trigger among the particles.

    Attributes:
      particle: the particle, without a leading axis.
      score: its score.
      trigger: what it stands for.
    """

    particle: Particle
    score: float
    trigger: Trigger


class Search(NamedTuple):
    """A search made ready.

    Attributes:
      sampler: its functions, which book what they send.
      args: what the score reads.
      goal: where the event begins.
      since: images that the run had spent before it.
    """

    sampler: Sampler
    args: dict[str, Tree]
    goal: float
    since: int


@dataclasses.dataclass(frozen=True)
class Found:
    """What is known so far; what a stage has not come to yet is None.

    Attributes:
      aim: what is searched for.
      feed: fresh probes.
      probes: f32[m, H, W, C], the search's own (screen).
      search, state: the search and its last state (search).
      particles, scores: the last population (search, strengthen).
      levels: what the search went through (search).
      goal, best_score: where the event begins, and the highest score (search).
      log10_prob, interval: what the search says of the probability (search).
      guides: how many guides it was shown (search).
      status: how it ended (search, confirm, measure).
      past: candidates past the goal, best first, at most MAX_CANDIDATES (choose).
      margins: f32[k, m] of those on the probes, faded; None if nobody was told apart (choose).
      chosen: the candidate to give back (choose, strengthen).
      trigger: what is given back (search, choose, strengthen, prune).
      faded_rate: share of probes that the best candidate leads, faded (choose).
      confirmation: share of fresh probes led; None if the budget did not pay (confirm).
      cut_short: whether the budget or Ctrl-C ended confirming (confirm).
      probe_rate, test_rate: shares of the search's probes and of test images led (measure).
      planted_trigger, truth: the planted trigger, and the comparison with it (measure).
      seconds: "compile" and "run" of the search, "total" until the verdict.
    """

    aim: Aim
    feed: ProbeFeed
    probes: Array | None = None
    search: Search | None = None
    state: SplittingState | None = None
    particles: Particles = None
    scores: Array | None = None
    levels: tuple[Level, ...] = ()
    goal: float | None = None
    best_score: float | None = None
    log10_prob: float | None = None
    interval: tuple[float | None, float | None] | None = None
    guides: int = 0
    status: str = "running"
    past: tuple[Candidate, ...] | None = None
    margins: np.ndarray | None = None
    chosen: Candidate | None = None
    trigger: Trigger | None = None
    faded_rate: float | None = None
    confirmation: float | None = None
    cut_short: bool = False
    probe_rate: float | None = None
    test_rate: float | None = None
    planted_trigger: Trigger | None = None
    truth: Truth | None = None
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the search."""
        return self.status == "interrupted"

    def now(self, **more: Argument) -> "Found":
        """With what a stage found out."""
        return dataclasses.replace(self, **more)
