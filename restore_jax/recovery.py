"""Recovers the trigger of one class: search, choose, confirm."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from restore_jax.backdoors import PlantedPatch, Trigger, stamp
from restore_jax.data.probes import ProbeSource, open_probes
from restore_jax.environment import device_name, versions
from restore_jax.oracles import Ledger, Oracle, class_index, labels, margins, open_model
from restore_jax.spaces import TriggerSpace, make_space
from restore_jax.splitting import (
    ScoreFn,
    SplittingState,
    Status,
    count,
    importance_splitting,
    log_prob_interval,
)

Array = jax.Array
SCHEMA_VERSION = 1
NUM_CONFIRMATION = 100
NUM_SELECTION = 32
MAX_CANDIDATES = 64
ASK_CHUNK = 64


class Inconclusive(RuntimeError):
    """The question cannot be answered with these probes; one sentence says why."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to search. The defaults of each space are in `DEFAULTS`.

    Attributes:
      num_probes: images that a candidate is shown.
      num_particles: triggers carried along.
      survival: share of them that survives a level, in (0, 1).
      num_moves: moves of every particle per level.
      max_levels: levels at most.
      options: what the space takes.
    """

    num_probes: int = 20
    num_particles: int = 128
    survival: float = 0.5
    num_moves: int = 4
    max_levels: int = 60
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


DEFAULTS = {
    "patch": Settings(),
    "sparse": Settings(options={"density": 0.01, "channels": "rgb"}),
    "gaussian": Settings(),
}
BUDGETS = {"patch": 60_000, "sparse": 400_000, "gaussian": 400_000}


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


def make_score(oracle: Oracle, space: TriggerSpace, success: float, num_probes: int) -> ScoreFn:
    """The score of DESIGN: at or past the threshold exactly where the event happens.

    The event: at least ``c = needed(success, m)`` of the m probes go to the target. With logits
    or probabilities the score is the c-th largest margin, threshold 0; with labels it is
    the number of probes that go to the target, threshold c.

    Args:
      oracle: the model asked.
      space: how particles are stamped.
      success: in (0, 1].
      num_probes: m.

    Returns:
      ``(particles, args) -> f32[n]`` with ``args`` a dict of ``weights`` (the oracle's),
      ``probes`` f32[m, H, W, C] and ``target`` int32[].
    """
    c = needed(success, num_probes)

    def score(particles: Any, args: dict[str, Any]) -> Array:
        n = jax.tree.leaves(particles)[0].shape[0]
        together = _together(n, num_probes)

        def some(chunk: Any) -> Array:
            images = jax.vmap(space.stamp, (0, None))(chunk, args["probes"])
            outputs = oracle.answer(args["weights"], images.reshape(-1, *oracle.image_shape))
            margin = margins(oracle.access, outputs, args["target"])
            margin = margin.reshape(together, num_probes)
            if oracle.access == "labels":
                return jnp.sum(margin >= 0, -1).astype(jnp.float32)
            return jnp.sort(margin, -1)[:, num_probes - c]

        chunks = jax.tree.map(lambda a: a.reshape(n // together, together, *a.shape[1:]), particles)
        return lax.map(some, chunks).reshape(n)

    return score


def needed(success: float, num_probes: int) -> int:
    """How many of the probes must go to the target, at least 1."""
    return max(1, math.ceil(success * num_probes - 1e-6))


def threshold(oracle: Oracle, success: float, num_probes: int) -> float:
    """Where the event begins on the scale of `make_score`."""
    return float(needed(success, num_probes)) if oracle.access == "labels" else 0.0


def _together(n: int, num_probes: int) -> int:
    """How many particles are scored at once: a divisor of n that makes a good chunk.

    About 64 images on a CPU, where larger ones fall out of the cache, 4,096 elsewhere.
    """
    images = 64 if jax.default_backend() == "cpu" else 4096
    most = max(1, images // num_probes + (images % num_probes > num_probes // 2))
    return max(k for k in range(1, min(n, most) + 1) if n % k == 0)


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
    oracle = open_model(model, access)
    planted = planted_in(oracle)
    chosen, planted_patch = _target(oracle, planted, target, trigger)
    if space not in DEFAULTS:
        raise ValueError(f"unknown space {space!r}: it may be {', '.join(DEFAULTS)}.")
    settings = settings or DEFAULTS[space]
    budget = BUDGETS[space] if budget is None else budget
    if budget < 1:
        raise ValueError(f"--budget must be at least 1 image, not {budget}.")
    if not 0 < success <= 1:
        raise ValueError(f"--success must lie in (0, 1], not {success}.")
    m, n = settings.num_probes, settings.num_particles
    # What comes after the search: choosing among candidates, and confirming one.
    reserve = NUM_SELECTION * (1 + min(n, MAX_CANDIDATES)) + 2 * NUM_CONFIRMATION
    least = m * (n + 1) + reserve
    if budget < least:
        raise ValueError(
            f"--budget {budget} is too small: {n} candidates on {m} probes, then choosing and "
            f"confirming one, need at least {least} images."
        )
    trigger_space = make_space(space, oracle.image_shape, **settings.options)
    source = open_probes(probes, seed, oracle.image_shape, data_dir)
    ledger, asker = Ledger(budget), _Asker(oracle)
    feed = _ProbeFeed(source, asker, ledger, chosen)
    search_probes = feed.take(m, ledger.left - (least - m))

    goal = threshold(oracle, success, m)
    algorithm = importance_splitting(
        make_score(oracle, trigger_space, success, m),
        trigger_space.search,
        num_particles=n,
        survival=settings.survival,
        num_moves=settings.num_moves,
        threshold=goal,
        max_levels=settings.max_levels,
        max_queries=ledger.left - reserve,
        stop=stop,
        queries_per_score=m,
    )
    args = {"weights": oracle.weights, "probes": search_probes, "target": jnp.int32(chosen)}
    key = jax.random.key(seed)
    compiling = time.perf_counter()
    init = jax.jit(algorithm.init).lower(key, args).compile()
    advance = (
        jax.jit(algorithm.advance, static_argnums=2)
        .lower(jax.eval_shape(algorithm.init, key, args), args, 1)
        .compile()
    )
    compiled = time.perf_counter()

    interrupted = False
    state = jax.block_until_ready(init(key, args))
    try:
        while int(state.status) == Status.RUNNING:
            state = jax.block_until_ready(advance(state, args))
            if on_progress is not None and int(state.index) > 0:
                on_progress(_progress(state, goal, ledger))
    except KeyboardInterrupt:
        interrupted = True
    ledger.charge(count(state.num_queries))
    searched = time.perf_counter()

    choice = _choose(state, trigger_space, feed, asker, ledger, chosen, goal, search_probes)
    confirmation, num_confirmed = _confirm(choice.trigger, feed, asker, ledger, chosen)
    found = confirmation is not None and confirmation >= success - 1e-9
    result = algorithm.result(state)
    low, high = log_prob_interval(result)
    status = "interrupted" if interrupted else Status(int(state.status)).name.lower()
    reached = status == "reached"
    truth = planted_patch.trigger(oracle.image_shape) if planted_patch else None
    ended = time.perf_counter()

    test_rate, truth_rate = None, None
    if test_data is not None:
        test_rate = attack_success_rate(oracle, choice.trigger, *test_data)
        truth_rate = attack_success_rate(oracle, truth, *test_data) if truth else None
    fields = {
        "target": chosen,
        "target_name": oracle.class_names[chosen],
        "space": trigger_space.name,
        "prior": trigger_space.description,
        "protocol": "default",
        "access": oracle.access,
        "success": success,
        "stop": stop,
        "budget": budget,
        "queries": ledger.spent,
        "queries_by_stage": {
            "search": count(state.num_queries),
            "screening_and_choice": ledger.spent - count(state.num_queries) - num_confirmed,
            "confirmation": num_confirmed,
        },
        "seconds": {
            "compile": compiled - compiling,
            "run": searched - compiled,
            "total": ended - began,
        },
        "log10_prob": _log10(result.log_prob) if reached else None,
        "log10_prob_interval": None if interrupted else _interval(low, high),
        "best_score": float(jnp.max(state.scores)),
        "goal": goal,
        "probe_success_rate": choice.probe_rate,
        "selection_success_rate": choice.selection_rate,
        "confirmation_success_rate": confirmation,
        "test_success_rate": test_rate,
        "trigger_pixels": int(choice.trigger.pixels),
        "truth": compare(choice.trigger, truth, truth_rate) if truth else None,
        "seed": seed,
        "probes": source.name,
        "settings": dataclasses.asdict(settings),
        "model": oracle.name,
        "versions": versions(),
        "device": device_name(),
    }
    return Recovery(
        trigger=jax.tree.map(np.asarray, choice.trigger),
        found=found,
        status=status,
        particles=jax.tree.map(np.asarray, state.particles),
        scores=np.asarray(state.scores),
        true_trigger=truth,
        probes=np.asarray(search_probes),
        levels=_levels(state),
        fields=fields,
    )


def planted_in(oracle: Oracle) -> dict[str, PlantedPatch]:
    """The triggers that a model says were planted in it, by name."""
    patches = [PlantedPatch.from_json(fields) for fields in oracle.metadata.get("triggers", [])]
    return {patch.name: patch for patch in patches}


def attack_success_rate(
    oracle: Oracle, trigger: Trigger, images: np.ndarray, image_labels: np.ndarray
) -> float:
    """Share of images, of those whose class is not the target, that the trigger leads to it.

    Args:
      oracle: the model.
      trigger: what is stamped.
      images: uint8[N, H, W, C] or float in [0, 1].
      image_labels: int32[N].
    """
    others = images[image_labels != int(trigger.target)]
    if others.dtype == np.uint8:
        others = others.astype(np.float32) / 255.0
    asker = _Asker(oracle)
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

    height, width = mine.shape
    shifts = [(r, c) for r in range(1 - height, height) for c in range(1 - width, width)]
    # Of equally good shifts the shortest: no trigger is moved without need.
    best = max(shifts, key=lambda s: (round(overlap(*s), 9), -abs(s[0]) - abs(s[1])))
    there = _moved(mine, *best)
    same = np.all(np.abs(_moved(colour, *best) - wanted) <= 0.25, -1)
    return {
        "iou": overlap(0, 0),
        "shift": list(best),
        "iou_after_shift": overlap(*best),
        "pattern_agreement": float((there & true & same).sum() / max(1, true.sum())),
        "pixels": int(true.sum()),
        "test_success_rate": truth_rate,
    }


def _moved(array: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """The array shifted down and right; what enters is zero."""
    out = np.zeros_like(array)
    height, width = array.shape[:2]
    to_rows, to_cols = slice(max(rows, 0), height + min(rows, 0)), slice(max(cols, 0), width + min(cols, 0))  # fmt: skip
    from_rows, from_cols = slice(max(-rows, 0), height - max(rows, 0)), slice(max(-cols, 0), width - max(cols, 0))  # fmt: skip
    out[to_rows, to_cols] = array[from_rows, from_cols]
    return out


class _Asker:
    """Asks an oracle about any number of images with one compiled program."""

    def __init__(self, oracle: Oracle):
        self._oracle = oracle
        self._answer = jax.jit(lambda weights, x: labels(oracle.access, oracle.answer(weights, x)))

    def labels(self, images: Array) -> Array:
        """int32[b] for images f32[b, H, W, C]."""
        answers = []
        for first in range(0, images.shape[0], ASK_CHUNK):
            some = images[first : first + ASK_CHUNK]
            short = ASK_CHUNK - some.shape[0]
            some = jnp.pad(some, ((0, short), (0, 0), (0, 0), (0, 0)))
            answers.append(self._answer(self._oracle.weights, some)[: ASK_CHUNK - short])
        return jnp.concatenate(answers) if answers else jnp.zeros(0, jnp.int32)


class _ProbeFeed:
    """Hands out fresh probes whose unstamped prediction is not the target."""

    def __init__(self, source: ProbeSource, asker: _Asker, ledger: Ledger, target: int):
        self._source, self._asker, self._ledger, self._target = source, asker, ledger, target
        self._next = 0

    def take(self, wanted: int, most: int) -> Array:
        """f32[wanted, H, W, C], having asked about at most ``most`` images.

        Raises:
          Inconclusive: too many of them are the target already.
          DataError: the source has no more.
        """
        kept: list[Array] = []
        have, asked = 0, 0
        while have < wanted:
            more = min(wanted - have, most - asked)
            if more <= 0 or asked > 20 * wanted:
                raise Inconclusive(
                    f"only {have} of {asked} probes are not already of class {self._target} to this "
                    "model: give other --probes, or a larger --budget."
                )
            images = self._source.draw(self._next, more)
            self._ledger.charge(more)
            images = images[self._asker.labels(images) != self._target]
            self._next, asked = self._next + more, asked + more
            kept, have = [*kept, images], have + images.shape[0]
        return jnp.concatenate(kept)


class _Choice(NamedTuple):
    """The trigger chosen, and its shares on the search's probes and on the choosing ones."""

    trigger: Trigger
    probe_rate: float
    selection_rate: float | None


def _choose(
    state: SplittingState,
    space: TriggerSpace,
    feed: _ProbeFeed,
    asker: _Asker,
    ledger: Ledger,
    target: int,
    goal: float,
    search_probes: Array,
) -> _Choice:
    """Shows the best particles fresh probes; of those that do best takes the smallest."""
    scores = np.asarray(state.scores)
    order = np.argsort(-scores, kind="stable")
    hits = order[: max(1, int((scores >= goal).sum()))]
    distinct: dict[bytes, Trigger] = {}
    for index in hits:
        trigger = space.trigger(jax.tree.map(lambda a: a[index], state.particles), target)  # noqa: B023
        distinct.setdefault(np.asarray(trigger.mask * trigger.pattern).tobytes(), trigger)
    candidates = list(distinct.values())[:MAX_CANDIDATES]
    rates: list[float | None] = [None]
    if len(candidates) > 1:
        fresh = feed.take(NUM_SELECTION, ledger.left - NUM_SELECTION * len(candidates))
        rates = [_rate(trigger, fresh, asker, ledger) for trigger in candidates]
    best = min(
        range(len(candidates)), key=lambda i: (-(rates[i] or 0.0), int(candidates[i].pixels))
    )
    chosen = candidates[best]
    # The search has shown it these probes already; in process the second look is free.
    probe_rate = float(jnp.mean(asker.labels(stamp(chosen, search_probes)) == target))
    return _Choice(chosen, probe_rate, rates[best])


def _rate(trigger: Trigger, probes: Array, asker: _Asker, ledger: Ledger) -> float:
    ledger.charge(probes.shape[0])
    return float(jnp.mean(asker.labels(stamp(trigger, probes)) == trigger.target))


def _confirm(
    trigger: Trigger, feed: _ProbeFeed, asker: _Asker, ledger: Ledger, target: int
) -> tuple[float | None, int]:
    """The share of fresh probes led to the target (None: no budget), and the images it took."""
    before = ledger.spent
    wanted = min(NUM_CONFIRMATION, ledger.left // 2)
    if wanted < NUM_CONFIRMATION // 2:
        return None, 0
    probes = feed.take(wanted, ledger.left - wanted)
    return _rate(trigger, probes, asker, ledger), ledger.spent - before


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


def _progress(state: SplittingState, goal: float, ledger: Ledger) -> Progress:
    row = jax.tree.map(lambda a: np.asarray(a)[int(state.index) - 1], state.history)
    return Progress(
        level=int(state.index),
        threshold=float(row.level),
        goal=goal,
        acceptance=float(row.acceptance),
        queries=ledger.spent + count(state.num_queries),
        budget=ledger.budget,
        best=float(row.best_score),
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


def _interval(low: Any, high: Any) -> list[float | None] | None:
    """None as a lower end says: an upper bound only. None in all: no estimate was made."""
    return None if math.isnan(float(high)) else [_log10(low), _log10(high)]
