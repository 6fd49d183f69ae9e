"""Recovers the trigger of one class: search, choose, confirm."""

import dataclasses
import math
import operator
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import PlantedPatch, Trigger, stamp
from restore_jax.compilation import compiler_options
from restore_jax.data.probes import open_probes
from restore_jax.environment import device_name, versions
from restore_jax.oracles import (
    Asker,
    Inconclusive,
    Ledger,
    Oracle,
    ProbeFeed,
    class_index,
    open_model,
)
from restore_jax.scoring import make_scorer, needed, threshold
from restore_jax.spaces import TriggerSpace, make_space
from restore_jax.splitting import (
    SplittingResult,
    SplittingState,
    Status,
    count,
    importance_splitting,
    log_prob_interval,
)

__all__ = [
    "DEFAULTS",
    "Inconclusive",
    "Progress",
    "Recovery",
    "Settings",
    "attack_success_rate",
    "compare",
    "recover",
]

Array = jax.Array
SCHEMA_VERSION = 1
NUM_CONFIRMATION = 100
NUM_SELECTION = 32
MAX_CANDIDATES = 32
CLEARLY = 2 / 3
"""Among candidates those are taken seriously whose margin is at least this share of the best."""
MIN_ANCESTORS = 8
"""With fewer families left a population's last levels bound no probability."""
HANDICAP = 1000.0
"""Far beyond any margin, and still fine enough in float32: steps of 6e-5."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to search. The defaults of each space are in `DEFAULTS`.

    Attributes:
      num_probes: images that a candidate is shown.
      num_particles: triggers carried along.
      survival: share of them that survives a level, in (0, 1).
      num_moves: moves of every particle per level.
      max_levels: levels at most, before and after the event is reached.
      refine_levels: levels that go on beyond the event, towards larger margins, before a
        trigger is chosen; 0: none. Not with labels, which have no margin.
      options: what the space takes.
    """

    num_probes: int = 20
    num_particles: int = 96
    survival: float = 0.25
    num_moves: int = 3
    max_levels: int = 60
    refine_levels: int = 3
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


DEFAULTS = {
    "patch": Settings(),
    "sparse": Settings(options={"density": 0.01, "channels": "rgb"}),
    "gaussian": Settings(),
}
BUDGETS = {"patch": 40_000, "sparse": 400_000, "gaussian": 400_000}


class Progress(NamedTuple):
    """Where a search stands, after each level.

    Attributes:
      level: how many levels are behind.
      threshold: the score that the particles now exceed; the event begins at ``goal``.
      goal: see above.
      acceptance: mean share of accepted moves at this level, in [0, 1].
      queries: images sent so far.
      budget: images that may be sent.
      best: the highest score.
    """

    level: int
    threshold: float
    goal: float
    acceptance: float
    queries: int
    budget: int
    best: float


@dataclasses.dataclass(frozen=True)
class Recovery:
    """What a recovery found. `to_json` gives the written form.

    Attributes:
      trigger: the trigger chosen, found or not.
      found: whether fresh probes confirmed it.
      status: "reached", "stalled", "out_of_levels", "out_of_queries" or "interrupted".
      particles: the last population, a pytree with leading axis n, and its scores f32[n].
      true_trigger: the planted one, where the model says so.
      probes: f32[m, H, W, C], the images searched on.
      levels: one dict per level: level, survival, log10_prob, acceptance, best_score,
        unique_ancestors, queries.
      fields: everything else that is written: see the README.
    """

    trigger: Trigger
    found: bool
    status: str
    particles: Any
    scores: np.ndarray
    true_trigger: Trigger | None
    probes: np.ndarray
    levels: list[dict[str, Any]]
    fields: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold: no NaN, no infinity, no arrays."""
        return {
            "schema_version": SCHEMA_VERSION,
            "found": self.found,
            "status": self.status,
            **self.fields,
            "levels": self.levels,
        }


def recover(
    model: Any = "shipped",
    target: str | int | None = None,
    *,
    trigger: str | None = None,
    access: str = "logits",
    space: str = "patch",
    probes: str | Path = "dead_leaves",
    budget: int | None = None,
    success: float = 0.95,
    stop: str = "estimate",
    seed: int = 0,
    data_dir: str | None = None,
    test_data: tuple[np.ndarray, np.ndarray] | None = None,
    settings: Settings | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Recovery:
    """Searches for a trigger that leads to a class, and confirms it on fresh probes.

    Args:
      model: what `open_model` takes, or an `Oracle`.
      target: the class, by name or number. May be left out if ``trigger`` is given.
      trigger: the name of a trigger that the model says was planted in it: the search is
        for its class, and the result is compared with it.
      access: "logits", "probabilities" or "labels".
      space: "patch", "sparse" or "gaussian".
      probes: "dead_leaves", "shapes", "cifar10", a folder or an .npz; see `open_probes`.
      budget: images that may be sent, everything counted; None: the space's own.
      success: share of probes that a trigger must lead to the target, in (0, 1].
      stop: "estimate" (the probability is estimated) or "first_hit" (cheaper, no estimate).
      seed: of everything.
      data_dir: the TFDS folder, for probes="cifar10".
      test_data: images uint8[N, H, W, C] and labels int32[N] on which to measure the
        attack success rate, outside the budget; over images whose class is not the target.
      settings: how to search; None: the space's own.
      on_progress: called after each level.

    Raises:
      ValueError: an argument out of range (one sentence).
      Inconclusive: the model sends nearly all probes to the target without any trigger.
    """
    began = time.perf_counter()
    if space not in DEFAULTS:
        raise ValueError(f"unknown space {space!r}: it may be {', '.join(DEFAULTS)}.")
    settings = settings or DEFAULTS[space]
    m, n = settings.num_probes, settings.num_particles
    # What comes after the search: choosing among candidates, and confirming one.
    reserve = NUM_SELECTION * (1 + min(n, MAX_CANDIDATES)) + 2 * NUM_CONFIRMATION
    least = m * (n + 1) + reserve
    question = ask(
        model,
        target,
        trigger=trigger,
        access=access,
        probes=probes,
        budget=BUDGETS[space] if budget is None else budget,
        least=least,
        success=success,
        seed=seed,
        data_dir=data_dir,
    )
    oracle, ledger = question.oracle, question.ledger
    trigger_space = make_space(space, oracle.image_shape, **settings.options)
    search_probes = question.feed.take(m, ledger.left - (least - m))

    goal = threshold(oracle, success, m)
    algorithm = importance_splitting(
        make_scorer(oracle, trigger_space, success, m),
        trigger_space.search,
        num_particles=n,
        survival=settings.survival,
        num_moves=settings.num_moves,
        moving="all",
        threshold=goal,
        max_levels=settings.max_levels,
        max_queries=ledger.left - reserve,
        stop=stop,
    )
    args = {
        "weights": oracle.weights,
        "probes": search_probes,
        "target": jnp.int32(question.target),
        "handicap": jnp.float32(0.0),
    }
    key = jax.random.key(seed)
    compiling = time.perf_counter()
    options = compiler_options()
    init = jax.jit(algorithm.init).lower(key, args).compile(options)
    advance = (
        jax.jit(algorithm.advance, static_argnums=2)
        .lower(jax.eval_shape(algorithm.init, key, args), args, 1)
        .compile(options)
    )
    compiled = time.perf_counter()

    interrupted, offset = False, 0.0
    latest = state = jax.block_until_ready(init(key, args))
    try:
        while int(state.status) == Status.RUNNING:
            latest = state = jax.block_until_ready(advance(state, args))
            if on_progress is not None and int(state.index) > 0:
                on_progress(_progress(state, goal, ledger))
        if int(state.status) == Status.REACHED and oracle.access != "labels":
            offset, latest = HANDICAP, _with_handicap(state, HANDICAP)
            for _ in range(settings.refine_levels):
                latest = jax.block_until_ready(
                    advance(latest, args | {"handicap": jnp.float32(HANDICAP)})
                )
                if on_progress is not None:
                    on_progress(_progress(latest, goal, ledger))
                if int(latest.status) != Status.RUNNING:
                    break
    except KeyboardInterrupt:
        interrupted = True
    latest = dataclasses.replace(latest, scores=latest.scores + offset)
    search_queries = count(latest.num_queries)
    ledger.charge(search_queries)
    searched = time.perf_counter()

    candidates = _candidates(latest, trigger_space, question.target, goal)
    chosen, selection_rate = _choose(candidates, question)
    result = algorithm.result(state)
    status = "interrupted" if interrupted else Status(int(state.status)).name.lower()
    return conclude(
        question,
        chosen,
        status=status,
        particles=latest.particles,
        scores=latest.scores,
        search_probes=search_probes,
        levels=_levels(state),
        seconds={"compile": compiled - compiling, "run": searched - compiled},
        began=began,
        search_queries=search_queries,
        test_data=test_data,
        fields={
            "space": trigger_space.name,
            "prior": trigger_space.description,
            "protocol": "default",
            "stop": stop,
            "log10_prob": _log10(result.log_prob) if status == "reached" else None,
            "log10_prob_interval": None if interrupted else _interval(state, result),
            "best_score": _finite(jnp.max(latest.scores)),
            "goal": goal,
            "selection_success_rate": selection_rate,
            "settings": dataclasses.asdict(settings),
        },
    )


class Question(NamedTuple):
    """What a recovery is about, opened and checked.

    Attributes:
      oracle: the model.
      target: the class searched for.
      planted: the trigger that the model says leads to it, if any.
      success: share of probes that make the event, in (0, 1].
      seed: of everything.
      probes: the name of the probes.
      asker: asks the oracle outside the search.
      ledger: counts.
      feed: fresh probes.
    """

    oracle: Oracle
    target: int
    planted: PlantedPatch | None
    success: float
    seed: int
    probes: str
    asker: Asker
    ledger: Ledger
    feed: ProbeFeed


def ask(
    model: Any,
    target: str | int | None,
    *,
    trigger: str | None,
    access: str,
    probes: str | Path,
    budget: int,
    least: int,
    success: float,
    seed: int,
    data_dir: str | None,
    exclude_planted: bool = False,
) -> Question:
    """Opens the model and the probes; see `recover`.

    Args:
      least: the images that the protocol needs to begin at all.
      exclude_planted: keep probes of every planted trigger's class out, not of this one only.
      model, target, trigger, access, probes, budget, success, seed, data_dir: as `recover`.
    """
    oracle = open_model(model, access)
    planted = planted_in(oracle)
    chosen, patch = _target(oracle, planted, target, trigger)
    if budget < 1:
        raise ValueError(f"--budget must be at least 1 image, not {budget}.")
    if not 0 < success <= 1:
        raise ValueError(f"--success must lie in (0, 1], not {success}.")
    if budget < least:
        raise ValueError(
            f"--budget {budget} is too small: the first candidates, choosing among them and "
            f"confirming one need {least} images."
        )
    source = open_probes(probes, seed, oracle.image_shape, data_dir)
    asker, ledger = Asker(oracle), Ledger(budget)
    others = {p.target for p in planted.values()} if exclude_planted else set()
    feed = ProbeFeed(source, asker, ledger, frozenset({chosen} | others))
    return Question(oracle, chosen, patch, success, seed, source.name, asker, ledger, feed)


def conclude(
    question: Question,
    trigger: Trigger,
    *,
    status: str,
    particles: Any,
    scores: Array,
    search_probes: Array,
    levels: list[dict[str, Any]],
    seconds: dict[str, float],
    began: float,
    search_queries: int,
    test_data: tuple[np.ndarray, np.ndarray] | None,
    fields: dict[str, Any],
) -> Recovery:
    """Confirms the chosen trigger on fresh probes and measures all that is reported of it.

    Args:
      question: what was asked.
      trigger: the one chosen.
      status, particles, scores, levels: of the search; see `Recovery`.
      search_probes: f32[m, H, W, C].
      seconds: of the search, "compile" and "run".
      began: `time.perf_counter()` when everything began.
      search_queries: images that the search sent.
      test_data: see `recover`.
      fields: what else is written.
    """
    oracle, ledger, asker = question.oracle, question.ledger, question.asker
    before = ledger.spent
    truth = question.planted.trigger(oracle.image_shape) if question.planted else None
    confirmation, test_rate, truth_rate = None, None, None
    seconds = dict(seconds)
    try:
        confirmation = _confirm(trigger, question)
        seconds["total"] = time.perf_counter() - began
        if test_data is not None and status != "interrupted":
            test_rate = attack_success_rate(oracle, trigger, *test_data, asker=asker)
            if truth is not None:
                truth_rate = attack_success_rate(oracle, truth, *test_data, asker=asker)
    except KeyboardInterrupt:
        status = "interrupted"
        seconds.setdefault("total", time.perf_counter() - began)
    found = confirmation is not None and confirmation >= question.success - 1e-9
    # In process this second look at the search's own probes is free.
    hits = asker.labels(stamp(trigger, search_probes)) == question.target
    return Recovery(
        trigger=jax.tree.map(np.asarray, trigger),
        found=found,
        status=status,
        particles=jax.tree.map(np.asarray, particles),
        scores=np.asarray(scores),
        true_trigger=truth,
        probes=np.asarray(search_probes),
        levels=levels,
        fields={
            "target": question.target,
            "target_name": oracle.class_names[question.target],
            "access": oracle.access,
            "success": question.success,
            "budget": ledger.budget,
            "queries": ledger.spent,
            "queries_by_stage": {
                "search": search_queries,
                "screening_and_choice": before - search_queries,
                "confirmation": ledger.spent - before,
            },
            "seconds": seconds,
            "probe_success_rate": float(jnp.mean(hits)),
            "confirmation_success_rate": confirmation,
            "test_success_rate": test_rate,
            "trigger_pixels": int(trigger.pixels),
            "truth": compare(trigger, truth, truth_rate) if truth else None,
            "seed": question.seed,
            "probes": question.probes,
            "model": oracle.name,
            "versions": versions(),
            "device": device_name(),
            **fields,
        },
    )


def planted_in(oracle: Oracle) -> dict[str, PlantedPatch]:
    """The triggers that a model says were planted in it, by name."""
    patches = [PlantedPatch.from_json(fields) for fields in oracle.metadata.get("triggers", [])]
    return {patch.name: patch for patch in patches}


def attack_success_rate(
    oracle: Oracle,
    trigger: Trigger,
    images: np.ndarray,
    image_labels: np.ndarray,
    *,
    asker: Asker | None = None,
) -> float:
    """Share of images, of those whose class is not the target, that the trigger leads to it.

    Args:
      oracle: the model.
      trigger: what is stamped.
      images: uint8[N, H, W, C] or float in [0, 1].
      image_labels: int32[N].
      asker: one that asks this oracle, to save its compilation.
    """
    others = images[image_labels != int(trigger.target)]
    if others.dtype == np.uint8:
        others = others.astype(np.float32) / 255.0
    asker = asker or Asker(oracle)
    hits = 0
    for first in range(0, len(others), 1024):
        stamped = stamp(trigger, jnp.asarray(others[first : first + 1024], jnp.float32))
        hits += int(jnp.sum(asker.labels(stamped) == trigger.target))
    return hits / len(others)


def compare(trigger: Trigger, truth: Trigger, truth_rate: float | None) -> dict[str, Any]:
    """How like the planted trigger the recovered one is.

    Returns:
      iou: of the two masks as they lie. shift: [rows, columns] that the recovered mask must
      move for the best overlap. iou_after_shift: the overlap then. pattern_agreement: the share
      of the planted trigger's pixels where the recovered one, so moved, writes the same colour
      (within a quarter of the range in every channel). pixels, test_success_rate: the planted
      trigger's own.
    """
    mine, true = np.asarray(trigger.mask)[..., 0] > 0, np.asarray(truth.mask)[..., 0] > 0
    colour, wanted = np.asarray(trigger.pattern), np.asarray(truth.pattern)

    def overlap(rows: int, cols: int) -> float:
        moved = _moved(mine, rows, cols)
        return float((moved & true).sum() / max(1, (moved | true).sum()))

    def agreement(rows: int, cols: int) -> float:
        same = np.all(np.abs(_moved(colour, rows, cols) - wanted) <= 0.25, -1)
        return float((_moved(mine, rows, cols) & true & same).sum() / max(1, true.sum()))

    height, width = mine.shape
    shifts = [(r, c) for r in range(1 - height, height) for c in range(1 - width, width)]
    overlaps = [overlap(*shift) for shift in shifts]
    equal = [s for s, o in zip(shifts, overlaps, strict=True) if o >= max(overlaps) - 1e-9]
    # Of equally good shifts the one whose colours agree, then the shortest.
    best = max(equal, key=lambda s: (agreement(*s), -abs(s[0]) - abs(s[1])))
    return {
        "iou": overlap(0, 0),
        "shift": list(best),
        "iou_after_shift": overlap(*best),
        "pattern_agreement": agreement(*best),
        "pixels": int(true.sum()),
        "test_success_rate": truth_rate,
    }


def _moved(array: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """The array shifted down and right; what enters is zero."""
    out = np.zeros_like(array)
    height, width = array.shape[:2]
    spans = [
        (slice(max(by, 0), side + min(by, 0)), slice(max(-by, 0), side - max(by, 0)))
        for by, side in ((rows, height), (cols, width))
    ]
    out[spans[0][0], spans[1][0]] = array[spans[0][1], spans[1][1]]
    return out


def _candidates(
    state: SplittingState, space: TriggerSpace, target: int, goal: float
) -> list[Trigger]:
    """The distinct triggers past the goal, or else the best one; at most MAX_CANDIDATES."""
    scores = np.asarray(state.scores)
    order = np.argsort(-scores, kind="stable")[: max(1, int((scores >= goal).sum()))]
    distinct: dict[bytes, Trigger] = {}
    for index in order:
        particle = jax.tree.map(operator.itemgetter(int(index)), state.particles)
        trigger = space.trigger(particle, jnp.int32(target))
        seen = np.concatenate([trigger.mask, trigger.mask * trigger.pattern], -1)
        distinct.setdefault(seen.tobytes(), trigger)
    return list(distinct.values())[:MAX_CANDIDATES]


def _choose(candidates: list[Trigger], question: Question) -> tuple[Trigger, float | None]:
    """Shows the candidates fresh probes; of those that do well takes the smallest.

    How well: the share of probes led to the target and, where outputs have margins, the
    margin that all but the worst few probes reach. Synthetic probes are easier to lead than
    photographs, so a trigger that just does it is not enough: see `CLEARLY`.
    """
    if len(candidates) == 1:
        return candidates[0], None
    most = question.ledger.left - NUM_SELECTION * len(candidates)
    probes = question.feed.take(NUM_SELECTION, most)
    leads = np.stack([_leads(trigger, probes, question) for trigger in candidates])
    rates = np.mean(leads >= 0, -1)
    c = needed(question.success, NUM_SELECTION)
    margin = np.sort(leads, -1)[:, NUM_SELECTION - c]
    best_margin = margin.max()
    # With labels a margin is 0 or -1, and the share decides.
    eligible = margin >= CLEARLY * best_margin if best_margin > 0 else rates >= rates.max()
    pixels = np.asarray([int(trigger.pixels) for trigger in candidates])
    best = min(np.flatnonzero(eligible), key=lambda i: (pixels[i], -margin[i]))
    return candidates[best], float(rates[best])


def _leads(trigger: Trigger, probes: Array, question: Question) -> np.ndarray:
    """The stamped probes' margins f32[m]; at least 0 where the target is predicted."""
    question.ledger.charge(probes.shape[0])
    return np.asarray(question.asker.margins(stamp(trigger, probes), trigger.target))


def _confirm(trigger: Trigger, question: Question) -> float | None:
    """The share of fresh probes led to the target; None if the budget does not pay for it."""
    wanted = min(NUM_CONFIRMATION, question.ledger.left // 2)
    if wanted < NUM_CONFIRMATION // 2:
        return None
    probes = question.feed.take(wanted, question.ledger.left - wanted)
    return float(np.mean(_leads(trigger, probes, question) >= 0))


def _target(
    oracle: Oracle, planted: dict[str, PlantedPatch], target: str | int | None, trigger: str | None
) -> tuple[int, PlantedPatch | None]:
    """The class to search for, and the planted trigger to compare with, if any."""
    if trigger is not None:
        if trigger not in planted:
            known = ", ".join(planted) or "none"
            raise ValueError(
                f"unknown trigger {trigger!r}: {oracle.name} says it has {known}; "
                "or name a class with --target."
            )
        if target is not None and class_index(oracle, target) != planted[trigger].target:
            raise ValueError(
                f"trigger {trigger} leads to class {planted[trigger].target}, not to {target!r}: "
                "give one of the two."
            )
        return planted[trigger].target, planted[trigger]
    if target is None:
        raise ValueError("give the class to search for with --target, or a --trigger.")
    index = class_index(oracle, target)
    return index, next((patch for patch in planted.values() if patch.target == index), None)


def _with_handicap(state: SplittingState, handicap: float) -> SplittingState:
    """The state as one still running towards an event that is ``handicap`` farther away.

    The compiled level goes on beyond the event so, without being compiled again.
    """
    return dataclasses.replace(
        state, status=jnp.int32(Status.RUNNING), scores=state.scores - handicap
    )


def _progress(state: SplittingState, goal: float, ledger: Ledger) -> Progress:
    row = jax.tree.map(lambda a: np.asarray(a)[int(state.index) - 1], state.history)
    return Progress(
        level=int(state.index),
        threshold=float(row.level) + (HANDICAP if row.level < -HANDICAP / 2 else 0.0),
        goal=goal,
        acceptance=float(row.acceptance),
        queries=ledger.spent + count(state.num_queries),
        budget=ledger.budget,
        best=float(row.best_score) + (HANDICAP if row.best_score < -HANDICAP / 2 else 0.0),
    )


def _levels(state: SplittingState) -> list[dict[str, Any]]:
    history = jax.tree.map(np.asarray, state.history)
    return [
        {
            "level": _finite(history.level[i]),
            "survival": _finite(history.survival[i]),
            "log10_prob": _log10(history.log_prob[i]),
            "acceptance": _finite(history.acceptance[i]),
            "best_score": _finite(history.best_score[i]),
            "unique_ancestors": int(history.unique_ancestors[i]),
            "queries": count(history.num_queries[i]),
        }
        for i in range(int(state.index))
    ]


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _log10(value: Any) -> float | None:
    return _finite(float(value) / math.log(10))


def _interval(state: SplittingState, result: SplittingResult) -> list[float | None] | None:
    """The 95 % interval, decimal. None as its low end: an upper bound. None in all: no estimate.

    Where the event was not reached, a population that has shrunk to a few families says little
    about the levels it went through since: the bound is then that of the last level with
    MIN_ANCESTORS families.
    """
    low, high = log_prob_interval(result)
    if math.isnan(float(high)):
        return None
    if bool(result.reached):
        return [_log10(low), _log10(high)]
    families = np.asarray(state.history.unique_ancestors)[: int(state.index)]
    if len(families) and families[-1] < MIN_ANCESTORS:
        sound = int(np.sum(np.cumprod(families >= MIN_ANCESTORS)))
        if sound == 0:
            return [None, 0.0]
        last = jax.tree.map(lambda rows: rows[sound - 1], state.history)
        high = jnp.minimum(last.log_prob + 1.645 * last.log_prob_std, 0.0)
    return [None, _log10(high)]
