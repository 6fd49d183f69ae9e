"""One population for each class, all begun with the same draws, carried on by splitting.

A class is a *lane*: the same compiled level with another target, other probes and another
population. On a CPU lanes take turns; on a GPU several go through one program together, and their
images to the network as one batch. What a lane leaves behind is its *curve*: the score that a
random trigger reaches with each probability, the deeper the rarer.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.diagnosis import ties
from restore_jax.diagnosis.drawing import Draws
from restore_jax.diagnosis.types import ScanSettings
from restore_jax.racing import make_scorer, threshold
from restore_jax.run import Run
from restore_jax.spaces.types import TriggerSpace
from restore_jax.splitting import SplittingState, Status
from restore_jax.splitting.types import Particles
from restore_jax.types import Argument

Array = jax.Array


BYTES_TOGETHER = 1 << 26
"""Of the probes of lanes that are advanced together."""


class Lane(NamedTuple):
    """One class on its way down.

    Attributes:
      target: the class.
      state: the sampler's.
      depths: log10 of the probability of each level passed, descending; the first is that of the
        shared draws.
      levels: the scores that they stand at.
      stds: standard errors of the depths, in decades.
      event: log10 of the estimated probability of the event itself, NaN before it was met.
      event_std: its standard error, in decades.
    """

    target: int
    state: SplittingState
    depths: tuple[float, ...]
    levels: tuple[float, ...]
    stds: tuple[float, ...]
    event: float
    event_std: float

    @property
    def triggers(self) -> Particles:
        """The space's particles, a pytree with leading axis n."""
        found = self.state.particles
        return found.trigger if isinstance(found, ties.Tied) else found

    @property
    def running(self) -> bool:
        """Whether another level can be made."""
        return int(self.state.status) == Status.RUNNING


class Descent(NamedTuple):
    """The pieces of a space's descent.

    Attributes:
      begin: ``(key, target, draws) -> Lane``: with the best of the shared draws.
      advance: ``(lanes) -> lanes``: one level of each that is running, booked.
      most_a_level: images that a level of one lane can cost.
    """

    begin: Callable[[Array, int, Draws], Lane]
    advance: Callable[[list[Lane]], list[Lane]]
    most_a_level: int


def make_descent(
    run: Run,
    space: TriggerSpace,
    settings: ScanSettings,
    success: float,
    probes_of: Callable[[int], Array],
    **how: Argument,
) -> Descent:
    """Makes the descent of one space ready.

    Args:
      run: whose model is asked, and who pays.
      space: where triggers come from.
      settings: particles and moves.
      success: share of probes that makes the event.
      probes_of: a class's own probes f32[m, H, W, C], asked for whenever a level is made: those of
        a thousand classes are gigabytes.
      **how: what `Oracle.lanes` of this kind of model takes besides.
    """
    m, n, model = settings.num_probes, settings.num_particles, run.model
    goal = threshold(model, success, m)
    scorer = make_scorer(model, space, success, m, books=run.books)
    search, counts = space.search, model.access == "labels"
    if counts:
        scorer, search = ties.scorer_of(scorer), ties.space_of(search)
    searches = model.lanes(
        scorer,
        search,
        run.books,
        num_particles=n,
        survival=settings.survival,
        num_moves=settings.num_moves,
        moving="waste_free",
        threshold=math.inf,
        max_levels=settings.max_levels,
        **how,
    )

    def args_of(target: int) -> dict[str, Array]:
        return {
            "target": jnp.int32(target),
            "probes": probes_of(target),
            "fade": jnp.float32(0.0),
        }

    def begin(key: Array, target: int, draws: Draws) -> Lane:
        key, args = jax.random.fold_in(key, target), args_of(target)
        best = np.argsort(-draws.scores[target], kind="stable")[:n]
        scores, share = draws.scores[target][best], n / draws.scores.shape[1]
        particles = jax.tree.map(lambda leaf: leaf[best], draws.particles)
        if counts:
            particles = ties.Tied(particles, jnp.asarray(scores - np.floor(scores)))
        state = searches.begin(key, particles, args, scores)
        lane = Lane(
            target=target,
            state=state,
            depths=(math.log10(share),),
            levels=(float(np.min(np.asarray(state.scores))),),
            stds=(math.sqrt((1 - share) / n) / math.log(10),),
            event=math.nan,
            event_std=math.nan,
        )
        return _with_event(lane, goal)

    def advance(lanes: list[Lane]) -> list[Lane]:
        running = [i for i, lane in enumerate(lanes) if lane.running]
        moved, states, first = list(lanes), list[SplittingState](), 0
        while first < len(running):
            args = [args_of(lanes[running[first]].target)]
            together = max(1, BYTES_TOGETHER // args[0]["probes"].nbytes)
            some = running[first : first + together]
            args += [args_of(lanes[i].target) for i in some[1:]]
            states += searches.advance([lanes[i].state for i in some], args)
            first += together
        for i, state in zip(running, states, strict=True):
            if counts:
                state = ties.drawn_anew(state)
            moved[i] = _with_event(_with_level(lanes[i], state), goal)
        return moved

    most = n * settings.num_moves // (settings.num_moves + 1) * m
    return Descent(begin, advance, most)


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
    scores = np.asarray(lane.state.scores)
    share = float(np.mean(scores >= goal))
    if not share:
        return lane
    # Of the share here, as of independent draws; of the levels before, the sampler's.
    here = math.sqrt((1.0 - share) / share / len(scores)) / math.log(10)
    return lane._replace(
        event=lane.depths[-1] + math.log10(share), event_std=math.hypot(lane.stds[-1], here)
    )
