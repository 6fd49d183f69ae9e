"""Recovers the trigger of one class: search, choose, prune, confirm."""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import Trigger, stamp
from restore_jax.environment import device_name, versions
from restore_jax.oracles import Ledger, ModelError, Oracle, OutOfQueries, account, open_model
from restore_jax.recovery.choosing import (
    MAX_CANDIDATES,
    NUM_CONFIRMATION,
    Candidate,
    candidates,
    confirm,
    inclusion,
    leads,
    robust,
    smallest,
)
from restore_jax.recovery.guides import guides
from restore_jax.recovery.probability import finite, log10, log10_interval
from restore_jax.recovery.pruning import prune
from restore_jax.recovery.question import Question, ask
from restore_jax.recovery.search import OnProgress, compile_search, search, strengthen
from restore_jax.recovery.truth import attack_success_rate, compare
from restore_jax.recovery.types import AUTO, BUDGETS, DEFAULTS, Recovery, Settings, settings_for
from restore_jax.scoring import whole_legs
from restore_jax.spaces import make_space
from restore_jax.splitting import (
    SplittingState,
    Status,
    count,
    counting,
)

Array = jax.Array
MAX_PRUNING = 2_000
"""Images that pruning may send, if the budget has them."""
MORE_DRAWS = 6
"""How often a search for a first hit draws again, if what it drew first works but just about."""
LESS = 0.75
"""Moves towards a trigger that works faded aim at this share of the fading."""


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
    first: Any = None,
    on_progress: OnProgress = None,
    payer: Ledger | None = None,
) -> Recovery:
    """Searches for a trigger that leads to a class, and confirms it on fresh probes.

    Args:
      model: what `open_model` takes, or an `Oracle`.
      target: the class, by name or number. May be left out if ``trigger`` is given.
      trigger: the name of a trigger that the model says was planted in it: the search is
        for its class, and the result is compared with it.
      access: "logits", "probabilities" or "labels".
      space: one of `SPACES`, or "auto": `AUTO` in turn, until one finds something.
      probes: "dead_leaves", "shapes", "cifar10", a folder or an .npz; see `open_probes`.
      budget: images that may be sent, everything counted; None: the space's own.
      success: share of probes that a trigger must lead to the target, in (0, 1].
      stop: "estimate" (the probability is estimated) or "first_hit" (cheaper, no estimate).
      seed: of everything.
      data_dir: the TFDS folder, for probes="cifar10".
      test_data: images uint8[N, H, W, C] and labels int32[N] on which to measure the
        attack success rate, outside the budget; over images whose class is not the target.
      settings: how to search; None: the space's own.
      first: particles of the same space, the best first, to begin with in place of random ones,
        with ``stop="first_hit"`` only: a probability could not be estimated then.
      on_progress: called after each level.
      payer: a ledger that books all of it as well; see `Ledger`.

    Raises:
      ValueError: an argument out of range (one sentence).
      Inconclusive: the model sends nearly all probes to the target without any trigger.
    """
    began = time.perf_counter()
    named = {
        "trigger": trigger, "access": access, "probes": probes, "success": success, "stop": stop,
        "seed": seed, "data_dir": data_dir, "test_data": test_data, "settings": settings,
        "on_progress": on_progress,
    }  # fmt: skip
    if first is not None and (stop != "first_hit" or space == "auto"):
        raise ValueError('first goes with stop="first_hit" and one space.')
    if space == "auto":
        return _try_spaces(open_model(model, access), target, budget, named)
    if space not in DEFAULTS:
        raise ValueError(f"unknown space {space!r}: it may be auto, {', '.join(DEFAULTS)}.")
    settings = settings or settings_for(space, stop)
    m, n = settings.num_probes, settings.num_particles
    oracle = open_model(model, access)
    # What comes after the search: telling candidates apart, and confirming one.
    reserve = m * min(n, MAX_CANDIDATES) + 2 * NUM_CONFIRMATION
    if oracle.foreign:
        reserve += m  # a last look at the search's own probes is not free
    least = m * (n + 1) + reserve
    question = ask(
        oracle,
        target,
        trigger=trigger,
        access=access,
        probes=probes,
        budget=BUDGETS[space] if budget is None else budget,
        least=least,
        success=success,
        seed=seed,
        data_dir=data_dir,
        payer=payer,
    )
    ledger = question.ledger
    trigger_space = make_space(space, oracle.image_shape, **settings.options)
    search_probes = question.feed.take(m, ledger.left - (least - m))
    stages = {"screening": ledger.spent}
    key = jax.random.key(seed)
    how = (question, trigger_space, settings, search_probes)
    since = ledger.spent
    searcher = compile_search(*how, None, stop=stop, max_queries=ledger.left - reserve, key=key)
    compile_seconds, begun = searcher.seconds, time.perf_counter()
    before = ledger.spent

    def first_state() -> SplittingState:
        if first is None:
            return searcher.init(key, searcher.args)
        rows = np.arange(n) % jax.tree.leaves(first)[0].shape[0]
        particles = jax.tree.map(lambda leaf: leaf[rows], first)
        return searcher.begin(key, particles, searcher.args)

    state = first_state()
    number = whole_legs(settings.num_guides, m)
    most = ledger.left - reserve - n * (m + number)
    if oracle.access == "labels" and float(state.scores.max()) <= 0 and number:
        # Nobody leads any probe: labels say nothing yet.
        found_guides = guides(search_probes, number, most, question)
        if found_guides is not None:
            left, since = ledger.left - reserve, ledger.spent
            guided = compile_search(*how, found_guides, stop=stop, max_queries=left, key=key)
            compile_seconds += guided.seconds
            begun += guided.seconds
            searcher = guided
            state = first_state()
    state, interrupted = search(searcher, state, ledger, on_progress)
    stages["search"] = ledger.spent - before
    result = searcher.algorithm.result(state)
    run_seconds = time.perf_counter() - begun

    before, latest = ledger.spent, state
    some = (trigger_space, question.target, searcher.goal)
    found = candidates(state.particles, state.scores, *some)
    past = [c for c in found if c.score >= searcher.goal][:MAX_CANDIDATES]
    chosen, faded_rate = found[0], None
    # The budget may end here only if images had to be sent again.
    with contextlib.suppress(OutOfQueries):
        if past and not interrupted:
            margins = leads([c.trigger for c in past], search_probes, settings.fade, question)
            again = 0
            drawing = stop == "first_hit" and first is None
            while drawing and int(state.index) == 0 and again < MORE_DRAWS:
                # A random draw often has the event: another is cheaper than a better one by moves.
                # Draws without a hit among them are scored twice: racing, and then whole.
                if robust(margins, success) or ledger.left - reserve < 2 * n * m:
                    break
                again += 1
                more = searcher.init(jax.random.fold_in(key, again), searcher.args)
                fresh = candidates(more.particles, more.scores, *some)
                fresh = [c for c in fresh if c.score >= searcher.goal][: MAX_CANDIDATES - len(past)]
                if fresh:
                    led = leads([c.trigger for c in fresh], search_probes, settings.fade, question)
                    past, margins = [*past, *fresh], np.concatenate([margins, led])
                if len(past) == MAX_CANDIDATES:
                    break
            chosen = smallest(past, margins)
            faded_rate = float((margins >= 0).mean(-1).max())
            if not robust(margins, success) and ledger.left - reserve > 0:
                latest, interrupted, chosen = _strengthened(
                    searcher, state, past, chosen, settings, question, on_progress, some, since
                )
    stages["choice"] = ledger.spent - before
    before = ledger.spent
    trigger_chosen = chosen.trigger
    if past and not interrupted:
        most = min(MAX_PRUNING, ledger.left - 2 * NUM_CONFIRMATION)
        with contextlib.suppress(OutOfQueries):
            trigger_chosen = prune(chosen.trigger, search_probes, settings.fade, most, question)
    stages["pruning"] = ledger.spent - before
    status = "interrupted" if interrupted else Status(int(state.status)).name.lower()
    return conclude(
        question,
        trigger_chosen,
        status=status,
        particles=latest.particles,
        scores=latest.scores,
        search_probes=search_probes,
        inclusion=inclusion(past, oracle.image_shape),
        levels=_levels(state),
        seconds={"compile": compile_seconds, "run": run_seconds},
        began=began,
        stages=stages,
        test_data=test_data,
        fields={
            "space": trigger_space.name,
            "prior": trigger_space.description,
            "protocol": "default",
            "stop": stop,
            "log10_prob": log10(result.log_prob) if status == "reached" else None,
            "log10_prob_interval": None if interrupted else log10_interval(state, result),
            "best_score": finite(jnp.max(state.scores)),
            "goal": searcher.goal,
            "guides": searcher.args["probes"].shape[0] - m,
            "faded_success_rate": faded_rate,
            "pixels_before_pruning": int(chosen.trigger.pixels),
            "settings": dataclasses.asdict(settings),
        },
    )


def _try_spaces(
    oracle: Oracle, target: str | int | None, budget: int | None, named: dict[str, Any]
) -> Recovery:
    """One recovery per space of `AUTO` until one finds something, within one budget."""
    whole = sum(BUDGETS[space] for space in AUTO) if budget is None else budget
    if whole < 1:
        raise ValueError(f"--budget must be at least 1 image, not {whole}.")
    ledger = Ledger(whole, spent=oracle.asked)
    tried, stages = [], dict[str, int]()
    recovery: Recovery | None = None
    for space in AUTO:
        try:
            # The first space says what is wrong with the arguments, if anything is.
            most = min(ledger.left, BUDGETS[space])
            attempt = recover(oracle, target, space=space, budget=most, payer=ledger, **named)
        except ModelError:
            raise
        except ValueError:
            if recovery is None:
                raise
            break  # what is left does not pay for another space
        for stage, images in attempt.fields["queries_by_stage"].items():
            stages[stage] = stages.get(stage, 0) + images
        keep = ("space", "queries", "log10_prob", "log10_prob_interval", "probe_success_rate")
        tried.append({k: attempt.fields[k] for k in keep} | {"found": attempt.found})
        closest = recovery is None or (
            (attempt.fields["probe_success_rate"] or 0.0)
            > (recovery.fields["probe_success_rate"] or 0.0)
        )
        if attempt.found or attempt.status == "interrupted" or closest:
            recovery = attempt
        if attempt.found or attempt.status == "interrupted":
            break
    assert recovery is not None
    spent = {"queries": ledger.spent, "budget": whole, "queries_by_stage": stages}
    spent |= account(oracle, ledger)
    spent["spaces_tried"] = tried
    return dataclasses.replace(recovery, fields=recovery.fields | spent)


def _strengthened(
    searcher: Any,
    state: SplittingState,
    past: list[Candidate],
    chosen: Candidate,
    settings: Settings,
    question: Question,
    on_progress: OnProgress,
    some: Any,
    since: int,
) -> tuple[SplittingState, bool, Candidate]:
    """`search.strengthen`, booked, and the smallest trigger that now works, or else the closest.

    ``chosen`` is what is given back where the closest does less than that did.
    """
    fade = LESS * settings.fade
    probes = searcher.args["probes"][-settings.num_probes :]
    margins = leads([candidate.trigger for candidate in past], probes, fade, question)
    # What was sent besides the search counts against its budget, too.
    before = question.ledger.spent - since
    state = dataclasses.replace(state, num_queries=counting.halves(before))
    latest, interrupted = strengthen(
        searcher,
        state,
        [candidate.particle for candidate in past],
        margins,
        question.success,
        fade,
        settings.refine_levels,
        question.ledger,
        on_progress,
    )
    stronger = candidates(latest.particles, latest.scores, *some)
    best = min(stronger, key=lambda c: int(c.trigger.pixels))
    if best.score < searcher.goal:
        # None works so faded. The closest to that may not even work unfaded, as those before did.
        paid = question.ledger.left >= probes.shape[0]
        if not (paid and robust(leads([best.trigger], probes, 0.0, question), question.success)):
            best = chosen
    return latest, interrupted, best


def conclude(
    question: Question,
    trigger: Trigger,
    *,
    status: str,
    particles: Any,
    scores: Array,
    search_probes: Array,
    inclusion: np.ndarray | None = None,
    levels: list[dict[str, Any]],
    seconds: dict[str, float],
    began: float,
    stages: dict[str, int],
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
      inclusion: f32[H, W]; None: of the chosen trigger alone.
      stages: images sent so far, by stage.
      test_data: see `recover`.
      fields: what else is written.
    """
    oracle, ledger, asker = question.oracle, question.ledger, question.asker
    before = ledger.spent
    truth = question.planted.trigger(oracle.image_shape) if question.planted else None
    confirmation, test_rate, truth_rate = None, None, None
    seconds = dict(seconds)
    try:
        confirmation = confirm(trigger, question)
        seconds["total"] = time.perf_counter() - began
        if test_data is not None and status != "interrupted":
            images = int(np.sum(test_data[1] != question.target))
            if not oracle.foreign or ledger.left >= images:
                ledger.charge(images if oracle.foreign else 0)
                test_rate = attack_success_rate(oracle, trigger, *test_data, asker=asker)
            if truth is not None:
                truth_rate = attack_success_rate(oracle, truth, *test_data, asker=asker)
    except KeyboardInterrupt:
        status = "interrupted"
    except OutOfQueries:  # images had to be sent again
        status = Status.OUT_OF_QUERIES.name.lower()
    seconds.setdefault("total", time.perf_counter() - began)
    found = confirmation is not None and confirmation >= question.success - 1e-9
    on_search = None
    # In process this second look at the search's own probes is free.
    if not oracle.foreign or ledger.left >= len(search_probes):
        ledger.charge(len(search_probes) if oracle.foreign else 0)
        hits = asker.labels(stamp(trigger, search_probes)) == question.target
        on_search = float(jnp.mean(hits))
    return Recovery(
        trigger=jax.tree.map(np.asarray, trigger),
        found=found,
        status=status,
        particles=jax.tree.map(np.asarray, particles),
        scores=np.asarray(scores),
        true_trigger=truth,
        probes=np.asarray(search_probes),
        inclusion=(np.asarray(trigger.mask)[..., 0] > 0 if inclusion is None else inclusion).astype(
            np.float32
        ),
        levels=levels,
        fields={
            "target": question.target,
            "target_name": oracle.class_names[question.target],
            "access": oracle.access,
            "success": question.success,
            "budget": ledger.budget,
            "queries": ledger.spent,
            "queries_by_stage": stages | {"confirmation": ledger.spent - before},
            "seconds": seconds,
            "probe_success_rate": on_search,
            "confirmation_success_rate": confirmation,
            "test_success_rate": test_rate,
            "trigger_pixels": int(trigger.pixels),
            "truth": compare(trigger, truth, truth_rate) if truth else None,
            "seed": question.seed,
            "probes": question.probes,
            "model": oracle.name,
            **account(oracle, ledger),
            "versions": versions(),
            "device": device_name(),
            **fields,
        },
    )


def _levels(state: SplittingState) -> list[dict[str, Any]]:
    history = jax.tree.map(np.asarray, state.history)
    return [
        {
            "level": finite(history.level[i]),
            "survival": finite(history.survival[i]),
            "log10_prob": log10(history.log_prob[i]),
            "acceptance": finite(history.acceptance[i]),
            "best_score": finite(history.best_score[i]),
            "unique_ancestors": int(history.unique_ancestors[i]),
            "queries": count(history.num_queries[i]),
        }
        for i in range(int(state.index))
    ]
