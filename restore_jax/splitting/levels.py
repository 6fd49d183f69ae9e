"""The pieces of a level: level, survive, move, account; see `importance_splitting`."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from restore_jax.splitting import counting, genealogy, keeping, resampling
from restore_jax.splitting.keys import (
    IMPLEMENTATION,
    Stream,
    key_data,
    level_key,
    particle_keys,
)
from restore_jax.splitting.settings import SamplerSettings
from restore_jax.splitting.sorting import ascending, false_first
from restore_jax.splitting.types import (
    Args,
    Array,
    Lesson,
    LevelInfo,
    Particles,
    SplittingResult,
    SplittingState,
    Status,
    Trial,
    Try,
    Tuning,
)

FIRST_ROUNDS = 4
T = TypeVar("T")


class Level(NamedTuple):
    """A level: its score f32[], who survives bool[n], their share f32[], and how it ends."""

    score: Array
    survives: Array
    survival: Array
    last: Array
    stalled: Array


class Population(NamedTuple):
    """Particles on their way through a level, and what the way has cost."""

    particles: Particles
    scores: Array
    sources: Array
    tuning: Tuning
    num_queries: Array
    num_nan: Array
    num_moves: Array
    acceptance: Array


class Taught(NamedTuple):
    """What the kernel learned of a level, and each place's half bool[n]."""

    lesson: Lesson
    half: Array


class FirstScores(NamedTuple):
    """Scores f32[n] of the first particles, the queries, the NaN, and whether all are scored."""

    scores: Array
    num_queries: Array
    num_nan: Array
    whole: Array


class FirstRounds(NamedTuple):
    """Scoring the first particles: rounds made, scores f32[n] so far, the queries, the NaN."""

    number: Array
    scores: Array
    num_queries: Array
    num_nan: Array


Loop = Callable[
    [Callable[[FirstRounds], Array], Callable[[FirstRounds], FirstRounds], FirstRounds], FirstRounds
]
"""What `lax.while_loop` is."""


def first_state(settings: SamplerSettings, key: Array, args: Args) -> SplittingState:
    """Draws and scores the first particles."""
    particles, scoring_key = draw(settings, key)
    return begin(settings, key, particles, first_scores(settings, scoring_key, particles, args))


def draw(settings: SamplerSettings, key: Array) -> tuple[Particles, Array]:
    """The first particles, and the key of their scores."""
    data = key_data(key)
    particles = settings.space.sample(level_key(data, Stream.SAMPLING, 0), settings.num_particles)
    check_particles(particles, settings.num_particles)
    scoring_key = jax.random.fold_in(level_key(data, Stream.SCORING, 0), 0)
    return spread(settings, particles), scoring_key


def begin(
    settings: SamplerSettings, key: Array, particles: Particles, first: FirstScores
) -> SplittingState:
    """The state of scored first particles, with a history allocated."""
    n, num_rows = settings.num_particles, settings.max_levels
    data = key_data(key)
    scores, num_queries, num_nan, whole = first
    hit = any_hit(settings, scores)
    unscored = jnp.where(whole, jnp.int32(Status.RUNNING), jnp.int32(Status.OUT_OF_QUERIES))
    floats = jnp.full(num_rows, jnp.nan, jnp.float32)
    integers = jnp.zeros(num_rows, jnp.int32)
    particles, lineage = strong(particles), genealogy.start(n)
    ancestors = jnp.arange(n, dtype=jnp.int32)
    kept = None
    if settings.keep:
        kept = keeping.begin(
            keeping.row(particles, scores, ancestors, jnp.float32(0.0), lineage), num_rows
        )
    return SplittingState(
        key_data=data,
        particles=particles,
        scores=scores,
        ancestors=ancestors,
        lineage=lineage,
        index=jnp.int32(0),
        log_prob=jnp.where(hit, jnp.float32(jnp.nan), jnp.float32(0.0)),
        tuning=strong(settings.space.kernel.init()),
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
        kept=kept,
    )


def begin_with(
    settings: SamplerSettings, key: Array, particles: Particles, scores: Array
) -> SplittingState:
    """The state of particles that were drawn and scored elsewhere."""
    check_particles(particles, settings.num_particles)
    scores = _checked_scores(scores, settings.num_particles)
    none = counting.halves(0)
    first = FirstScores(scores, none, none, jnp.bool_(True))
    return begin(settings, key, spread(settings, particles), first)


def blank_state(settings: SamplerSettings) -> SplittingState:
    """The shapes and types of a state."""

    def begun(key: Array) -> SplittingState:
        particles, _ = draw(settings, key)
        return begin_with(settings, key, particles, jnp.zeros(settings.num_particles))

    key = jax.eval_shape(lambda: jax.random.key(0, impl=IMPLEMENTATION))
    state: SplittingState = jax.eval_shape(begun, key)
    return state


def first_scores(
    settings: SamplerSettings,
    key: Array,
    particles: Particles,
    args: Args,
    loop: Loop = lax.while_loop,
) -> FirstScores:
    """Scores the first particles; ``loop`` makes the rounds.

    No level yet: everybody is scored as it is. But a search for a first hit whose score races
    first shows its draws, a few at a time, with nothing but the event in view: where a random
    draw often has it, that is all there is to do.
    """
    n = settings.num_particles
    lowest, everybody = jnp.float32(-jnp.inf), jnp.ones(n, bool)
    none = counting.halves(0)
    if not (settings.first_hit and settings.races):
        trial = try_against(settings, n, key, lowest, args)(particles, everybody)
        spent = counting.add(none, trial.cost[0])
        nan = counting.add(none, trial.cost[1])
        return FirstScores(trial.scores, spent, nan, jnp.bool_(True))
    block = -(-n // FIRST_ROUNDS)
    rounds = -(-n // block)
    just_short = settings.threshold - 1e-6 * max(1.0, abs(settings.threshold))
    whole_cost = n * settings.scorer.max_cost

    def goes_on(so_far: FirstRounds) -> Array:
        number, scores, num_queries, _ = so_far
        pays = jnp.bool_(True)
        if settings.max_queries is not None:
            spare, enough = counting.less(settings.max_queries, counting.halves(whole_cost))
            pays = enough & counting.at_most(num_queries, spare)
        goes_on: Array = (number < rounds + pays.astype(int)) & ~any_hit(settings, scores)
        return goes_on

    def one_round(so_far: FirstRounds) -> FirstRounds:
        number, scores, num_queries, num_nan = so_far
        races = number < rounds
        active = jnp.where(races, jnp.arange(n) // block == number, everybody)
        level = jnp.where(races, jnp.float32(just_short), lowest)
        try_ = try_against(settings, n, jax.random.fold_in(key, number), level, args)
        trial = try_(particles, active)
        return FirstRounds(
            number + 1,
            jnp.where(active, trial.scores, scores),
            counting.add(num_queries, trial.cost[0]),
            counting.add(num_nan, trial.cost[1]),
        )

    start = FirstRounds(jnp.int32(0), jnp.full(n, -jnp.inf, jnp.float32), none, none)
    number, scores, num_queries, num_nan = loop(goes_on, one_round, start)
    return FirstScores(scores, num_queries, num_nan, number > rounds)


def one_level(
    settings: SamplerSettings, state: SplittingState, args: Args
) -> tuple[SplittingState, LevelInfo]:
    """One level of a running state."""
    level = find_level(settings, state.scores)
    population = survive(settings, state, level)
    population = move_particles(settings, state, level, population, args)
    return account(settings, state, level, population)


def find_level(settings: SamplerSettings, scores: Array) -> Level:
    """The level that the scores f32[n] set, and who survives it."""
    ordered = ascending(scores)
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
    return Level(
        score=score,
        survives=survives,
        survival=jnp.mean(survives, dtype=jnp.float32),
        last=last,
        stalled=stalled,
    )


def survive(settings: SamplerSettings, state: SplittingState, level: Level) -> Population:
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
    particles, scores = spread(settings, (particles, scores))
    return Population(
        particles=particles,
        scores=scores,
        sources=sources,
        tuning=state.tuning,
        num_queries=state.num_queries,
        num_nan=state.num_nan,
        num_moves=jnp.int32(0),
        acceptance=jnp.float32(0.0),
    )


def move_particles(
    settings: SamplerSettings,
    state: SplittingState,
    level: Level,
    population: Population,
    args: Args,
) -> Population:
    """Moves who is to move, until the moves, the budget or the search is over.

    A sweep moves a block of ``num_moving`` places. Waste-free, the population is a table of
    chains, ``num_moves + 1`` states of each: a sweep moves the states of one block and writes
    the next. Of clones there may be more than a block, if ties left many behind: block by
    block then, all moves of one before the next.
    """
    taught = learn(settings, state, level, population)

    def sweep(population: Population) -> Population:
        key = sweep_key(state, population)
        try_ = try_against(settings, settings.num_moving, key, level.score, args)
        return make_sweep(settings, state, level, taught, population, try_)

    return lax.while_loop(
        lambda population: level_goes_on(settings, level, population), sweep, population
    )


def learn(
    settings: SamplerSettings, state: SplittingState, level: Level, population: Population
) -> Taught | None:
    """Lets the kernel look at the survivors; None if it learns nothing."""
    kernel = settings.space.kernel
    if kernel.learn is None:
        return None
    blocks = settings.num_moving if settings.moving == "waste_free" else 2
    half = genealogy.halves(state.lineage, blocks)
    lesson = kernel.learn(state.particles, state.scores, level.survives, half)
    return Taught(lesson, half[population.sources])


def level_goes_on(settings: SamplerSettings, level: Level, population: Population) -> Array:
    """bool[]: whether one more sweep is to be made at this level."""
    goes_on: Array = (
        ~level.last
        & ~level.stalled
        & (population.num_moves < _num_sweeps(settings, level))
        & _affordable(settings, population.num_queries)
        & ~any_hit(settings, population.scores)
    )
    return goes_on


def make_sweep(
    settings: SamplerSettings,
    state: SplittingState,
    level: Level,
    taught: Taught | None,
    population: Population,
    try_: Try,
) -> Population:
    """Moves one block of places; ``try_`` scores what is proposed."""
    size, everybody = settings.num_moving, jnp.arange(settings.num_particles, dtype=jnp.int32)
    move = population.num_moves
    places, to = everybody, everybody
    if settings.moving == "waste_free":
        places = move * size + everybody[:size]
        to = places + size
    elif settings.moving == "clones":
        ranks = move // settings.num_moves * size + everybody[:size]
        dead_first = false_first(level.survives)
        # Past the last of the dead a place outside, where nothing is written.
        is_dead = ranks < settings.num_particles - jnp.sum(level.survives, dtype=jnp.int32)
        places = dead_first[jnp.minimum(ranks, settings.num_particles - 1)]
        to = jnp.where(is_dead, places, settings.num_particles)
        try_ = _only(is_dead, try_)
    kernel = settings.space.kernel
    lessons = () if taught is None else (taught.lesson, taught.half[places])
    moves_key = level_key(state.key_data, Stream.MOVES, state.index)
    particles, scores, tuning, info = kernel.step(
        particle_keys(jax.random.fold_in(moves_key, move), size),
        *spread(settings, _take((population.particles, population.scores), places)),
        try_,
        population.tuning,
        *lessons,
    )
    particles, scores = spread(
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


def sweep_key(state: SplittingState, population: Population) -> Array:
    """The key of the scores of a sweep."""
    key = level_key(state.key_data, Stream.SCORING, state.index)
    return jax.random.fold_in(key, population.num_moves + 1)


def _num_sweeps(settings: SamplerSettings, level: Level) -> Array:
    """int32[]: how many sweeps a level takes."""
    if settings.moving != "clones":
        return jnp.asarray(settings.num_moves, jnp.int32)
    dead = settings.num_particles - jnp.sum(level.survives, dtype=jnp.int32)
    sweeps: Array = settings.num_moves * -(-dead // settings.num_moving)
    return sweeps


def account(
    settings: SamplerSettings, state: SplittingState, level: Level, population: Population
) -> tuple[SplittingState, LevelInfo]:
    """Multiplies the probability, settles the status and writes the level down."""
    log_prob = state.log_prob + jnp.where(level.stalled, 0.0, jnp.log(level.survival))
    lineage = genealogy.add_level(state.lineage, level.survives, level.stalled)
    ancestors = state.ancestors[population.sources]
    hit = any_hit(settings, population.scores)
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
    lineage = genealogy.resample(lineage, population.sources, level.stalled | level.last)
    kept = state.kept
    if kept is not None:
        new = keeping.row(population.particles, population.scores, ancestors, log_prob, lineage)
        kept = keeping.add(kept, new, index, level.stalled | level.last)
    state = SplittingState(
        key_data=state.key_data,
        particles=population.particles,
        scores=population.scores,
        ancestors=ancestors,
        lineage=lineage,
        index=index,
        log_prob=jnp.where(hit, jnp.nan, log_prob),
        tuning=population.tuning,
        num_queries=population.num_queries,
        num_nan=population.num_nan,
        status=status,
        history=jax.tree.map(
            lambda rows, new: rows.at[row].set(new, mode="drop"), state.history, info
        ),
        kept=kept,
    )
    return state, info


def read_result(settings: SamplerSettings, state: SplittingState) -> SplittingResult:
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
        kept=state.kept,
    )


def last_info(state: SplittingState) -> LevelInfo:
    """The last row written; an empty one where there is none."""
    info: LevelInfo = jax.tree.map(
        lambda rows: rows[jnp.maximum(state.index - 1, 0)], state.history
    )
    return info._replace(status=state.status, num_queries=state.num_queries)


def try_against(
    settings: SamplerSettings, number: int, key: Array, level: Array, args: Args
) -> Try:
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


def any_hit(settings: SamplerSettings, scores: Array) -> Array:
    """bool[]: whether a search for a first hit has one."""
    if not settings.first_hit:
        return jnp.asarray(False, bool)
    return jnp.any(scores >= settings.threshold)


def _affordable(settings: SamplerSettings, num_queries: Array) -> Array:
    """bool[]: whether the budget pays for one more sweep, whatever it will cost."""
    if settings.max_queries is None:
        return jnp.asarray(True, bool)
    # Comparing with what is left beside a sweep, not their sum with the budget: no overflow.
    spare, enough = counting.less(settings.max_queries, counting.halves(settings.sweep_cost))
    pays: Array = enough & counting.at_most(num_queries, spare)
    return pays


def _only(active: Array, try_: Try) -> Try:
    """``try_`` for some of the particles that move."""
    return lambda proposals, wanted: try_(proposals, wanted & active)


def _take(tree: T, places: Array) -> T:
    """The particles in some places."""
    taken: T = jax.tree.map(lambda leaf: leaf[places], tree)
    return taken


def spread(settings: SamplerSettings, tree: T) -> T:
    """Particles laid over the devices, if there are several to lay them over."""
    if settings.sharding is None:
        return tree
    laid: T = jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, settings.sharding), tree)
    return laid


def strong(tree: T) -> T:
    """Arrays without weak types: a loop's carry, and a loaded state, have none."""
    typed: T = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), tree)
    return typed


def _checked_scores(given: ArrayLike, num_particles: int) -> Array:
    """Scores as f32[n]."""
    scores = jnp.asarray(given)
    if scores.shape != (num_particles,):
        raise ValueError(
            f"score_fn must return one score per particle, shape ({num_particles},), "
            f"got {scores.shape}."
        )
    if jnp.issubdtype(scores.dtype, jnp.complexfloating):
        raise ValueError(f"score_fn must return real scores, got {scores.dtype}.")
    return scores.astype(jnp.float32)


def check_particles(particles: Particles, num_particles: int) -> None:
    """Refuses particles without the leading axis."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(particles)]
    if not shapes or any(shape[:1] != (num_particles,) for shape in shapes):
        raise ValueError(
            f"space.sample must return arrays with leading axis {num_particles}, "
            f"got shapes {shapes}."
        )
