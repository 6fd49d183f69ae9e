"""The compiled search of a recovery: levels up to the event, and beyond it."""

import dataclasses
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.compilation import compiler_options
from restore_jax.host_scoring import make_host_scorer
from restore_jax.oracles import Ledger, OutOfQueries
from restore_jax.recovery.question import Question
from restore_jax.recovery.types import Progress, Settings
from restore_jax.scoring import make_scorer, needed, threshold
from restore_jax.spaces import TriggerSpace
from restore_jax.splitting import (
    Scorer,
    SplittingAlgorithm,
    SplittingState,
    Status,
    count,
    counting,
    host_driven,
    importance_splitting,
)

Array = jax.Array
OnProgress = Callable[[Progress], None] | None


class Searcher(NamedTuple):
    """A search as compiled programs.

    Attributes:
      algorithm: the sampler; ``init(key, args)`` and ``advance(state, args)``, one level, are
        its functions compiled, and book what they send. ``begin(key, particles, args)`` begins
        with particles from elsewhere, scored here.
      args: what the score reads.
      goal: where the event begins.
      seconds: what compiling took.
    """

    algorithm: SplittingAlgorithm
    init: Any
    advance: Any
    begin: Any
    args: dict[str, Any]
    goal: float
    seconds: float


def compile_search(
    question: Question,
    space: TriggerSpace,
    settings: Settings,
    probes: Array,
    guides: Array | None,
    *,
    stop: str,
    max_queries: int,
    key: Array,
) -> Searcher:
    """Compiles a search.

    Args:
      question: what is asked.
      space: where is searched.
      settings: how.
      probes: f32[m, H, W, C].
      guides: f32[g, H, W, C], or None.
      stop: "estimate" or "first_hit".
      max_queries: images that the search may send.
      key: as it will be run with.
    """
    oracle, m = question.oracle, probes.shape[0]
    g = 0 if guides is None else guides.shape[0]
    goal = threshold(oracle, question.success, m, g)
    ledger = question.ledger
    options: dict[str, Any] = {
        "num_particles": settings.num_particles,
        "survival": settings.survival,
        "num_moves": settings.num_moves,
        "moving": "all",
        "threshold": goal,
        "max_levels": settings.max_levels,
        "stop": stop,
    }
    args = {
        "weights": oracle.weights,
        "probes": probes if guides is None else jnp.concatenate([guides, probes]),
        "target": jnp.int32(question.target),
        "fade": jnp.float32(0.0),
    }
    asked = oracle, space, question.success, m
    if oracle.foreign:
        # Each request is booked before it is sent.
        scorer = make_host_scorer(*asked, ledger.charge, num_guides=g)
        algorithm = host_driven(scorer, space.search, max_queries=max_queries, **options)
        advance_host = lambda state, args: algorithm.advance(state, args, 1)  # noqa: E731

        def begin_host(key: Array, particles: Any, args: dict[str, Any]) -> SplittingState:
            return algorithm.begin(key, particles, _scored(scorer, key, particles, args)[0])

        return Searcher(algorithm, algorithm.init, advance_host, begin_host, args, goal, 0.0)
    scorer = make_scorer(*asked, num_guides=g)
    algorithm = importance_splitting(scorer, space.search, max_queries=max_queries, **options)

    # The budget is an argument, so that a program once compiled serves again, whatever is left.
    def within(most: Array) -> SplittingAlgorithm:
        return importance_splitting(scorer, space.search, max_queries=most, **options)

    most = counting.halves(max_queries)
    begun, how = time.perf_counter(), compiler_options()
    first = jax.jit(lambda most, key, args: within(most).init(key, args)).lower(most, key, args)
    with ThreadPoolExecutor(1) as beside:
        compiling = beside.submit(first.compile, how)
        like = jax.eval_shape(algorithm.init, key, args)
        level = jax.jit(lambda most, state, args: within(most).advance(state, args, 1))
        one_level = level.lower(most, like, args).compile(how)
        draw = compiling.result()

    def init(key: Array, args: dict[str, Any]) -> SplittingState:
        state = jax.block_until_ready(draw(most, key, args))
        ledger.charge(count(state.num_queries))
        return state

    def advance(state: SplittingState, args: dict[str, Any]) -> SplittingState:
        before = count(state.num_queries)
        state = jax.block_until_ready(one_level(most, state, args))
        ledger.charge(count(state.num_queries) - before)
        return state

    def begin(key: Array, particles: Any, args: dict[str, Any]) -> SplittingState:
        scores, cost = scored(key, particles, args)
        ledger.charge(int(cost))
        return began_with(key, particles, scores)

    scored = jax.jit(functools.partial(_scored, scorer), compiler_options=how)
    began_with = jax.jit(algorithm.begin)
    seconds = time.perf_counter() - begun
    return Searcher(algorithm, init, advance, begin, args, goal, seconds)


def _scored(scorer: Scorer, key: Array, particles: Any, args: dict[str, Any]) -> Any:
    """Scores f32[n] of particles as they are, and the images that took."""
    n = jax.tree.leaves(particles)[0].shape[0]
    return scorer.score(key, particles, jnp.float32(-jnp.inf), jnp.ones(n, bool), args)


def search(
    searcher: Searcher, state: SplittingState, ledger: Ledger, on_progress: OnProgress
) -> tuple[SplittingState, bool]:
    """Goes on to the event, or to the end of what may be spent.

    Returns:
      The last state, and whether Ctrl-C ended it.
    """
    try:
        while int(state.status) == Status.RUNNING:
            state = searcher.advance(state, searcher.args)
            if on_progress is not None and int(state.index) > 0:
                on_progress(_progress(state, searcher.goal, ledger))
    except KeyboardInterrupt:
        return state, True
    except OutOfQueries:  # images had to be sent again
        return dataclasses.replace(state, status=jnp.int32(Status.OUT_OF_QUERIES)), False
    return state, False


def strengthen(
    searcher: Searcher,
    state: SplittingState,
    hits: list[Any],
    margins: np.ndarray,
    success: float,
    fade: float,
    levels: int,
    ledger: Ledger,
    on_progress: OnProgress,
) -> tuple[SplittingState, bool]:
    """Goes on from particles past the event to one that makes it happen faded by ``fade``, too.

    The population becomes copies of those past the event, with their faded scores; the
    compiled level runs on with the trigger's effect faded. What this says of probabilities is
    nothing.

    Args:
      searcher, state: the search, at the event.
      hits: particles past it, without a leading axis.
      margins: f32[len(hits), m], theirs on the probes, faded.
      success: share of probes that make the event.
      fade: see `scoring.faded`.
      levels: at most.
      ledger, on_progress: see `search`.

    Returns:
      The last state, its scores those of faded triggers, and whether Ctrl-C ended it.
    """
    n, m = state.scores.shape[0], margins.shape[1]
    c = needed(success, m)
    by_labels = searcher.goal > 0
    scores = (margins >= 0).sum(-1) if by_labels else np.sort(margins, -1)[:, m - c]
    places = np.resize(np.arange(len(hits)), n)
    scores = scores[places].astype(np.float32)
    # Where all are level there is no level to be above: one of them is put just below.
    scores[-1] -= 1.0 if by_labels else 1e-4 * max(1.0, abs(float(scores[-1])))
    state = dataclasses.replace(
        state,
        particles=jax.tree.map(lambda *leaves: jnp.stack(leaves)[places], *hits),
        scores=jnp.asarray(scores),
        status=jnp.int32(Status.RUNNING),
    )
    args = searcher.args | {"fade": jnp.float32(fade)}
    try:
        for _ in range(levels):
            state = searcher.advance(state, args)
            if on_progress is not None:
                on_progress(_progress(state, searcher.goal, ledger))
            if int(state.status) != Status.RUNNING or float(state.scores.max()) >= searcher.goal:
                break
    except KeyboardInterrupt:
        return state, True
    except OutOfQueries:  # images had to be sent again
        return dataclasses.replace(state, status=jnp.int32(Status.OUT_OF_QUERIES)), False
    return state, False


def _progress(state: SplittingState, goal: float, ledger: Ledger) -> Progress:
    row = jax.tree.map(lambda a: np.asarray(a)[int(state.index) - 1], state.history)
    return Progress(
        level=int(state.index),
        threshold=float(row.level),
        goal=goal,
        acceptance=float(row.acceptance),
        queries=ledger.spent,
        budget=ledger.budget,
        best=float(row.best_score),
    )
