"""Searching: levels up to the event."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.compilation import compiling_seconds
from restore_jax.errors import OutOfQueries, OutOfTime
from restore_jax.racing import make_scorer, threshold, whole_legs
from restore_jax.recovery.aims import Aim, OnProgress
from restore_jax.recovery.found import Found, Search, known
from restore_jax.recovery.guides import guides
from restore_jax.recovery.probability import finite, log10, log10_interval
from restore_jax.recovery.types import Level, Progress
from restore_jax.run import Run
from restore_jax.spaces.settings import Settings
from restore_jax.spaces.types import TriggerSpace
from restore_jax.splitting import SplittingState, Status, count

Array = jax.Array
INTERRUPTED, OUT_OF_TIME = "interrupted", "out_of_time"


def search(run: Run, found: Found) -> Found:
    """Goes on to the event, or to the end of what may be spent; the best particle is the trigger.

    With labels, where nobody leads any probe, the search begins anew with guides beside the probes.
    """
    aim = found.aim
    key = jax.random.key(run.seed)
    with run.stage("search"), run.keeping(aim.reserve):
        searching, begun = _ready(run, found, None, key), time.perf_counter()
        compiling, before = searching.sampler.seconds, compiling_seconds()
        state = _begun(searching, aim, key)
        shown = _guides(run, found, state)
        if shown is not None:
            before -= compiling_seconds()
            searching = _ready(run, found, shown, key)
            compiling += searching.sampler.seconds
            begun += searching.sampler.seconds
            before += compiling_seconds()
            state = _begun(searching, aim, key)
        name = f"search-{aim.space.name}-{aim.target}{'' if shown is None else '-guided'}"
        state, ended = advance(run, searching, state, aim.on_progress, name)
        # What a model that is asked from the host needs is compiled when it is first called.
        beside = compiling_seconds() - before
        running = max(0.0, time.perf_counter() - begun - beside)
        seconds = {"compile": compiling + beside, "run": running}
    result = searching.sampler.result(state)
    status = ended or Status(int(state.status)).name.lower()
    return found.now(
        search=searching,
        state=state,
        particles=state.particles,
        scores=state.scores,
        levels=_levels(state),
        goal=searching.goal,
        best_score=finite(jnp.max(state.scores)),
        log10_prob=log10(result.log_prob) if status == "reached" else None,
        interval=None if ended == INTERRUPTED else log10_interval(state, result),
        guides=0 if shown is None else shown.shape[0],
        status=status,
        seconds=seconds,
    )


def ready(
    run: Run,
    space: TriggerSpace,
    settings: Settings,
    success: float,
    target: int,
    probes: Array,
    guides: Array | None = None,
    *,
    stop: str,
    max_queries: int,
    key: Array,
) -> Search:
    """Makes a search ready.

    Args:
      run: whose model is asked, and whose books pay.
      space: where is searched.
      settings: how.
      success: share of probes that make the event.
      target: the class.
      probes: f32[m, H, W, C].
      guides: f32[g, H, W, C], or None.
      stop: "estimate" or "first_hit".
      max_queries: images that the search may send.
      key: as it will be run with.
    """
    model, m = run.model, probes.shape[0]
    g = 0 if guides is None else guides.shape[0]
    goal = threshold(model, success, m, g)
    args = {
        "weights": model.weights,
        "probes": probes if guides is None else jnp.concatenate([guides, probes]),
        "target": jnp.int32(target),
        "fade": jnp.float32(0.0),
    }
    sampler = model.sampler(
        make_scorer(model, space, success, m, num_guides=g, books=run.books),
        space.search,
        run.books,
        key,
        args,
        num_particles=settings.num_particles,
        survival=settings.survival,
        num_moves=settings.num_moves,
        moving="all",
        threshold=goal,
        max_levels=settings.max_levels,
        max_queries=max_queries,
        stop=stop,
    )
    return Search(sampler, args, goal, run.ledger.spent)


def advance(
    run: Run, searching: Search, state: SplittingState, on_progress: OnProgress, name: str
) -> tuple[SplittingState, str | None]:
    """Goes on to the end of a search, saved under a name between its levels, if they are.

    Returns:
      The last state, and "interrupted" or "out_of_time" where Ctrl-C or the clock ended it; None
      elsewhere.
    """
    saved = run.saved
    stood = None if saved is None else saved.get(name, state)
    if stood is not None:
        run.books.book(count(stood.tree.num_queries) - count(state.num_queries))
        state = stood.tree
    try:
        while int(state.status) == Status.RUNNING:
            if run.ledger.time_is_over():
                if saved is not None:
                    saved.put(name, state, {}, now=True)
                return _out_of_queries(state), OUT_OF_TIME
            state = searching.sampler.advance(state, searching.args)
            if saved is not None:
                saved.put(name, state, {})
            if on_progress is not None and int(state.index) > 0:
                on_progress(progress(run, searching, state))
    except KeyboardInterrupt:
        if saved is not None:
            saved.put(name, state, {}, now=True)
        return state, INTERRUPTED
    except OutOfTime:  # within a level of a model that is asked from the host
        return _out_of_queries(state), OUT_OF_TIME
    except OutOfQueries:  # images had to be sent again
        return _out_of_queries(state), None
    return state, None


def _out_of_queries(state: SplittingState) -> SplittingState:
    """The state of a search that may send nothing more; of the sampler's statuses this fits."""
    return dataclasses.replace(state, status=jnp.int32(Status.OUT_OF_QUERIES))


def progress(run: Run, searching: Search, state: SplittingState) -> Progress:
    """Where a search stands."""
    row = jax.tree.map(lambda a: np.asarray(a)[int(state.index) - 1], state.history)
    return Progress(
        levels=int(state.index),
        level=float(row.level),
        goal=searching.goal,
        acceptance=float(row.acceptance),
        queries=run.ledger.spent,
        budget=run.ledger.budget,
        best=float(row.best_score),
    )


def _begun(searching: Search, aim: Aim, key: Array) -> SplittingState:
    """The search's first state: of random particles, or of those that the aim brings."""
    if aim.first is None:
        return searching.sampler.init(key, searching.args)
    rows = np.arange(aim.settings.num_particles) % jax.tree.leaves(aim.first)[0].shape[0]
    particles = jax.tree.map(lambda leaf: leaf[rows], aim.first)
    return searching.sampler.begin(key, particles, searching.args)


def _ready(run: Run, found: Found, shown: Array | None, key: Array) -> Search:
    aim = found.aim
    return ready(
        run, aim.space, aim.settings, aim.success, aim.target, known(found.probes), shown,
        stop=aim.stop, max_queries=run.ledger.left - aim.reserve, key=key,
    )  # fmt: skip


def _guides(run: Run, found: Found, state: SplittingState) -> Array | None:
    """Guides, where labels say nothing yet and the budget pays for them."""
    probes, settings = known(found.probes), found.aim.settings
    m = probes.shape[0]
    number = whole_legs(settings.num_guides, m)
    if run.model.access != "labels" or float(state.scores.max()) > 0 or not number:
        return None
    most = run.ledger.left - found.aim.reserve - settings.num_particles * (m + number)
    try:
        return guides(run, found.aim.target, probes, found.feed, number, most)
    except OutOfTime:
        return None


def _levels(state: SplittingState) -> tuple[Level, ...]:
    history = jax.tree.map(np.asarray, state.history)
    return tuple(
        Level(
            level=finite(history.level[i]),
            survival=finite(history.survival[i]),
            log10_prob=log10(history.log_prob[i]),
            acceptance=finite(history.acceptance[i]),
            best_score=finite(history.best_score[i]),
            unique_ancestors=int(history.unique_ancestors[i]),
            queries=count(history.num_queries[i]),
        )
        for i in range(int(state.index))
    )
