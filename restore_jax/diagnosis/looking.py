"""One space of a scan: shared draws, a descent for each class, and what they say."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from restore_jax.diagnosis import ties
from restore_jax.diagnosis.descending import Descending
from restore_jax.diagnosis.descent import Descent, Lane, make_descent
from restore_jax.diagnosis.drawing import Draws, all_margins, draw, scores_of
from restore_jax.diagnosis.null import EASE_SPACE, eases, profiles
from restore_jax.diagnosis.probing import Pool
from restore_jax.diagnosis.standing import (
    WITHIN_COUNTS,
    Profile,
    count_beyond,
    ease,
    level_at,
    plausible,
    standings,
    standings_by_events,
)
from restore_jax.diagnosis.types import OTHER_DEPTH, ClassLook, SpaceLook
from restore_jax.diagnosis.work import Work
from restore_jax.errors import Inconclusive, OutOfTime
from restore_jax.oracles.types import LOG_FLOOR
from restore_jax.racing import threshold
from restore_jax.spaces import catalogue
from restore_jax.spaces.types import TriggerSpace
from restore_jax.types import Argument

Array = jax.Array
NARROWING = (0, 3, 6, 12)
"""After so many levels `ScanSettings.lanes` says how many classes go on."""
FOREMOST = 128
"""Of so many draws the best one says which classes are followed, where they cannot all be."""
DOUBT = 1.645
"""Standard errors between an estimate and its one-sided 95 % bound."""


class Beginning(NamedTuple):
    """What a space's populations begin with.

    Attributes:
      space: where triggers come from.
      key: of everything drawn in it.
      draws: the random triggers that all classes share.
      goal: the score at which the event begins.
      orders: by class, of those that can be followed, the places of its probes in the pool, the
        hardest to lead first where margins tell, so that a trigger that fails is seen to fail
        early.
      descent: what makes and moves lanes.
    """

    space: TriggerSpace
    key: Array
    draws: Draws
    goal: float
    orders: dict[int, np.ndarray]
    descent: Descent


class Followed(NamedTuple):
    """The lanes by class, and those classes that were given up on the way."""

    lanes: dict[int, Lane]
    dropped: frozenset[int]
    interrupted: bool = False

    @property
    def whole(self) -> list[Lane]:
        """The lanes that are compared: a class dropped on the way was not followed as long."""
        return [lane for k, lane in self.lanes.items() if k not in self.dropped]


class Look(NamedTuple):
    """What a space says, and what said it."""

    seen: SpaceLook
    beginning: Beginning
    followed: Followed


def options_of(work: Work, name: str) -> dict[str, Argument]:
    """What a space takes when scanning."""
    return work.settings.options.get(name, catalogue.find(name).scan_options())


def depth_of(work: Work, name: str) -> float:
    """To which log10 probability a space is followed."""
    return work.settings.depths.get(name, OTHER_DEPTH)


def look(work: Work, pool: Pool, name: str, number: int, most: int) -> Look:
    """Looks through one space.

    Args:
      work: the scan.
      pool: its probes.
      name, number: the space, and its place among those looked through.
      most: images that may be sent for it.

    Raises:
      Inconclusive: the model's probabilities are saturated.
    """
    ledger = work.run.ledger
    began = ledger.spent
    beginning = begin(work, pool, name, number)
    with work.run.stage("splitting"):
        followed = _followed(work, beginning, began + most)
    judged = [int(k) for k in np.flatnonzero(pool.judged)]
    seen = _seen(work, beginning, judged, followed, ledger.spent - began)
    return Look(seen, beginning, followed)


def stand(work: Work, looks: dict[str, Look]) -> dict[str, Look]:
    """The looks, in each of which the classes that were followed have a standing.

    They are compared with the families of clean networks that the model may be of by all looks
    together; see `diagnosis.standing`.
    """
    found = None
    if EASE_SPACE in looks and _profiles(work, looks[EASE_SPACE]):
        gains, lacks = _gains(looks[EASE_SPACE])
        found = ease(gains, lacks) if gains else None
    families = plausible(found, eases(work.conditions.access))
    return {name: _with_standings(work, one, families) for name, one in looks.items()}


def tell(work: Work, name: str, look: Look) -> None:
    """Says what a space has shown."""
    best = max(look.seen.classes.items(), key=lambda item: _value(item[1]), default=None)
    if best is not None and best[1].standing is not None:
        work.tell(
            f"{name}: followed to 10^{look.seen.depth:.1f}; "
            f"{work.run.model.class_names[best[0]]} stands out most, by "
            f"{best[1].standing.value:.2f}"
        )


def _profiles(work: Work, look: Look) -> dict[str, Profile]:
    """The profiles that there are for what was looked at, by family."""
    return profiles(work.conditions, work.settings, look.seen.prior)


def begin(work: Work, pool: Pool, name: str, number: int) -> Beginning:
    """Makes the populations of a space ready.

    Args:
      work, pool, name, number: see `look`.

    Raises:
      Inconclusive: the model's probabilities are saturated.
    """
    settings, model = work.settings, work.run.model
    space = catalogue.find(name).make(model.image_shape, **options_of(work, name))
    key = jax.random.fold_in(work.key, number)
    with work.run.stage("draws"):
        draws = _draws(work, pool, space, key)
    goal = threshold(model, work.success, settings.num_probes)
    led = int(((draws.scores >= goal).sum(1) > 0).sum())
    classes = "1 class" if led == 1 else f"{led} classes"
    work.tell(f"{name}: {settings.num_draws} random triggers, {classes} led to")
    judged = [int(k) for k in np.flatnonzero(pool.judged)]
    orders = {k: _in_order(work, pool, draws, k) for k in judged}

    def probes_of(k: int) -> Array:
        return pool.probes[jnp.asarray(orders[k])]

    descent = make_descent(work.run, space, settings, work.success, probes_of)
    return Beginning(space, key, draws, goal, orders, descent)


def _draws(work: Work, pool: Pool, space: TriggerSpace, key: Array) -> Draws:
    oracle = work.run.model
    particles, outputs, alone = draw(
        work.run, space, pool, work.settings.num_draws, jax.random.fold_in(key, 0)
    )
    if oracle.access == "probabilities" and _saturated(alone):
        raise Inconclusive(
            "the model's probabilities are saturated (of most probes all but one are 0), so that "
            "they say no more than labels: scan with `access` labels, or ask for logits."
        )
    here = (pool, work.success, oracle.num_classes)
    scores = scores_of(oracle.access, outputs, *here)
    if oracle.access == "labels":
        # One fraction a draw serves all classes: see `ties`.
        scores = scores + np.asarray(ties.fractions(jax.random.fold_in(key, 2), scores.shape[1]))
    return Draws(
        particles=particles,
        scores=scores,
        empty=scores_of(oracle.access, alone[None], *here)[:, 0],
        outputs=alone,
    )


def _saturated(outputs: np.ndarray) -> bool:
    """Whether the runner-up has no probability that a float can hold, for most of the probes."""
    margins = all_margins("probabilities", outputs)
    return bool((margins.max(-1) >= -LOG_FLOOR).mean() > 0.5)


def _followed(work: Work, beginning: Beginning, end: int) -> Followed:
    """The lanes of all classes that were followed, as far as they came.

    Ends at the depth asked for, or where the ledger would come to stand past ``end``.
    """
    settings, (space, key, draws, goal, orders, descent) = work.settings, beginning
    depth = depth_of(work, space.name)
    judged = list(orders)
    # Where only some can be followed: by the best draws, which a trigger in one place needs, and by
    # their share of what a class lacks: of many classes most are led easily, but not far enough.
    best = np.sort(draws.scores, 1)[:, -max(1, settings.num_draws // FOREMOST)]
    first = {k: _reach(float(best[k]), float(draws.empty[k]), goal) for k in judged}
    order = sorted(judged, key=lambda k: -first[k])[: settings.lanes[0]]
    lanes = {k: descent.begin(jax.random.fold_in(key, 1), k, draws) for k in sorted(order)}
    a_level = work.run.model.each * descent.most_a_level
    descending = Descending(work, f"scan-{space.name}")
    lanes, going, dropped, number = descending.resumed(lanes)
    try:
        while number < settings.max_levels:
            if number in NARROWING:
                most = settings.lanes[NARROWING.index(number)]
                going.sort(key=lambda k: -_reach(lanes[k].levels[-1], float(draws.empty[k]), goal))
                dropped |= set(going[most:])
                going = sorted(going[:most])
            going = [k for k in going if _goes_on(lanes[k], goal) and lanes[k].depths[-1] > depth]
            if not going:
                break
            if work.run.ledger.spent + len(going) * a_level > end:
                work.run.ended()
                break
            if work.run.ledger.time_is_over():
                descending.keep(lanes, going, dropped, number, now=True)
                break
            advanced = descent.advance([lanes[k] for k in going])
            lanes, number = lanes | {lane.target: lane for lane in advanced}, number + 1
            descending.keep(lanes, going, dropped, number)
            deepest = max(lanes[k].depths[-1] for k in going)
            names = ", ".join(work.run.model.class_names[k] for k in going[:6])
            more = f" and {len(going) - 6} more" if len(going) > 6 else ""
            work.tell(f"{space.name}: {names}{more} at 10^{deepest:.1f}", number % 3 == 0)
    except KeyboardInterrupt:
        descending.keep(lanes, going, dropped, number, now=True)
        return Followed(lanes, frozenset(dropped), interrupted=True)
    except OutOfTime:  # within a level of a model that is asked from the host
        descending.keep(lanes, going, dropped, number, now=True)
    return Followed(lanes, frozenset(dropped))


def _goes_on(lane: Lane, goal: float) -> bool:
    """Whether further levels have anything to show: counts end with the event."""
    return lane.running and not lane.levels[-1] >= goal > 0.0


def _reach(score: float, empty: float, goal: float) -> float:
    """The share of what a class lacks without a trigger that a score has made good."""
    return (score - empty) / max(goal - empty, 1e-30)


def _in_order(work: Work, pool: Pool, draws: Draws, k: int) -> np.ndarray:
    """int[m]: where a class's probes are, the farthest from it first; with labels as they come."""
    places = np.flatnonzero(pool.valid[k])
    if work.run.model.access != "labels":
        lead = all_margins(work.run.model.access, draws.outputs)[places, k]
        places = places[np.argsort(lead, kind="stable")]
    return places


def _seen(
    work: Work, beginning: Beginning, judged: list[int], followed: Followed, queries: int
) -> SpaceLook:
    """What the draws and lanes say, class by class."""
    space, draws, goal = beginning.space, beginning.draws, beginning.goal
    # Stalled, or all of its probes led, a class has gone as far as it can.
    running = [lane.depths[-1] for lane in followed.whole if _goes_on(lane, goal)]
    depth = max([depth_of(work, space.name), *running])
    n = draws.scores.shape[1]
    led = {k: int((draws.scores[k] >= goal).sum()) for k in judged}
    classes = {
        k: _class_look(followed.lanes.get(k), led[k], n, float(draws.empty[k])) for k in judged
    }
    return SpaceLook(
        prior=space.description,
        depth=depth,
        classes=classes,
        log10_certificate=max((look.log10_bound for look in classes.values()), default=0.0),
        log10_certificate_draws=_upper(max(led.values(), default=0), n),
        queries=queries,
    )


def _gains(look: Look) -> tuple[dict[int, float], dict[int, float]]:
    """By class of those that are compared, the gain at the look's depth, and what it lacks."""
    lanes, empty, goal = look.followed.whole, look.beginning.draws.empty, look.beginning.goal
    gains, lacks = {}, {}
    for lane in lanes:
        none, depth = float(empty[lane.target]), look.seen.depth
        level = level_at(lane.depths, lane.levels, depth)
        if level >= goal > 0.0:  # a count, which ends with the probes
            level = count_beyond(lane.event, goal, depth)
        gains[lane.target], lacks[lane.target] = level - none, goal - none
    return gains, lacks


def _with_standings(work: Work, look: Look, families: set[str]) -> Look:
    """A look with standings, by these families where they were measured for its space."""
    depth = look.seen.depth
    # What was not met is rarer than the depth, or is not there.
    met = {
        lane.target: depth if math.isnan(lane.event) else max(depth, lane.event)
        for lane in look.followed.whole
    }
    known = _profiles(work, look)
    some = [one for name, one in known.items() if name in families] or list(known.values())
    counts = work.run.model.access == "labels"
    found = standings(*_gains(look), some, WITHIN_COUNTS if counts else math.inf)
    if not known:
        # With nothing to compare with but the model itself, whatever stands out does.
        by_events = standings_by_events(met)
        found = {
            k: one._replace(value=max(one.value, by_events[k].value)) for k, one in found.items()
        }
    classes = {k: one._replace(standing=found.get(k)) for k, one in look.seen.classes.items()}
    return look._replace(seen=look.seen._replace(classes=classes))


def _class_look(lane: Lane | None, led: int, draws: int, empty: float) -> ClassLook:
    """What a class's lane says, if it had one, and the draws."""
    if lane is None:
        return ClassLook(None, _upper(led, draws), led, (), empty, None)
    met = not math.isnan(lane.event)
    at, std = (lane.event, lane.event_std) if met else (lane.depths[-1], lane.stds[-1])
    return ClassLook(
        log10_prob=lane.event if met else None,
        log10_bound=min(0.0, at + DOUBT * std),
        draws_led=led,
        curve=tuple(zip(lane.depths, lane.levels, strict=True)),
        empty=empty,
        standing=None,
    )


def _upper(hits: int, n: int) -> float:
    """log10 of the upper end, 95 %, of a share of which n draws hit so many times."""
    return float(np.log10(special.betaincinv(hits + 1, n - hits, 0.95))) if hits < n else 0.0


def _value(seen: ClassLook) -> float:
    return -math.inf if seen.standing is None else seen.standing.value
