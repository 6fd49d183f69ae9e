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

import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding

from restore_jax.splitting import counting, genealogy, resampling
from restore_jax.splitting.keys import Stream, key_data, level_key, particle_keys
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
    Trial,
    Tuning,
)

MOVING = ("waste_free", "all", "clones")
_FIRST_ROUNDS = 4


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
    max_queries: int | None = None,
    stop: str = "estimate",
    queries_per_score: int = 1,
    sharding: NamedSharding | None = None,
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
        for scoring the first particles.
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

    Returns:
      A `SplittingAlgorithm`: init, step, advance, run, result.

    Raises:
      ValueError: if an argument is outside its range, here; if particles or scores have
        the wrong shape or the key is not a typed one, when traced.
    """
    settings = _checked_settings(
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
    )

    def init(key: Array, args: Args) -> SplittingState:
        return _init(settings, key, args)

    def step(state: SplittingState, args: Args) -> tuple[SplittingState, LevelInfo]:
        return lax.cond(
            state.status == Status.RUNNING,
            lambda state: _one_level(settings, state, args),
            lambda state: (state, _last_info(state)),
            state,
        )

    def advance(state: SplittingState, args: Args, k: Any) -> SplittingState:
        def unfinished(carry: tuple[SplittingState, Array]) -> Array:
            state, done = carry
            return (state.status == Status.RUNNING) & (done < k)

        def next_level(carry: tuple[SplittingState, Array]) -> tuple[SplittingState, Array]:
            state, done = carry
            state, _ = _one_level(settings, state, args)
            return state, done + 1

        state, _ = lax.while_loop(unfinished, next_level, (state, jnp.int32(0)))
        return state

    def run(key: Array, args: Args) -> SplittingResult:
        return result(advance(init(key, args), args, settings.max_levels))

    def result(state: SplittingState) -> SplittingResult:
        return _result(settings, state)

    return SplittingAlgorithm(init, step, advance, run, result)


class _Settings(NamedTuple):
    """What is fixed when the sampler is built; see `importance_splitting`.

    ``rank`` is the level's place among the ascending scores, counted from 1; ``sweep_cost`` the
    most queries that one sweep of moves can make; ``scorer`` the score's long form.
    ``num_moving`` is how many particles move in a sweep; ``races`` whether the score is a `Scorer`
    of the caller's, which need not look at what cannot get above the level.
    """

    scorer: Scorer
    space: SearchSpace
    num_particles: int
    moving: str
    num_moving: int
    rank: int
    num_moves: int
    threshold: float
    max_levels: int
    max_queries: int | None
    sweep_cost: int
    first_hit: bool
    races: bool
    sharding: NamedSharding | None


class _Level(NamedTuple):
    """A level: its score f32[], who survives bool[n], their share f32[], and how it ends."""

    score: Array
    survives: Array
    survival: Array
    last: Array
    stalled: Array


class _Population(NamedTuple):
    """Particles on their way through a level, and what the way has cost."""

    particles: Particles
    scores: Array
    sources: Array
    tuning: Tuning
    num_queries: Array
    num_nan: Array
    num_moves: Array
    acceptance: Array


def _init(settings: _Settings, key: Array, args: Args) -> SplittingState:
    """Draws and scores the first particles, and allocates the history."""
    n, num_rows = settings.num_particles, settings.max_levels
    data = key_data(key)
    particles = settings.space.sample(level_key(data, Stream.SAMPLING, 0), n)
    _check_particles(particles, n)
    particles = _spread(settings, particles)
    scoring_key = jax.random.fold_in(level_key(data, Stream.SCORING, 0), 0)
    scores, num_queries, num_nan, whole = _first_scores(settings, scoring_key, particles, args)
    hit = _any_hit(settings, scores)
    unscored = jnp.where(whole, jnp.int32(Status.RUNNING), jnp.int32(Status.OUT_OF_QUERIES))
    floats = jnp.full(num_rows, jnp.nan, jnp.float32)
    integers = jnp.zeros(num_rows, jnp.int32)
    return SplittingState(
        key_data=data,
        particles=_strong(particles),
        scores=scores,
        ancestors=jnp.arange(n, dtype=jnp.int32),
        lineage=genealogy.start(n),
        index=jnp.int32(0),
        log_prob=jnp.where(hit, jnp.float32(jnp.nan), jnp.float32(0.0)),
        tuning=_strong(settings.space.kernel.init()),
        num_queries=num_queries,
        num_nan=num_nan,
        status=jnp.where(hit, jnp.int32(Status.REACHED), unscored),
        history=LevelInfo(
            index=integers,
            level=floats,
            survival=floats,
            log_prob=floats,
            log_prob_std=floats,
            acceptance=floats,
            best_score=floats,
            unique_ancestors=integers,
            families=integers,
            num_queries=jnp.zeros((num_rows, 2), jnp.uint32),
            status=integers,
        ),
    )


def _first_scores(
    settings: _Settings, key: Array, particles: Particles, args: Args
) -> tuple[Array, Array, Array, Array]:
    """Scores the first particles f32[n]; also the queries, the NaN, and whether all are scored.

    No level yet: everybody is scored as it is. But a search for a first hit whose score races
    first shows its draws, a few at a time, with nothing but the event in view: where a random
    draw often has it, that is all there is to do.
    """
    n = settings.num_particles
    lowest, everybody = jnp.float32(-jnp.inf), jnp.ones(n, bool)
    none = counting.halves(0)
    if not (settings.first_hit and settings.races):
        trial = _try(settings, n, key, lowest, args)(particles, everybody)
        spent = counting.add(none, trial.cost[0])
        return trial.scores, spent, counting.add(none, trial.cost[1]), jnp.bool_(True)
    block = -(-n // _FIRST_ROUNDS)
    rounds = -(-n // block)
    just_short = settings.threshold - 1e-6 * max(1.0, abs(settings.threshold))
    whole_cost = n * settings.scorer.max_cost

    def goes_on(carry: Any) -> Array:
        number, scores, num_queries, _ = carry
        pays = jnp.bool_(True)
        if settings.max_queries is not None:
            spare = max(settings.max_queries - whole_cost, 0)
            pays = counting.at_most(num_queries, counting.halves(spare))
        return (number < rounds + pays.astype(int)) & ~_any_hit(settings, scores)

    def one_round(carry: Any) -> Any:
        number, scores, num_queries, num_nan = carry
        races = number < rounds
        active = jnp.where(races, jnp.arange(n) // block == number, everybody)
        level = jnp.where(races, jnp.float32(just_short), lowest)
        try_ = _try(settings, n, jax.random.fold_in(key, number), level, args)
        trial = try_(particles, active)
        return (
            number + 1,
            jnp.where(active, trial.scores, scores),
            counting.add(num_queries, trial.cost[0]),
            counting.add(num_nan, trial.cost[1]),
        )

    start = (jnp.int32(0), jnp.full(n, -jnp.inf, jnp.float32), none, none)
    number, scores, num_queries, num_nan = lax.while_loop(goes_on, one_round, start)
    return scores, num_queries, num_nan, number > rounds


def _one_level(
    settings: _Settings, state: SplittingState, args: Args
) -> tuple[SplittingState, LevelInfo]:
    """One level of a running state."""
    level = _level(settings, state.scores)
    population = _survive(settings, state, level)
    population = _move(settings, state, level, population, args)
    return _account(settings, state, level, population)


def _level(settings: _Settings, scores: Array) -> _Level:
    """The level that the scores f32[n] set, and who survives it."""
    ordered = jnp.sort(scores)
    quantile, lowest, highest = ordered[settings.rank - 1], ordered[0], ordered[-1]
    last = quantile >= settings.threshold
    stalled = (lowest == highest) & ~last
    # Ties may leave far fewer strictly above the quantile than were meant to survive, or
    # nobody. Then the next lower distinct score is the level, if its share is nearer.
    meant = settings.num_particles - settings.rank
    above = jnp.sum(scores > quantile, dtype=jnp.int32)
    lower = jnp.max(jnp.where(scores < quantile, scores, -jnp.inf))
    more = jnp.sum(scores > lower, dtype=jnp.int32)
    nearer = more.astype(jnp.float32) * above < float(meant) ** 2
    lowers = (above < meant) & nearer & (lowest < quantile)
    score = jnp.where(lowers, lower, quantile)
    score = jnp.where(last, jnp.float32(settings.threshold), score)
    survives = jnp.where(last, scores >= settings.threshold, scores > score)
    return _Level(
        score=score,
        survives=survives,
        survival=jnp.mean(survives, dtype=jnp.float32),
        last=last,
        stalled=stalled,
    )


def _survive(settings: _Settings, state: SplittingState, level: _Level) -> _Population:
    """Gives the places of the dead to clones of the survivors."""
    key = level_key(state.key_data, Stream.RESAMPLING, state.index)
    if settings.moving == "waste_free":
        seeds = resampling.seeds(key, level.survives, settings.num_moving)
        # Places of states that a chain has not reached yet are its seed's.
        sources = jnp.tile(seeds, settings.num_particles // settings.num_moving)
    else:
        sources = resampling.balanced(key, level.survives)
    # The last population is the answer: it stays as it is, those short of the event included.
    stays = level.last | level.stalled
    sources = jnp.where(stays, jnp.arange(settings.num_particles, dtype=jnp.int32), sources)
    particles, scores = jax.tree.map(lambda leaf: leaf[sources], (state.particles, state.scores))
    particles, scores = _spread(settings, (particles, scores))
    return _Population(
        particles=particles,
        scores=scores,
        sources=sources,
        tuning=state.tuning,
        num_queries=state.num_queries,
        num_nan=state.num_nan,
        num_moves=jnp.int32(0),
        acceptance=jnp.float32(0.0),
    )


def _move(
    settings: _Settings, state: SplittingState, level: _Level, population: _Population, args: Args
) -> _Population:
    """Moves who is to move, until the moves, the budget or the search is over.

    A sweep moves a block of ``num_moving`` places. Waste-free, the population is a table of
    chains, ``num_moves + 1`` states of each: a sweep moves the states of one block and writes
    the next. Of clones there may be more than a block, if ties left many behind: block by
    block then, all moves of one before the next.
    """
    size, everybody = settings.num_moving, jnp.arange(settings.num_particles, dtype=jnp.int32)
    moves_key = level_key(state.key_data, Stream.MOVES, state.index)
    scoring_key = level_key(state.key_data, Stream.SCORING, state.index)
    kernel = settings.space.kernel
    if kernel.learn is not None:
        half = genealogy.halves(state.lineage, size if settings.moving == "waste_free" else 2)
        lesson = kernel.learn(state.particles, state.scores, level.survives, half)
        half = half[population.sources]
    dead_first = jnp.argsort(level.survives, stable=True).astype(jnp.int32)
    num_sweeps = _num_sweeps(settings, level)

    def goes_on(population: _Population) -> Array:
        return (
            ~level.last
            & ~level.stalled
            & (population.num_moves < num_sweeps)
            & _affordable(settings, population.num_queries)
            & ~_any_hit(settings, population.scores)
        )

    def sweep(population: _Population) -> _Population:
        move = population.num_moves
        key = jax.random.fold_in(scoring_key, move + 1)
        try_ = _try(settings, size, key, level.score, args)
        places, to = everybody, everybody
        if settings.moving == "waste_free":
            places = move * size + everybody[:size]
            to = places + size
        elif settings.moving == "clones":
            ranks = move // settings.num_moves * size + everybody[:size]
            # Past the last of the dead a place outside, where nothing is written.
            is_dead = ranks < settings.num_particles - jnp.sum(level.survives, dtype=jnp.int32)
            places = dead_first[jnp.minimum(ranks, settings.num_particles - 1)]
            to = jnp.where(is_dead, places, settings.num_particles)
            try_ = _only(is_dead, try_)
        lessons = () if kernel.learn is None else (lesson, half[places])
        particles, scores, tuning, info = kernel.step(
            particle_keys(jax.random.fold_in(moves_key, move), size),
            *_spread(settings, _take((population.particles, population.scores), places)),
            try_,
            population.tuning,
            *lessons,
        )
        particles, scores = _spread(
            settings,
            jax.tree.map(
                lambda leaf, new: leaf.at[to].set(new, mode="drop"),
                (population.particles, population.scores),
                (particles, scores),
            ),
        )
        return population._replace(
            particles=particles,
            scores=scores,
            tuning=tuning,
            num_queries=counting.add(population.num_queries, info.cost[0]),
            num_nan=counting.add(population.num_nan, info.cost[1]),
            num_moves=move + 1,
            acceptance=population.acceptance + info.acceptance,
        )

    return lax.while_loop(goes_on, sweep, population)


def _num_sweeps(settings: _Settings, level: _Level) -> Array:
    """int32[]: how many sweeps a level takes."""
    if settings.moving != "clones":
        return jnp.int32(settings.num_moves)
    dead = settings.num_particles - jnp.sum(level.survives, dtype=jnp.int32)
    return settings.num_moves * -(-dead // settings.num_moving)


def _account(
    settings: _Settings, state: SplittingState, level: _Level, population: _Population
) -> tuple[SplittingState, LevelInfo]:
    """Multiplies the probability, settles the status and writes the level down."""
    log_prob = state.log_prob + jnp.where(level.stalled, 0.0, jnp.log(level.survival))
    lineage = genealogy.account(state.lineage, level.survives, level.stalled)
    ancestors = state.ancestors[population.sources]
    hit = _any_hit(settings, population.scores)
    index = jnp.where(level.stalled, state.index, state.index + 1)
    status = jnp.select(
        [
            level.last | hit,
            level.stalled,
            population.num_moves < _num_sweeps(settings, level),
            index >= settings.max_levels,
        ],
        [
            jnp.int32(Status.REACHED),
            jnp.int32(Status.STALLED),
            jnp.int32(Status.OUT_OF_QUERIES),
            jnp.int32(Status.OUT_OF_LEVELS),
        ],
        jnp.int32(Status.RUNNING),
    )
    info = LevelInfo(
        index=state.index,
        level=level.score,
        survival=level.survival,
        log_prob=log_prob,
        log_prob_std=jnp.sqrt(lineage.variance),
        # 0/0 where nothing moved: the acceptance of no moves is NaN.
        acceptance=population.acceptance / population.num_moves.astype(jnp.float32),
        best_score=jnp.max(population.scores),
        unique_ancestors=resampling.num_unique(ancestors),
        families=genealogy.num_families(state.lineage),
        num_queries=population.num_queries,
        status=status,
    )
    # A stalled level was no level: its row lies outside the history and is dropped.
    row = jnp.where(level.stalled, settings.max_levels, state.index)
    state = SplittingState(
        key_data=state.key_data,
        particles=population.particles,
        scores=population.scores,
        ancestors=ancestors,
        lineage=genealogy.resample(lineage, population.sources, level.stalled | level.last),
        index=index,
        log_prob=jnp.where(hit, jnp.nan, log_prob),
        tuning=population.tuning,
        num_queries=population.num_queries,
        num_nan=population.num_nan,
        status=status,
        history=jax.tree.map(
            lambda rows, new: rows.at[row].set(new, mode="drop"), state.history, info
        ),
    )
    return state, info


def _result(settings: _Settings, state: SplittingState) -> SplittingResult:
    """Reads a state."""
    deviation = jnp.sqrt(state.lineage.variance)
    return SplittingResult(
        log_prob=state.log_prob,
        log_prob_std=jnp.where(jnp.isnan(state.log_prob), jnp.nan, deviation),
        log_prob_dof=genealogy.degrees_of_freedom(state.lineage),
        particles=state.particles,
        scores=state.scores,
        levels=state.history.level,
        survival=state.history.survival,
        acceptance=state.history.acceptance,
        ancestors=state.history.unique_ancestors,
        families=state.history.families,
        num_levels=state.index,
        num_queries=state.num_queries,
        num_nan=state.num_nan,
        reached=state.status == Status.REACHED,
        status=state.status,
        num_hits=jnp.sum(state.scores >= settings.threshold, dtype=jnp.int32),
        unique_ancestors=resampling.num_unique(state.ancestors),
    )


def _last_info(state: SplittingState) -> LevelInfo:
    """The last row written; an empty one where there is none."""
    info = jax.tree.map(lambda rows: rows[jnp.maximum(state.index - 1, 0)], state.history)
    return info._replace(status=state.status, num_queries=state.num_queries)


def _try(settings: _Settings, number: int, key: Array, level: Array, args: Args) -> Any:
    """The ``try_`` of a move: scores the active ones of ``number`` proposals against a level."""

    def try_(proposals: Particles, active: Array) -> Trial:
        scores, cost = settings.scorer.score(key, proposals, level, active, args)
        scores = _checked_scores(scores, number)
        no_number = jnp.isnan(scores)
        scores = jnp.where(no_number, -jnp.inf, scores)
        num_nan = jnp.sum(active & no_number, dtype=jnp.uint32)
        return Trial(
            scores=scores,
            above=active & (scores > level),
            cost=jnp.stack([jnp.asarray(cost).astype(jnp.uint32), num_nan]),
        )

    return try_


def _any_hit(settings: _Settings, scores: Array) -> Array:
    """bool[]: whether a search for a first hit has one."""
    if not settings.first_hit:
        return jnp.bool_(False)
    return jnp.any(scores >= settings.threshold)


def _affordable(settings: _Settings, num_queries: Array) -> Array:
    """bool[]: whether the budget pays for one more sweep, whatever it will cost."""
    if settings.max_queries is None:
        return jnp.bool_(True)
    # Comparing with what is left beside a sweep, not their sum with the budget: no overflow.
    spare = settings.max_queries - settings.sweep_cost
    if spare < 0:
        return jnp.bool_(False)
    return counting.at_most(num_queries, counting.halves(spare))


def _only(active: Array, try_: Any) -> Any:
    """``try_`` for some of the particles that move."""
    return lambda proposals, wanted: try_(proposals, wanted & active)


def _take(tree: Any, places: Array) -> Any:
    """The particles in some places."""
    return jax.tree.map(lambda leaf: leaf[places], tree)


def _spread(settings: _Settings, tree: Any) -> Any:
    """Particles laid over the devices, if there are several to lay them over."""
    if settings.sharding is None:
        return tree
    return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, settings.sharding), tree)


def _strong(tree: Any) -> Any:
    """Arrays without weak types: a loop's carry, and a loaded state, have none."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), tree)


def _checked_scores(scores: Any, num_particles: int) -> Array:
    """Scores as f32[n]."""
    scores = jnp.asarray(scores)
    if scores.shape != (num_particles,):
        raise ValueError(
            f"score_fn must return one score per particle, shape ({num_particles},), "
            f"got {scores.shape}."
        )
    if jnp.issubdtype(scores.dtype, jnp.complexfloating):
        raise ValueError(f"score_fn must return real scores, got {scores.dtype}.")
    return scores.astype(jnp.float32)


def _check_particles(particles: Particles, num_particles: int) -> None:
    """Refuses particles without the leading axis."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(particles)]
    if not shapes or any(shape[:1] != (num_particles,) for shape in shapes):
        raise ValueError(
            f"space.sample must return arrays with leading axis {num_particles}, "
            f"got shapes {shapes}."
        )


def _long_form(score_fn: ScoreFn, queries_per_score: int) -> Scorer:
    """A plain score function as a `Scorer`."""

    def score(
        key: Array, particles: Particles, level: Array, active: Array, args: Args
    ) -> tuple[Array, Array]:
        del key, level
        cost = jnp.sum(active, dtype=jnp.uint32) * jnp.uint32(queries_per_score)
        return score_fn(particles, args), cost

    return Scorer(score=score, max_cost=queries_per_score)


def _checked_settings(
    score_fn: ScoreFn | Scorer,
    space: SearchSpace,
    *,
    num_particles: int,
    survival: float,
    num_moves: int,
    threshold: float,
    max_levels: int,
    max_queries: int | None,
    stop: str,
    queries_per_score: int,
    moving: str,
    sharding: NamedSharding | None,
) -> _Settings:
    """The settings, or one sentence about the first argument that is wrong."""
    num_particles = _at_least("num_particles", num_particles, 2)
    num_moves = _at_least("num_moves", num_moves, 1)
    max_levels = _at_least("max_levels", max_levels, 1)
    queries_per_score = _at_least("queries_per_score", queries_per_score, 1)
    if not 0.0 < survival < 1.0:
        raise ValueError(f"survival must be in (0, 1), got {survival!r}.")
    # ceil(n (1 - survival)), spared the rounding of 1 - 0.7.
    rank = max(num_particles - math.floor(num_particles * survival + 1e-9), 1)
    if rank == num_particles:
        raise ValueError(
            f"survival must let at least one of {num_particles} particles survive, "
            f"so be at least {1 / num_particles:.6g}, got {survival!r}."
        )
    if math.isnan(threshold):
        raise ValueError("threshold must be a number, got NaN.")
    if stop not in ("estimate", "first_hit"):
        raise ValueError(f"stop must be 'estimate' or 'first_hit', got {stop!r}.")
    if isinstance(score_fn, Scorer):
        if queries_per_score != 1:
            raise ValueError(
                "queries_per_score must be left at 1 with a Scorer, which counts for itself, "
                f"got {queries_per_score}."
            )
        scorer = score_fn
    elif callable(score_fn):
        scorer = _long_form(score_fn, queries_per_score)
    else:
        raise ValueError(f"score_fn must be a function or a Scorer, got {type(score_fn).__name__}.")
    max_cost = _at_least("score_fn.max_cost", scorer.max_cost, 1)
    max_trials = _at_least("space.kernel.max_trials", space.kernel.max_trials, 1)
    if moving not in MOVING:
        raise ValueError(f"moving must be one of {', '.join(MOVING)}, got {moving!r}.")
    num_moving = {"all": num_particles, "clones": rank}.get(moving, 0)
    if moving == "waste_free":
        length = num_moves + 1
        num_moving = num_particles // length
        if num_particles % length or num_moving < 2:
            raise ValueError(
                f"num_particles must be a multiple of num_moves + 1 = {length}, at least twice "
                f"it, when waste-free: {max(2, round(num_particles / length)) * length} would "
                f"do, got {num_particles}."
            )
    if sharding is not None:
        blocks = sharding.num_devices
        if num_moving % blocks or num_particles % blocks:
            raise ValueError(
                f"the {blocks} devices of sharding must divide both the {num_particles} particles "
                f"and the {num_moving} that move at once."
            )
    sweep_cost = num_moving * max_cost * max_trials
    if sweep_cost >= 2**32:
        raise ValueError(
            "num_particles times the dearest score must stay below 2^32 queries a move, "
            f"got {sweep_cost}."
        )
    if max_queries is not None:
        max_queries = _at_least("max_queries", max_queries, num_particles * max_cost)
        if max_queries > counting.MAX_COUNT:
            raise ValueError(f"max_queries must be below 2^64, got {max_queries}.")
    return _Settings(
        scorer=scorer,
        space=space,
        num_particles=num_particles,
        moving=moving,
        num_moving=num_moving,
        rank=rank,
        num_moves=num_moves,
        threshold=float(threshold),
        max_levels=max_levels,
        max_queries=max_queries,
        sweep_cost=sweep_cost,
        first_hit=stop == "first_hit",
        races=isinstance(score_fn, Scorer),
        sharding=sharding,
    )


def _at_least(name: str, value: Any, least: int) -> int:
    """``value`` as an int that is at least ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}.") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}.")
    return number
