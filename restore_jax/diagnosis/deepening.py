"""Splitting for the classes that random draws do not settle: halving, so that few go far.

Each class has a population of its own, all of them the same compiled program with another target
and other probes. After every level the half whose level is lower is dropped; what is then known of
it is a bound.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.diagnosis.pooling import Pool
from restore_jax.recovery.found import Search
from restore_jax.recovery.probability import log10, log10_interval
from restore_jax.recovery.searching import ready
from restore_jax.run import Run
from restore_jax.spaces import Settings, TriggerSpace
from restore_jax.splitting import SplittingState, Status

Array = jax.Array


class Depth(NamedTuple):
    """What splitting says of a class.

    Attributes:
      log10_prob: the estimate, or None.
      interval: (low, high), 95 %, decimal logarithms; low None where high is but a bound.
    """

    log10_prob: float | None
    interval: tuple[float | None, float]


def deepen(
    run: Run,
    space: TriggerSpace,
    pool: Pool,
    success: float,
    classes: list[int],
    settings: Settings,
    key: Array,
    most: int,
    on_level: Callable[[str], None],
) -> dict[int, Depth]:
    """Searches several classes by splitting, fewer and fewer of them.

    Args:
      run: whose model is asked; pays for no more than ``most`` images here.
      space: where triggers come from.
      pool: the probes.
      success: share of probes that makes the event.
      classes: where to, the most promising first.
      settings: of the splitting.
      key: of everything drawn here.
      most: see above. Classes that it does not pay for are left out.
      on_level: told what was just done.

    Returns:
      What is known of each class that was searched.
    """
    m, n = settings.num_probes, settings.num_particles
    level_cost = n * settings.num_moves * m
    affordable = [t for i, t in enumerate(classes) if (i + 1) * (n * m + level_cost) <= most]
    if not affordable:
        return {}
    probes = {t: pool.of_class(t) for t in affordable}
    searcher = ready(
        run, space, settings, success, affordable[0], probes[affordable[0]],
        stop="estimate", max_queries=most, key=key,
    )  # fmt: skip
    ledger, sampler = run.ledger, searcher.sampler
    args = {t: searcher.args | {"target": jnp.int32(t), "probes": probes[t]} for t in affordable}
    end, states = ledger.spent + most, dict[int, SplittingState]()
    for t in affordable:
        states[t] = sampler.init(jax.random.fold_in(key, t), args[t])
    racing = list(affordable)
    while racing:
        for t in list(racing):
            if ledger.spent + level_cost > end:
                return {t: _depth(searcher, state) for t, state in states.items()}
            states[t] = sampler.advance(states[t], args[t])
            name = run.model.class_names[t]
            on_level(f"{space.name}: {name}, level {int(states[t].index)}")
            if int(states[t].status) != Status.RUNNING:
                racing.remove(t)
        racing.sort(key=lambda t: -_level(states[t]))
        racing = racing[: (len(racing) + 1) // 2] if len(racing) > 1 else racing
    return {t: _depth(searcher, state) for t, state in states.items()}


def _level(state: SplittingState) -> float:
    return float(np.asarray(state.history.level)[max(0, int(state.index) - 1)])


def _depth(searcher: Search, state: SplittingState) -> Depth:
    result: Any = searcher.sampler.result(state)
    low, high = log10_interval(state, result) or (None, 0.0)
    reached = int(state.status) == Status.REACHED
    return Depth(
        log10(result.log_prob) if reached else None, (low, high if high is not None else 0.0)
    )
