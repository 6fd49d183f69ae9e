"""Importance splitting: the probability of a rare event, and particles inside it.

Adaptive multilevel splitting, a Sequential Monte Carlo method (Cérou, Del Moral, Furon &
Guyader, Statistics and Computing 2012). Draw n particles from the prior; then, level by level:

1. *level*: the ceil(n (1 - survival))-th smallest score. At or past the threshold: done.
2. *survive*: particles strictly above it stay, the others become clones of them.
3. *move*: each takes a few steps that leave the prior above the level invariant.
4. *account*: multiply the probability by the share that survived; note the level.

Levels are order statistics, never interpolated, and the share is the true one, so that
tied scores (labels, plateaus, clones) keep the estimate consistent (Walter, 2015,
arXiv 1507.00919).
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding

from restore_jax.splitting.levels import (
    begin_with,
    blank_state,
    first_state,
    last_info,
    read_result,
)
from restore_jax.splitting.progress import print_level, reported_level
from restore_jax.splitting.settings import checked_settings, described
from restore_jax.splitting.types import (
    Args,
    Array,
    LevelInfo,
    Particles,
    ScoreFn,
    Scorer,
    SearchSpace,
    SplittingAlgorithm,
    SplittingResult,
    SplittingState,
    Status,
)


def importance_splitting(
    score_fn: ScoreFn | Scorer,
    space: SearchSpace,
    *,
    num_particles: int = 1000,
    survival: float = 0.25,
    num_moves: int = 9,
    moving: str = "waste_free",
    threshold: float = 0.0,
    max_levels: int = 100,
    max_queries: int | Array | None = None,
    stop: str = "estimate",
    queries_per_score: int = 1,
    sharding: NamedSharding | None = None,
    keep: bool = False,
    progress: bool | Callable[[LevelInfo], None] = False,
) -> SplittingAlgorithm:
    """Builds the sampler for the event ``score >= threshold`` under a space's prior.

    Args:
      score_fn: ``(particles, args) -> scores [n]``, higher is closer to the event; read as
        float32, NaN as -inf. Or a `Scorer`, which races and counts its own queries.
      space: the prior and its kernel.
      num_particles: n >= 2.
      survival: in (0, 1), the share of particles meant to survive a level; at least one
        particle of n must. 1 - 1/n with ``moving="clones"`` is the last-particle algorithm
        (Guyader, Hengartner & Matzner-Løber, Applied Mathematics & Optimization 2011).
      num_moves: how often each of those that move moves per level, >= 1.
      moving: who moves at a level. ``"waste_free"``: chains from n / (num_moves + 1) of the
        survivors, and every state of every chain is a particle of the next population (Au &
        Beck, Probabilistic Engineering Mechanics 2001; Dau & Chopin, JRSS B 2022), so that a
        level costs n num_moves / (num_moves + 1) scores; num_moves + 1 must divide n.
        ``"all"``: every particle, and of its states the last counts: n num_moves scores.
        ``"clones"``: those that took the places of the dead, survivors stay where they are:
        n (1 - survival) num_moves scores.
      threshold: the score at which the event happens; anything but NaN.
      max_levels: T >= 1, the last level included.
      max_queries: the budget, below 2^64; None: no limit. A sweep of moves is made only if
        what remains pays for its dearest case, so the budget is never exceeded. It must pay
        for scoring the first particles. A count uint32[2], (high, low) halves, may be traced: one
        compiled program then serves every budget.
      stop: ``"estimate"`` ends at the first level at or past the threshold, with an estimate of
        the event's probability; ``"first_hit"`` after the first draw or sweep that has a particle
        past it, without one, since the value at a random hitting time is biased. A `Scorer` is
        then first asked about the event alone, a quarter of the draws at a time, and only if
        none has it about everybody's score.
      queries_per_score: what one particle's score costs, >= 1; for a plain score function
        (probes per particle, say). A `Scorer` counts for itself.
      sharding: None, or how the leading axis of the population lies over a mesh of devices,
        of one process or several: ``NamedSharding(mesh, PartitionSpec("particles"))``. Their
        number must divide how many particles move at once. Levels stay order statistics of
        all particles, so what is drawn does not depend on the devices.
      keep: whether the result keeps the population of every level, in ``result.kept``: the tail
        at any score below the threshold (``result.log_prob_of``), and expectations beyond it
        (`weighted_particles`), then come out of the same run. It takes the memory of
        max_levels + 1 populations. Not with ``stop="first_hit"``.
      progress: True: every level prints a line on stderr; a function: it is called on the host
        with each `LevelInfo`, in NumPy, also under jit and vmap, there for each run by itself.
        False: the program has no callback in it.

    Returns:
      A `SplittingAlgorithm`: init, step, advance, run, result, begin.

    Raises:
      ValueError: if an argument is outside its range, here; if particles or scores have
        the wrong shape or the key is not a typed one, when traced.

    References:
      Cérou, Del Moral, Furon and Guyader, Sequential Monte Carlo for rare event estimation,
      Statistics and Computing 2012, doi 10.1007/s11222-011-9231-6.

    >>> import jax
    >>> from restore_jax.splitting import standard_normal
    >>> score = lambda x, args: x.sum(-1) / 10
    >>> algorithm = importance_splitting(score, standard_normal(100), threshold=5.0)
    >>> result = jax.jit(algorithm.run)(jax.random.key(0), ())
    >>> low, high = result.interval(0.999)
    >>> bool(low < jax.scipy.stats.norm.logsf(5.0) < high)
    True
    """
    settings = checked_settings(
        score_fn,
        space,
        num_particles=num_particles,
        survival=survival,
        num_moves=num_moves,
        threshold=threshold,
        max_levels=max_levels,
        max_queries=max_queries,
        stop=stop,
        queries_per_score=queries_per_score,
        moving=moving,
        sharding=sharding,
        keep=keep,
        progress=print_level if progress is True else progress or None,
    )

    def init(key: Array, args: Args) -> SplittingState:
        return first_state(settings, key, args)

    def step(state: SplittingState, args: Args) -> tuple[SplittingState, LevelInfo]:
        after: tuple[SplittingState, LevelInfo] = lax.cond(
            state.status == Status.RUNNING,
            lambda state: reported_level(settings, state, args),
            lambda state: (state, last_info(state)),
            state,
        )
        return after

    def advance(state: SplittingState, args: Args, k: int | Array) -> SplittingState:
        def unfinished(carry: tuple[SplittingState, Array]) -> Array:
            state, done = carry
            goes_on: Array = (state.status == Status.RUNNING) & (done < k)
            return goes_on

        def next_level(carry: tuple[SplittingState, Array]) -> tuple[SplittingState, Array]:
            state, done = carry
            state, _ = reported_level(settings, state, args)
            return state, done + 1

        state, _ = lax.while_loop(unfinished, next_level, (state, jnp.int32(0)))
        return state

    def run(key: Array, args: Args) -> SplittingResult:
        return result(advance(init(key, args), args, settings.max_levels))

    def result(state: SplittingState) -> SplittingResult:
        return read_result(settings, state)

    def begin(key: Array, particles: Particles, scores: Array) -> SplittingState:
        return begin_with(settings, key, particles, scores)

    return SplittingAlgorithm(
        init, step, advance, run, result, begin, partial(blank_state, settings), described(settings)
    )
