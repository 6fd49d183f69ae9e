"""One population for each class, all begun with the same draws, carried on by splitting.

A class is a *lane*: the same compiled level with another target, other probes and another
population. On a CPU lanes take turns; on a GPU several go through one program together, and their
images to the network as one batch. What a lane leaves behind is its *curve*: the score that a
random trigger reaches with each probability, the deeper the rarer.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.compilation import compiler_options
from restore_jax.diagnosis.drawing import Draws
from restore_jax.diagnosis.types import ScanSettings
from restore_jax.host_scoring import make_host_scorer
from restore_jax.oracles import Oracle
from restore_jax.scoring import make_scorer, threshold
from restore_jax.spaces import TriggerSpace
from restore_jax.splitting import (
    Scorer,
    SplittingState,
    Status,
    count,
    host_driven,
    importance_splitting,
)

Array = jax.Array
LANES_TOGETHER = 16
"""Lanes in one program on a GPU."""


class Lane(NamedTuple):
    """One class on its way down.

    Attributes:
      target: the class.
      probes: f32[g + m, H, W, C]: with labels guides (see `scoring`), then the probes of its
        event, the hardest to lead first, so that a trigger that fails is seen to fail early.
      state: the sampler's.
      depths: log10 of the probability of each level passed, descending; the first is that of the
        shared draws.
      levels: the scores that they stand at.
      stds: standard errors of the depths, in decades.
      event: log10 of the estimated probability of the event itself, NaN before it was met.
    """

    target: int
    probes: Array
    state: SplittingState
    depths: tuple[float, ...]
    levels: tuple[float, ...]
    stds: tuple[float, ...]
    event: float

    @property
    def running(self) -> bool:
        """Whether another level can be made."""
        return int(self.state.status) == Status.RUNNING


class Descent(NamedTuple):
    """The compiled pieces of a space's descent.

    Attributes:
      begin: ``(key, target, draws) -> Lane``: with the best of the shared draws.
      advance: ``(lanes) -> lanes``: one level of each that is running, booked.
      most_a_level: images that a level of one lane can cost.
    """

    begin: Callable[[Array, int, Draws], Lane]
    advance: Callable[[list[Lane]], list[Lane]]
    most_a_level: int


def compile_descent(
    oracle: Oracle,
    space: TriggerSpace,
    settings: ScanSettings,
    success: float,
    class_probes: Callable[[int], Array],
    book: Callable[[int], None],
    num_guides: int = 0,
    together: int | None = None,
) -> Descent:
    """Compiles the descent of one space.

    Args:
      oracle, space: the model, and where triggers come from.
      settings: particles and moves.
      success: share of probes that makes the event.
      class_probes: a class's `Lane.probes`.
      num_guides: g, of which each class has so many; with labels only. A population then begins
        with the first of the draws, whatever they score, since their guides have yet to be seen.
      book: told how many images were sent; of a model asked from the host, before they are.
      together: lanes in one program; None: as many as suits the device. What they find does not
        depend on it.
    """
    m, n = settings.num_probes, settings.num_particles
    options: dict[str, Any] = {
        "num_particles": n,
        "survival": settings.survival,
        "num_moves": settings.num_moves,
        "moving": "waste_free",
        "threshold": math.inf,
        "max_levels": settings.max_levels,
    }
    goal = threshold(oracle, success, m, num_guides)
    if together is None:
        together = 1 if jax.default_backend() == "cpu" else LANES_TOGETHER
    if oracle.foreign:
        scorer = make_host_scorer(oracle, space, success, m, book, num_guides=num_guides)
        scored = scorer.score
        hosted = host_driven(scorer, space.search, **options)
        start, level = hosted.begin, lambda state, args: hosted.advance(state, args, 1)
        together = 1
    else:
        plain = make_scorer(oracle, space, success, m, num_guides=num_guides)
        scorer = _only_running(plain)
        scored = jax.jit(plain.score, compiler_options=compiler_options())
        traced = importance_splitting(scorer, space.search, **options)
        start = jax.jit(traced.begin)
        one = lambda state, args: traced.advance(state, args, 1)  # noqa: E731
        axes = {"weights": None, "target": 0, "probes": 0, "fade": None, "running": 0}
        several = jax.vmap(one, (0, axes))
        level = jax.jit(one if together == 1 else several, compiler_options=compiler_options())

    def begin(key: Array, target: int, draws: Draws) -> Lane:
        key, probes = jax.random.fold_in(key, target), class_probes(target)
        if num_guides:
            particles = jax.tree.map(lambda leaf: leaf[:n], draws.particles)
            args = {"target": jnp.int32(target), "probes": probes, "weights": oracle.weights,
                    "fade": jnp.float32(0.0)}  # fmt: skip
            if not oracle.foreign:
                book(n * len(probes))
            scores, _ = scored(key, particles, jnp.float32(-jnp.inf), jnp.ones(n, bool), args)
            share = 1.0
        else:
            best = np.argsort(-draws.scores[target], kind="stable")[:n]
            particles = jax.tree.map(lambda leaf: leaf[best], draws.particles)
            scores = jnp.asarray(draws.scores[target][best])
            share = n / draws.scores.shape[1]
        lane = Lane(
            target=target,
            probes=probes,
            state=start(key, particles, jnp.asarray(scores)),
            depths=(math.log10(share),),
            levels=(float(np.min(scores)),),
            stds=(math.sqrt((1 - share) / n) / math.log(10),),
            event=math.nan,
        )
        return _with_event(lane, goal)

    def args_of(lanes: list[Lane], running: list[bool]) -> dict[str, Any]:
        if together == 1:
            (lane,) = lanes
            given = {"target": jnp.int32(lane.target), "probes": lane.probes}
        else:
            given = {
                "target": jnp.asarray([lane.target for lane in lanes], jnp.int32),
                "probes": jnp.stack([lane.probes for lane in lanes]),
            }
        if not oracle.foreign:
            given["running"] = jnp.asarray(running[0] if together == 1 else running)
        return given | {"weights": oracle.weights, "fade": jnp.float32(0.0)}

    def advance_some(lanes: list[Lane]) -> list[Lane]:
        short = together - len(lanes)
        padded, running = lanes + lanes[:1] * short, [True] * len(lanes) + [False] * short
        args = args_of(padded, running)
        if together == 1:
            states = [level(padded[0].state, args)]
        else:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p.state for p in padded))
            after = level(stacked, args)
            states = [jax.tree.map(lambda leaf, i=i: leaf[i], after) for i in range(len(lanes))]
        moved = []
        for lane, state in zip(lanes, states, strict=False):
            if not oracle.foreign:
                book(count(state.num_queries) - count(lane.state.num_queries))
            moved.append(_with_event(_with_level(lane, state), goal))
        return moved

    def advance(lanes: list[Lane]) -> list[Lane]:
        running = [lane for lane in lanes if lane.running]
        moved: dict[int, Lane] = {}
        for first in range(0, len(running), together):
            for lane in advance_some(running[first : first + together]):
                moved[lane.target] = lane
        return [moved.get(lane.target, lane) for lane in lanes]

    most = n * settings.num_moves // (settings.num_moves + 1) * (num_guides + m)
    return Descent(begin, advance, most)


def _only_running(scorer: Scorer) -> Scorer:
    """The scorer, idle for lanes that are there only to fill a program's places."""

    def score(
        key: Array, particles: Any, level: Array, active: Array, args: dict[str, Any]
    ) -> tuple[Array, Array]:
        given = {name: value for name, value in args.items() if name != "running"}
        return scorer.score(key, particles, level, active & args["running"], given)

    return Scorer(score=score, max_cost=scorer.max_cost)


def _with_level(lane: Lane, state: SplittingState) -> Lane:
    """The lane after a level. One that stalled is none: all are level, and at least there."""
    row = int(state.index) - 1
    if int(state.index) == int(lane.state.index):
        lowest = float(np.min(np.asarray(state.scores)))
        return lane._replace(state=state, levels=(*lane.levels[:-1], lowest))
    decade = math.log(10)
    return lane._replace(
        state=state,
        depths=(*lane.depths, lane.depths[0] + float(state.log_prob) / decade),
        levels=(*lane.levels, float(state.history.level[row])),
        stds=(
            *lane.stds,
            math.hypot(lane.stds[0], float(state.history.log_prob_std[row]) / decade),
        ),
    )


def _with_event(lane: Lane, goal: float) -> Lane:
    """The lane with the event's probability, as long as a level can still better it."""
    if not math.isnan(lane.event) and lane.levels[-1] >= goal:
        return lane
    share = float(np.mean(np.asarray(lane.state.scores) >= goal))
    return lane._replace(event=lane.depths[-1] + math.log10(share) if share else math.nan)
