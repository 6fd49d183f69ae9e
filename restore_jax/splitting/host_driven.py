"""The sampler for a score that only the host can compute.

What is proposed, accepted and accounted for is what `importance_splitting` compiles, in pieces;
between them the score is an ordinary function of arrays. The same seed gives the same run.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from restore_jax.splitting.levels import (
    FirstRounds,
    FirstScores,
    Level,
    Population,
    Taught,
    account,
    begin,
    begin_with,
    blank_state,
    draw,
    find_level,
    first_scores,
    last_info,
    learn,
    level_goes_on,
    make_sweep,
    read_result,
    survive,
    sweep_key,
    try_against,
)
from restore_jax.splitting.settings import SamplerSettings, checked_settings, described
from restore_jax.splitting.types import (
    Args,
    Array,
    LevelInfo,
    Particles,
    Scorer,
    SearchSpace,
    SplittingAlgorithm,
    SplittingResult,
    SplittingState,
    Status,
    Trial,
)

CompilerOptions = Mapping[str, str | bool] | None


def host_driven(
    scorer: Scorer,
    space: SearchSpace,
    *,
    num_particles: int = 1000,
    survival: float = 0.25,
    num_moves: int = 9,
    moving: str = "waste_free",
    threshold: float = 0.0,
    max_levels: int = 100,
    max_queries: int | None = None,
    stop: str = "estimate",
    compiler_options: CompilerOptions = None,
) -> SplittingAlgorithm:
    """Builds the sampler for a score computed on the host.

    Args:
      scorer: as `importance_splitting` takes it, but ``score`` is called with arrays that have
        values, outside any compiled program. An exception in it ends the level; the state before
        that level can still be used.
      space: the prior and a kernel of one trial a sweep.
      num_particles, survival, num_moves, moving, threshold, max_levels, max_queries, stop: see
        `importance_splitting`.
      compiler_options: XLA's, for the pieces; None: its own, with which a run has the bits of a
        compiled one.

    Returns:
      A `SplittingAlgorithm`. Of its functions only ``result`` and ``begin`` can be jitted or
      vmapped.

    Raises:
      ValueError: if an argument is outside its range, or the kernel makes several trials.

    >>> from restore_jax.splitting import Scorer, standard_normal
    >>> score = lambda key, x, level, active, args: (x[:, 0], active.sum())
    >>> space = standard_normal(1)
    >>> run = host_driven(Scorer(score, 1), space, num_particles=100, threshold=1.0).run
    >>> bool(run(jax.random.key(0), ()).reached)
    True
    """
    settings = checked_settings(
        scorer,
        space,
        num_particles=num_particles,
        survival=survival,
        num_moves=num_moves,
        threshold=threshold,
        max_levels=max_levels,
        max_queries=max_queries,
        stop=stop,
        queries_per_score=1,
        moving=moving,
        sharding=None,
    )
    if space.kernel.max_trials != 1:
        raise ValueError("a score on the host needs a kernel that makes one trial a sweep.")
    programs = _compiled(settings, compiler_options)

    def init(key: Array, args: Args) -> SplittingState:
        particles, scoring_key = programs.draw(key)
        first = first_scores(settings, scoring_key, particles, args, _loop)
        return programs.begin(key, particles, first)

    def step(state: SplittingState, args: Args) -> tuple[SplittingState, LevelInfo]:
        if int(state.status) != Status.RUNNING:
            return state, last_info(state)
        return _one_level(settings, programs, state, args)

    def advance(state: SplittingState, args: Args, k: int | Array) -> SplittingState:
        for _ in range(int(k)):
            if int(state.status) != Status.RUNNING:
                break
            state, _ = step(state, args)
        return state

    def run(key: Array, args: Args) -> SplittingResult:
        return result(advance(init(key, args), args, max_levels))

    def result(state: SplittingState) -> SplittingResult:
        return read_result(settings, state)

    def begin_given(key: Array, particles: Particles, scores: Array) -> SplittingState:
        return programs.begin_with(key, particles, jnp.asarray(scores, jnp.float32))

    return SplittingAlgorithm(
        init,
        step,
        advance,
        run,
        result,
        begin_given,
        partial(blank_state, settings),
        described(settings) | {"driven": "host"},
    )


class Proposed(NamedTuple):
    """What a sweep wants scored: proposals, who of them is active bool[rows], and the key."""

    proposals: Particles
    active: Array
    key: Array


class Programs(NamedTuple):
    """The compiled pieces between which the host asks for scores.

    Attributes:
      draw: the first particles, and the key of their scores.
      begin, begin_with: the state of scored first particles; of particles from elsewhere.
      open: what a level begins with.
      goes_on: whether one more sweep is to be made.
      sweep: one sweep, given what a trial says of its proposals: what it proposes, which does not
        depend on the trial, and the population after it.
      close: ends a level.
    """

    draw: Callable[[Array], tuple[Particles, Array]]
    begin: Callable[[Array, Particles, FirstScores], SplittingState]
    begin_with: Callable[[Array, Particles, Array], SplittingState]
    open: Callable[[SplittingState], tuple[Level, Population, Taught | None]]
    goes_on: Callable[[Level, Population], Array]
    sweep: Callable[
        [SplittingState, Level, Taught | None, Population, Trial], tuple[Proposed, Population]
    ]
    close: Callable[[SplittingState, Level, Population], tuple[SplittingState, LevelInfo]]


def _compiled(settings: SamplerSettings, options: CompilerOptions) -> Programs:
    """The pieces of a run; each is compiled when it is first called."""
    compiled = partial(jax.jit, compiler_options=options)

    def opened(state: SplittingState) -> tuple[Level, Population, Taught | None]:
        level = find_level(settings, state.scores)
        population = survive(settings, state, level)
        return level, population, learn(settings, state, level, population)

    def swept(
        state: SplittingState,
        level: Level,
        taught: Taught | None,
        population: Population,
        trial: Trial,
    ) -> tuple[Proposed, Population]:
        asked: list[tuple[Particles, Array]] = []

        def try_(proposals: Particles, active: Array) -> Trial:
            asked.append((proposals, active))
            return trial

        moved = make_sweep(settings, state, level, taught, population, try_)
        return Proposed(*asked[0], sweep_key(state, population)), moved

    return Programs(
        draw=compiled(partial(draw, settings)),
        begin=compiled(partial(begin, settings)),
        begin_with=compiled(partial(begin_with, settings)),
        open=compiled(opened),
        goes_on=compiled(partial(level_goes_on, settings)),
        sweep=compiled(swept),
        # What says how probable the level is has the bits of the compiled loop.
        close=jax.jit(partial(account, settings)),
    )


def _one_level(
    settings: SamplerSettings, programs: Programs, state: SplittingState, args: Args
) -> tuple[SplittingState, LevelInfo]:
    """One level of a running state, asking for the scores of each sweep."""
    size = settings.num_moving
    level, population, taught = programs.open(state)
    nobody = jnp.zeros(size, bool)
    blank = Trial(jnp.zeros(size, jnp.float32), nobody, jnp.zeros(2, jnp.uint32))
    while bool(programs.goes_on(level, population)):
        # One program says what is proposed, and again what becomes of it.
        proposed, _ = programs.sweep(state, level, taught, population, blank)
        try_ = try_against(settings, size, proposed.key, level.score, args)
        trial = try_(proposed.proposals, proposed.active)
        _, population = programs.sweep(state, level, taught, population, trial)
    return programs.close(state, level, population)


def _loop(
    goes_on: Callable[[FirstRounds], Array],
    body: Callable[[FirstRounds], FirstRounds],
    carry: FirstRounds,
) -> FirstRounds:
    """`jax.lax.while_loop`, on the host."""
    while bool(goes_on(carry)):
        carry = body(carry)
    return carry
