"""Every type that the sampler exchanges with its surroundings.

Whoever has read this page can read the rest of the package: a *search space*
draws particles and owns the *kernel* that moves them; a *scorer* says how close
each particle is to the event; the sampler carries a `SplittingState` from level
to level, reports a `LevelInfo` about each, and ends with a `SplittingResult`.

Shapes: ``n`` is the number of particles, ``T`` the largest number of levels.
"""

import dataclasses
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jax.typing import ArrayLike

if TYPE_CHECKING:
    from restore_jax.splitting.tail import Tail

Array = jax.Array
Tree = Any
"""A pytree of arrays, whatever its structure: Python's types cannot say more of one."""
Particles = Tree
"""Every leaf with leading axis ``n``."""
Particle = Tree
"""One of them: the leaves without the axis ``n``."""
Args = Tree
"""What the score reads: weights, probes, target. Traced."""
Tuning = Tree
"""What a kernel adapts from move to move (its move strength, say)."""
Lesson = Tree
"""What a kernel learns of the survivors of a level before it moves."""

ScoreFn = Callable[[Particles, Args], Array]
"""``(particles, args) -> scores f32[n]``; higher is closer to the event."""


class Scorer(NamedTuple):
    """The long form of a score: it may race, skip particles and count its cost.

    Attributes:
      score: ``(key, particles, level, active, args) -> (scores, cost)``, where
        ``level`` is f32[] (a particle that cannot get strictly above it may be
        given any score that is not above it; -inf for the first particles),
        ``active`` bool[n] (the scores of the others are ignored, and they should
        cost nothing) and ``cost`` a uint32[] count of the queries really made. The
        key may decide in which order the work is done and so what it costs, never
        the score: a level set must not change under the particles in it.
      max_cost: the most queries that one particle's score can cost (>= 1); the
        budget is kept only if no score costs more.
    """

    score: Callable[[Array, Particles, Array, Array, Args], tuple[ArrayLike, ArrayLike]]
    max_cost: int


class Trial(NamedTuple):
    """What the sampler says of ``n`` proposals.

    Attributes:
      scores: f32[n].
      above: bool[n], whether each proposal is active and strictly above the level.
      cost: uint32[2], the queries spent, and how many of the scores were NaN; a kernel
        adds up what its trials give it.
    """

    scores: Array
    above: Array
    cost: Array


Try = Callable[[Particles, Array], Trial]
"""``(proposals, active bool[n]) -> Trial``: scores the active proposals."""

Proposal = Callable[[Array, Particle, Array], tuple[Particle, Array]]
"""``(key, particle, strength f32[]) -> (particle, log_ratio f32[])``, for one particle.

Where one particle might go: the leaves have no axis ``n``. ``log_ratio`` is
``log(prior(y) q(y, x) / (prior(x) q(x, y)))`` for the move from x to y at that strength: 0 for
a proposal that is reversible for the prior, -inf for one that cannot be made, which is then
not scored. What a strength means (the scale of a step, the share of pixels redrawn) is
the proposal's own affair; larger is bolder, and 1 by default the boldest.
"""


class MoveInfo(NamedTuple):
    """What one move did.

    Attributes:
      acceptance: f32[], the share of particles that moved, in [0, 1].
      cost: uint32[2], the sum of what its trials cost.
    """

    acceptance: Array
    cost: Array


class Kernel(NamedTuple):
    """Moves particles and leaves the prior, restricted to the level set, invariant.

    Attributes:
      init: ``() -> tuning``, the tuning before the first move.
      step: ``(keys, particles, scores, try_, tuning) -> (particles, scores,
        tuning, info)``, one move of the given particles (all n, or some of them). ``keys`` is
        a key array, one key per particle; ``info`` is a `MoveInfo`. A particle moves only to a
        proposal that ``try_`` calls above the level, with the
        Metropolis-Hastings factor for its prior where one is needed. With ``learn`` it takes
        two arguments more: the lesson, and ``half`` bool[rows] of the particles that move.
      max_trials: how often at most one ``step`` calls ``try_`` (>= 1). A kernel that
        tries more often would break the budget.
      learn: None, or ``(particles, scores, survives bool[n], half bool[n]) -> lesson``,
        called once a level, before anybody moves, with the population that the level was
        set on. Given the lesson, ``step`` must leave the law above invariant.
        A proposal that is fitted on the particles it moves biases the chain. So ``half``
        splits the population into two that have had no common ancestor for a few levels, and
        a kernel should move each by what it learned from the other.
    """

    init: Callable[[], Tuning]
    step: Callable[..., tuple[Particles, Array, Tuning, MoveInfo]]
    max_trials: int = 1
    learn: Callable[[Particles, Array, Array, Array], Lesson] | None = None


class LearnedProposal(NamedTuple):
    """A proposal that knows the survivors of the level.

    Attributes:
      learn: ``(particles, scores, survives bool[n], half bool[n]) -> lesson``, one for all;
        see `Kernel`.
      propose: ``(key, particle, strength, lesson, half bool[]) -> (particle, log_ratio)``, as
        `Proposal` but for the lesson and the particle's half.
      draw: None, or ``(key) -> numbers``, which ``propose`` is then given in place of a key; see
        `DrawnProposal`.
    """

    learn: Callable[[Particles, Array, Array, Array], Lesson]
    propose: Callable[..., tuple[Particle, Array]]
    draw: Callable[[Array], Tree] | None = None


@dataclasses.dataclass(frozen=True)
class DrawnProposal:
    """A `Proposal` whose random numbers are drawn whatever the particle and the strength.

    Of several that share one function ``draw``, only one is kept for each particle; a kernel
    may therefore draw once and give all of them the same numbers.

    Attributes:
      draw: ``(key) -> numbers``, any pytree.
      propose: ``(numbers, particle, strength) -> (particle, log_ratio)``, see `Proposal`.
    """

    draw: Callable[[Array], Tree]
    propose: Callable[[Tree, Particle, Array], tuple[Particle, Array]]

    def __call__(self, key: Array, particle: Particle, strength: Array) -> tuple[Particle, Array]:
        """See `Proposal`."""
        return self.propose(self.draw(key), particle, strength)


class SearchSpace(NamedTuple):
    """A prior over particles, and the kernel that leaves it invariant.

    Attributes:
      sample: ``(key, n) -> particles``: n independent draws from the prior. Draw
        ``i`` depends on the key and on ``i`` alone (`particle_keys`).
      kernel: the moves.
    """

    sample: Callable[[Array, int], Particles]
    kernel: Kernel


class Status(IntEnum):
    """How a run stands. All but the first two mean: the event was not reached."""

    RUNNING = 0
    REACHED = 1
    STALLED = 2
    OUT_OF_LEVELS = 3
    OUT_OF_QUERIES = 4

    @property
    def remedy(self) -> str:
        """What to do about it; "" where nothing needs doing."""
        return {
            Status.STALLED: "give a score that tells particles apart, or take more particles",
            Status.OUT_OF_LEVELS: "raise max_levels",
            Status.OUT_OF_QUERIES: "raise max_queries",
        }.get(self, "")


class LevelInfo(NamedTuple):
    """What a person wants to see of one level. All leaves are scalars.

    Attributes:
      index: int32[], 0 for the first level.
      level: f32[], the score that particles had to exceed; the threshold at the last
        level of a run that reached the event.
      survival: f32[], the share of particles strictly above it (at the last level
        of a run that reached the event, the share at or past the threshold).
      log_prob: f32[], natural log-probability accumulated so far.
      log_prob_std: f32[], its standard error.
      acceptance: f32[], mean share of particles that moved, over the level's moves; NaN
        if there were none, as at the last level.
      best_score: f32[], the highest score in the population.
      unique_ancestors: int32[], how many of the first particles have descendants.
      families: int32[], how many families there were at this level that had parted a few
        levels before; the standard error rests on them.
      num_queries: uint32[2], exact count so far, (high, low) 32-bit halves.
      status: int32[], a `Status`.
    """

    index: Array  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a row
    level: Array
    survival: Array
    log_prob: Array
    log_prob_std: Array
    acceptance: Array
    best_score: Array
    unique_ancestors: Array
    families: Array
    num_queries: Array
    status: Array


class KeptLevels(NamedTuple):
    """Every population of a run: row j is the one after j levels; T + 1 rows.

    Rows at and past ``num_rows`` hold the first population again.

    Attributes:
      particles: pytree with leading axes (T + 1, n).
      scores: f32[T + 1, n].
      ancestors: int32[T + 1, n], the index of each particle's ancestor in the first draw.
      log_prob: f32[T + 1], natural log of the probability of the level that the row's particles
        are above.
      roots: int32[T + 1, n], ``influence`` f32[T + 1, n], ``variance``, ``doubt`` f32[T + 1]: what
        the error of each row's estimate is computed from; see `Lineage`, of which this is the
        last of the lags.
      num_rows: int32[], how many there are. The last level of a run that reached the event
        moves nobody and makes no row.
    """

    particles: Particles
    scores: Array
    ancestors: Array
    log_prob: Array
    roots: Array
    influence: Array
    variance: Array
    doubt: Array
    num_rows: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class SplittingState:
    """All that the next level needs. A pytree: save it, vmap it, carry it on.

    Attributes:
      key_data: uint32[2], the run's threefry key as data (`jax.random.key_data`).
      particles: pytree with leading axis n.
      scores: f32[n].
      ancestors: int32[n], the index of each particle's ancestor in the first draw.
      lineage: a `Lineage`, what the standard error is computed from.
      index: int32[], how many levels are behind.
      log_prob: f32[], natural log of the product of the survivals so far; NaN after a
        first hit.
      tuning: the kernel's tuning.
      num_queries: uint32[2], (high, low) halves of an exact 64-bit count.
      num_nan: uint32[2], likewise, how many scores were NaN so far.
      status: int32[], a `Status`.
      history: `LevelInfo` with leaves of leading axis T; rows at and past
        ``index`` are not yet written (NaN for floats, 0 for integers).
      kept: `KeptLevels` of a run that keeps them, else None.
    """

    key_data: Array
    particles: Particles
    scores: Array
    ancestors: Array
    lineage: "Lineage"
    index: Array
    log_prob: Array
    tuning: Tuning
    num_queries: Array
    num_nan: Array
    status: Array
    history: LevelInfo
    kept: KeptLevels | None = None

    def __repr__(self) -> str:
        """A line."""
        from restore_jax.splitting.summary import in_a_line

        return in_a_line(self, self.index)


class Lineage(NamedTuple):
    """Who descends from whom over the last few levels, and the variance so far.

    Attributes:
      roots: int32[lag, n], each particle's ancestor before 1, ..., lag levels.
      influence: f32[lag, n], by ancestor, what its descendants have added to the
        estimated log-probability since.
      variance: f32[], of the estimated log-probability.
      doubt: f32[], the levels' squared variances, each over its degrees of freedom.
    """

    roots: Array
    influence: Array
    variance: Array
    doubt: Array


class SplittingAlgorithm(NamedTuple):
    """Pure functions; jit, vmap and scan them at will.

    Attributes:
      init: ``(key, args) -> SplittingState``: draws and scores the first particles.
      step: ``(state, args) -> (SplittingState, LevelInfo)``: one level. A state that
        is done (its status is not RUNNING) comes back unchanged.
      advance: ``(state, args, k) -> SplittingState``: at most k more levels, in one
        `lax.while_loop`.
      run: ``(key, args) -> SplittingResult``: init, then the whole loop.
      result: ``(state) -> SplittingResult``: reads a state, also an unfinished one.
      begin: ``(key, particles, scores f32[n]) -> SplittingState``: begins with particles that were
        drawn and scored elsewhere, n of them, at no cost and with a probability of 1: what is
        estimated then is the share of whatever law they are draws of.
      blank: ``() -> SplittingState`` of `jax.ShapeDtypeStruct`: what a state is made of.
      settings: what the sampler was built with, as JSON can hold it.
    """

    init: Callable[[Array, Args], SplittingState]
    step: Callable[[SplittingState, Args], tuple[SplittingState, LevelInfo]]
    advance: Callable[[SplittingState, Args, int | Array], SplittingState]
    run: Callable[[Array, Args], "SplittingResult"]
    result: Callable[[SplittingState], "SplittingResult"]
    begin: Callable[[Array, Particles, Array], SplittingState]
    blank: Callable[[], SplittingState]
    settings: dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class SplittingResult:
    """What a run found. A pytree: a vmapped run gives one with a leading axis.

    Attributes:
      log_prob: f32[], natural log of the estimated probability of the event; NaN if
        the run stopped at its first hit. If the event was not reached: natural log
        of the probability of the last level, which is not an estimate of the event.
      log_prob_std: f32[], standard error of ``log_prob``.
      log_prob_dof: f32[], how many degrees of freedom that error has; see `genealogy`.
      particles: pytree with leading axis n: the last population.
      scores: f32[n].
      levels: f32[T], the levels in order, NaN behind the last one.
      survival: f32[T], share of particles above each level, NaN likewise.
      acceptance: f32[T], mean acceptance at each level, NaN likewise and at the last
        level of a run that reached the event, where nothing moves.
      ancestors: int32[T], how many of the first particles had descendants at each level, 0
        behind the last.
      families: int32[T], how many nearly independent families the particles of each level
        were, 0 behind the last; see `genealogy`.
      num_levels: int32[], how many levels were used.
      num_queries: uint32[2], (high, low) halves of an exact count; `count` reads it.
      num_nan: uint32[2], how many scores were NaN, likewise; those particles and
        proposals counted as below every level.
      reached: bool[], whether the event was reached.
      status: int32[], a `Status`.
      num_hits: int32[], how many of the last particles are at or past the threshold.
      unique_ancestors: int32[].
      kept: `KeptLevels` of a run that keeps them, else None.
    """

    log_prob: Array
    log_prob_std: Array
    log_prob_dof: Array
    particles: Particles
    scores: Array
    levels: Array
    survival: Array
    acceptance: Array
    ancestors: Array
    families: Array
    num_levels: Array
    num_queries: Array
    num_nan: Array
    reached: Array
    status: Array
    num_hits: Array
    unique_ancestors: Array
    kept: KeptLevels | None = None

    def __repr__(self) -> str:
        """A line: `summary` says more."""
        from restore_jax.splitting.summary import in_a_line

        return in_a_line(self, self.num_levels)

    def interval(self, confidence: float = 0.95) -> tuple[Array, Array]:
        """Natural-log interval of the event's probability, ``(low, high)``.

        If the event was not reached, ``low`` is -inf and ``high`` is an upper
        bound at that confidence. NaN after a first hit.
        """
        from restore_jax.splitting.estimators import log_prob_interval

        return log_prob_interval(self, confidence)

    def log_prob_of(self, thresholds: ArrayLike) -> "Tail":
        """The probability of reaching other scores, of a run with ``keep=True``.

        See `restore_jax.splitting.log_prob_of`.
        """
        from restore_jax.splitting.tail import log_prob_of

        return log_prob_of(self, thresholds)

    def summary(self, confidence: float = 0.95) -> str:
        """The result of one run as text: see `restore_jax.splitting.summary`."""
        from restore_jax.splitting.summary import summary

        return summary(self, confidence)
