"""What a sampler is built with, checked."""

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from restore_jax.splitting import counting
from restore_jax.splitting.types import (
    Args,
    Array,
    LevelInfo,
    Particles,
    ScoreFn,
    Scorer,
    SearchSpace,
)

MOVING = ("waste_free", "all", "clones")
STOPS = ("estimate", "first_hit")


class SamplerSettings(NamedTuple):
    """What is fixed when the sampler is built; see `importance_splitting`.

    ``rank`` is the level's place among the ascending scores, counted from 1; ``sweep_cost`` the
    most queries that one sweep of moves can make; ``scorer`` the score's long form.
    ``num_moving`` is how many particles move in a sweep; ``races`` whether the score is a `Scorer`
    of the caller's, which need not look at what cannot get above the level. ``max_queries`` is
    uint32[2], or None. ``progress`` is told of every level, unless it is None.
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
    max_queries: Array | None
    sweep_cost: int
    first_hit: bool
    races: bool
    sharding: NamedSharding | None
    keep: bool
    progress: Callable[[LevelInfo], None] | None


def checked_settings(
    score_fn: ScoreFn | Scorer,
    space: SearchSpace,
    *,
    num_particles: int,
    survival: float,
    num_moves: int,
    threshold: float,
    max_levels: int,
    max_queries: int | Array | None,
    stop: str,
    queries_per_score: int,
    moving: str,
    sharding: NamedSharding | None,
    keep: bool = False,
    progress: Callable[[LevelInfo], None] | None = None,
) -> SamplerSettings:
    """The settings, or one sentence about the first argument that is wrong."""
    num_particles = _at_least("num_particles", num_particles, 2)
    num_moves = _at_least("num_moves", num_moves, 1)
    max_levels = _at_least("max_levels", max_levels, 1)
    queries_per_score = _at_least("queries_per_score", queries_per_score, 1)
    rank = _rank(num_particles, survival)
    if math.isnan(threshold):
        raise ValueError("threshold must be a number, got NaN.")
    if stop not in STOPS:
        raise ValueError(f"stop must be 'estimate' or 'first_hit', got {stop!r}.")
    if keep and stop == "first_hit":
        raise ValueError("keep needs stop='estimate': a first hit ends in the middle of a level.")
    scorer = _scorer(score_fn, queries_per_score)
    max_cost = _at_least("score_fn.max_cost", scorer.max_cost, 1)
    max_trials = _at_least("space.kernel.max_trials", space.kernel.max_trials, 1)
    num_moving = _num_moving(moving, num_particles, num_moves, rank)
    _check_sharding(sharding, num_particles, num_moving)
    return SamplerSettings(
        scorer=scorer,
        space=space,
        num_particles=num_particles,
        moving=moving,
        num_moving=num_moving,
        rank=rank,
        num_moves=num_moves,
        threshold=float(threshold),
        max_levels=max_levels,
        sweep_cost=_sweep_cost(num_moving * max_cost * max_trials),
        max_queries=_budget(max_queries, num_particles * max_cost),
        first_hit=stop == "first_hit",
        races=isinstance(score_fn, Scorer),
        sharding=sharding,
        keep=bool(keep),
        progress=progress,
    )


def described(settings: SamplerSettings) -> dict[str, Any]:
    """What decides the numbers of a run, besides space, score, args and key, for JSON."""
    plain = ("num_particles", "moving", "num_moving", "rank", "num_moves", "max_levels",
             "first_hit", "keep")  # fmt: skip
    return {name: getattr(settings, name) for name in plain} | {
        # JSON has no infinity.
        "threshold": repr(settings.threshold),
        "driven": "device",
    }


def _rank(num_particles: int, survival: float) -> int:
    """The level's place among the ascending scores, counted from 1."""
    if not 0.0 < survival < 1.0:
        raise ValueError(f"survival must be in (0, 1), got {survival!r}.")
    # ceil(n (1 - survival)), spared the rounding of 1 - 0.7.
    rank = max(num_particles - math.floor(num_particles * survival + 1e-9), 1)
    if rank == num_particles:
        raise ValueError(
            f"survival must let at least one of {num_particles} particles survive, "
            f"so be at least {1 / num_particles:.6g}, got {survival!r}."
        )
    return rank


def _scorer(score_fn: ScoreFn | Scorer, queries_per_score: int) -> Scorer:
    """The score in its long form."""
    if isinstance(score_fn, Scorer):
        if queries_per_score != 1:
            raise ValueError(
                "queries_per_score must be left at 1 with a Scorer, which counts for itself, "
                f"got {queries_per_score}."
            )
        return score_fn
    if not callable(score_fn):
        raise ValueError(f"score_fn must be a function or a Scorer, got {type(score_fn).__name__}.")
    return _long_form(score_fn, queries_per_score)


def _num_moving(moving: str, num_particles: int, num_moves: int, rank: int) -> int:
    """How many particles move in a sweep."""
    if moving not in MOVING:
        raise ValueError(f"moving must be one of {', '.join(MOVING)}, got {moving!r}.")
    if moving != "waste_free":
        return {"all": num_particles, "clones": rank}[moving]
    length = num_moves + 1
    num_moving = num_particles // length
    if num_particles % length or num_moving < 2:
        raise ValueError(
            f"num_particles must be a multiple of num_moves + 1 = {length}, at least twice "
            f"it, when waste-free: {max(2, round(num_particles / length)) * length} would "
            f"do, got {num_particles}."
        )
    return num_moving


def _check_sharding(sharding: NamedSharding | None, num_particles: int, num_moving: int) -> None:
    """Refuses devices that the population cannot be shared out over."""
    if sharding is None:
        return
    blocks = sharding.num_devices
    if num_moving % blocks or num_particles % blocks:
        raise ValueError(
            f"the {blocks} devices of sharding must divide both the {num_particles} particles "
            f"and the {num_moving} that move at once."
        )


def _sweep_cost(most: int) -> int:
    """The most queries that a sweep can make, if they can be counted."""
    if most >= 2**32:
        raise ValueError(
            "num_particles times the dearest score must stay below 2^32 queries a move, "
            f"got {most}."
        )
    return most


def _long_form(score_fn: ScoreFn, queries_per_score: int) -> Scorer:
    """A plain score function as a `Scorer`."""

    def score(
        key: Array, particles: Particles, level: Array, active: Array, args: Args
    ) -> tuple[Array, Array]:
        del key, level
        cost = jnp.sum(active, dtype=jnp.uint32) * jnp.uint32(queries_per_score)
        return score_fn(particles, args), cost

    return Scorer(score=score, max_cost=queries_per_score)


def _budget(max_queries: int | Array | None, least: int) -> Array | None:
    """A budget as uint32[2]; an array, which may have no value yet, is one already."""
    if max_queries is None:
        return None
    if isinstance(max_queries, jax.Array) and max_queries.ndim > 0:
        if max_queries.shape != (2,) or max_queries.dtype != jnp.uint32:
            raise ValueError(
                "max_queries must be an integer or uint32[2], "
                f"got {max_queries.dtype}{list(max_queries.shape)}."
            )
        return max_queries
    number = _at_least("max_queries", max_queries, least)
    if number > counting.MAX_COUNT:
        raise ValueError(f"max_queries must be below 2^64, got {number}.")
    return counting.halves(number)


def _at_least(name: str, value: SupportsIndex, least: int) -> int:
    """``value`` as an int that is at least ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}.") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}.")
    return number
