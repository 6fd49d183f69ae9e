"""The sampler for a score that only the host can compute.

What is proposed, accepted and accounted for is what `importance_splitting` compiles, in pieces;
between them the score is an ordinary function of arrays. The same seed gives the same run.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from restore_jax.splitting.levels import (
    Lesson,
    Level,
    Population,
    account,
    begin,
    begin_with,
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
from restore_jax.splitting.settings import checked_settings
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
) -> SplittingAlgorithm:
    """Builds the sampler for a score computed on the host.

    Args:
      scorer: as `importance_splitting` takes it, but ``score`` is called with arrays that have
        values, outside any compiled program. What it raises ends the level; the state before it
        is still good.
      space: the prior and a kernel of one trial a sweep.
      num_particles, survival, num_moves, moving, threshold, max_levels, max_queries, stop: see
        `importance_splitting`.

    Returns:
      A `SplittingAlgorithm`, whose functions but ``result`` and ``begin`` can be neither jitted
      nor vmapped.

    Raises:
      ValueError: if an argument is outside its range, or the kernel makes several trials.
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
    size = settings.num_moving
    drawn = jax.jit(lambda key: draw(settings, key))
    begun = jax.jit(lambda key, particles, first: begin(settings, key, particles, first))
    begun_with = jax.jit(lambda *given: begin_with(settings, *given))
    going = jax.jit(lambda level, population: level_goes_on(settings, level, population))
    closed = jax.jit(lambda *level: account(settings, *level))

    @jax.jit
    def opened(state: SplittingState) -> tuple[Level, Population, Lesson]:
        level = find_level(settings, state.scores)
        population = survive(settings, state, level)
        return level, population, learn(settings, state, level, population)

    @jax.jit
    def swept(
        state: SplittingState, level: Level, lesson: Lesson, population: Population, trial: Trial
    ) -> tuple[Any, Population]:
        proposed: list[tuple[Particles, Array]] = []

        def try_(proposals: Particles, active: Array) -> Trial:
            proposed.append((proposals, active))
            return trial

        moved = make_sweep(settings, state, level, lesson, population, try_)
        return (*proposed[0], sweep_key(state, population)), moved

    def init(key: Array, args: Args) -> SplittingState:
        particles, scoring_key = drawn(key)
        first = first_scores(settings, scoring_key, particles, args, _loop)
        return begun(key, particles, first)

    def step(state: SplittingState, args: Args) -> tuple[SplittingState, LevelInfo]:
        if int(state.status) != Status.RUNNING:
            return state, last_info(state)
        level, population, lesson = opened(state)
        nobody = jnp.zeros(size, bool)
        blank = Trial(jnp.zeros(size, jnp.float32), nobody, jnp.zeros(2, jnp.uint32))
        while bool(going(level, population)):
            # One program says what is proposed, and again what becomes of it.
            (proposals, active, key), _ = swept(state, level, lesson, population, blank)
            trial = try_against(settings, size, key, level.score, args)(proposals, active)
            _, population = swept(state, level, lesson, population, trial)
        return closed(state, level, population)

    def advance(state: SplittingState, args: Args, k: Any) -> SplittingState:
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
        return begun_with(key, particles, jnp.asarray(scores, jnp.float32))

    return SplittingAlgorithm(init, step, advance, run, result, begin_given)


def _loop(goes_on: Callable[[Any], Any], body: Callable[[Any], Any], carry: Any) -> Any:
    """`jax.lax.while_loop`, on the host."""
    while bool(goes_on(carry)):
        carry = body(carry)
    return carry
