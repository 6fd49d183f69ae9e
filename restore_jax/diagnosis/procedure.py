"""Scans a model: all classes, from shared draws to a verdict and the triggers behind it."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

from restore_jax.diagnosis.deepening import Depth, deepen
from restore_jax.diagnosis.null import CALIBRATED, threshold
from restore_jax.diagnosis.pooling import Pool, compile_draws, make_pool
from restore_jax.diagnosis.types import (
    BACKDOOR,
    CLEAN,
    INCONCLUSIVE,
    Chance,
    ClassFinding,
    Scan,
    ScanProgress,
    ScanSettings,
)
from restore_jax.errors import BudgetError, Inconclusive, InputError, OutOfQueries
from restore_jax.oracles import Journal, open_model
from restore_jax.recovery import Progress, Recovery, recover
from restore_jax.recovery.aims import needs
from restore_jax.run import Run
from restore_jax.spaces import Settings, TriggerSpace, catalogue

Array = jax.Array
BUDGET_PER_SPACE = 40_000
FALSE_ALARM_RATE = 0.05
OUTSTANDING = 1.5
"""Where no clean model was measured: a suspicious class's lead over the others, in decades."""
FEW_HITS = 5
"""So many draws must have led to a class that is suspicious without splitting."""
Report = Callable[..., None]
OnScan = Callable[[ScanProgress], None] | None


def scan(
    model: Any = "shipped",
    *,
    access: str | None = None,
    space: str | Sequence[str] = "auto",
    probes: str | Path = "dead_leaves",
    budget: int | None = None,
    success: float = 0.95,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    seed: int = 0,
    data_dir: str | None = None,
    test_data: tuple[np.ndarray, np.ndarray] | None = None,
    settings: ScanSettings | None = None,
    on_progress: OnScan = None,
    journal: Journal | None = None,
) -> Scan:
    """Looks for backdoors in a model, in all of its classes.

    Random triggers are shown to one pool of probes, and each answer counts for every class. A class
    to which more of them lead than to any class of a clean model is suspicious; its trigger is
    recovered, and confirmed on fresh probes.

    Args:
      model: what `open_model` takes, or an `Oracle`.
      access: "logits", "probabilities" or "labels"; None: logits, or what an open model is asked
        for.
      space: "auto" (those of the catalogue that are scanned), a space, or several.
      probes: see `open_probes`.
      budget: images that may be sent, everything counted; None: `BUDGET_PER_SPACE` per space.
      success: share of probes that a trigger must lead to a class, in (0, 1].
      false_alarm_rate: in (0, 1): the share of clean models that may be accused, all classes and
        spaces together; see `diagnosis.null`.
      seed: of everything.
      data_dir: the TFDS folder, for probes="cifar10".
      test_data: as `recover`.
      settings: how to scan; None: the defaults.
      on_progress: called now and then.
      journal: keeps the answers of a model that is asked from the host.

    Raises:
      InputError: an argument out of range (one sentence).
      Inconclusive: the model gives nearly all probes one class.
    """
    began = time.perf_counter()
    settings = settings or ScanSettings()
    names = _spaces(space)
    if not 0 < false_alarm_rate < 1:
        raise InputError(f"`false_alarm_rate` must lie in (0, 1), not {false_alarm_rate}.")
    if not 0 < success <= 1:
        raise InputError(f"`success` must lie in (0, 1], not {success}.")
    oracle = open_model(model, access)
    allowed = len(names) * BUDGET_PER_SPACE if budget is None else budget
    least = settings.num_probes * (settings.block + 3)
    if allowed < least:
        raise BudgetError(
            f"`budget` {allowed} is too small: probes and the first random triggers need "
            f"{least} images."
        )
    run = Run(oracle, budget=allowed, probes=probes, seed=seed, data_dir=data_dir, journal=journal)
    ledger = run.ledger

    def report(text: str, milestone: bool = True) -> None:
        if on_progress is not None:
            on_progress(ScanProgress(text, milestone, ledger.spent, ledger.budget))

    report("looking for probes")
    pool = make_pool(run, settings.num_probes)
    key = jax.random.key(seed)
    stages = {"screening": ledger.spent, "draws": 0, "splitting": 0, "recovery": 0}
    looks: dict[str, _Look] = {}
    interrupted = cut_short = False
    recovered = dict[int, Recovery]()
    shared = {
        "probes": probes, "success": success, "seed": seed, "data_dir": data_dir,
        "test_data": test_data,
    }  # fmt: skip
    suspicious: dict[int, list[str]] = {}
    before = ledger.spent
    try:
        for number, name in enumerate(names):
            here = catalogue.find(name).make(oracle.image_shape, **_options(settings, name))
            bound = settings.thresholds.get(
                name,
                threshold(here.description, false_alarm_rate, len(names), oracle.num_classes),
            )
            share = ledger.left // (len(names) - number)
            looks[name] = _look(
                run,
                here,
                pool,
                success,
                bound,
                settings,
                jax.random.fold_in(key, number),
                share,
                report,
            )
            stages["draws"] += looks[name].drawing
            stages["splitting"] += looks[name].spent - looks[name].drawing
        suspicious = _suspicious(looks)
        before = ledger.spent
        for number, (target, spaces) in enumerate(suspicious.items()):
            share = ledger.left // (len(suspicious) - number)
            how = {
                name: dataclasses.replace(
                    catalogue.find(name).settings_for("first_hit"), options=_options(settings, name)
                )
                for name in spaces
            }
            recovery = _recovered(run, target, how, share, shared, report)
            if recovery is not None:
                recovered[target] = recovery
                if recovery.status == "interrupted":
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        interrupted, suspicious = True, _suspicious(looks)
    except OutOfQueries:  # images had to be sent again
        cut_short, suspicious = True, _suspicious(looks)
    stages["recovery"] = ledger.spent - before
    classes = [
        ClassFinding(
            target=target,
            name=oracle.class_names[target],
            suspicious=target in suspicious,
            chances={name: look.chances[target] for name, look in looks.items()
                     if target in look.chances},
            recovery=recovered.get(target),
        )
        for target in range(oracle.num_classes)
    ]  # fmt: skip
    verdict = INCONCLUSIVE if suspicious or interrupted or cut_short else CLEAN
    if any(finding.confirmed for finding in classes):
        verdict = BACKDOOR
    return Scan(
        verdict=verdict,
        interrupted=interrupted,
        classes=classes,
        fields={
            "false_alarm_rate": false_alarm_rate,
            "calibrated": not settings.thresholds
            and run.source.name == CALIBRATED.probes
            and (success, settings.num_probes) == (CALIBRATED.success, CALIBRATED.num_probes)
            and oracle.image_shape == CALIBRATED.image_shape
            and all(look.threshold is not None for look in looks.values()),
            "access": oracle.access,
            "success": success,
            "spaces": {
                name: {
                    "threshold_log10_prob": look.threshold,
                    "queries": look.spent,
                    "prior": look.prior,
                }
                for name, look in looks.items()
            },
            "budget": ledger.budget,
            "queries": ledger.spent,
            "queries_by_stage": stages,
            "seconds": {"total": time.perf_counter() - began},
            "classes_not_judged": [k for k in range(oracle.num_classes) if not pool.valid[k].any()],
            "settings": dataclasses.asdict(settings),
            **_provenance(run),
        },
    )


class _Look(NamedTuple):
    """What one space says: the chances by class, the images spent, and those of them on draws."""

    prior: dict[str, Any]
    threshold: float | None
    chances: dict[int, Chance]
    spent: int
    drawing: int


def _spaces(space: str | Sequence[str]) -> list[str]:
    names = (
        catalogue.scanned()
        if space == "auto"
        else [space]
        if isinstance(space, str)
        else list(space)
    )
    unknown = [name for name in names if name not in catalogue.SPACES]
    if unknown or not names or len(set(names)) < len(names):
        raise InputError(
            f"unknown spaces {', '.join(map(str, names))}: they may be auto, or some of "
            f"{', '.join(catalogue.SPACES)}, each once."
        )
    return names


def _options(settings: ScanSettings, name: str) -> dict[str, Any]:
    return settings.options.get(name, catalogue.find(name).scan_options())


def _look(
    run: Run,
    space: TriggerSpace,
    pool: Pool,
    success: float,
    bound: float | None,
    settings: ScanSettings,
    key: Array,
    share: int,
    report: Report,
) -> _Look:
    """One space: random draws for all classes, then splitting for those they do not settle."""
    oracle, ledger = run.model, run.ledger
    judged = pool.valid.sum(1) > 0
    hits, best = np.zeros(oracle.num_classes, int), np.zeros(oracle.num_classes)
    drawn = np.zeros(oracle.num_classes, int)
    block, started = settings.block, ledger.spent
    draws = compile_draws(run, space, pool, success, block)
    watched = judged.copy()
    for number in range(-(-settings.num_draws // block)):
        dearest = block * pool.probes.shape[0]
        if not watched.any() or ledger.spent - started + dearest > share:
            break
        found = draws(jax.random.fold_in(key, number), watched)
        hits += np.asarray(found.hits).sum(0)
        drawn += block * watched
        best = np.maximum(best, np.sort(np.asarray(found.led), 0)[-10:].mean(0))
        watched = watched & (hits < settings.enough_hits)
        report(f"{space.name}: {int(drawn.max()):,} random triggers", False)
    led_to = int((hits > 0).sum())
    report(f"{space.name}: {int(drawn.max()):,} random triggers, {led_to} classes led to")
    spent = ledger.spent - started
    chances = {
        int(t): _by_draws(int(hits[t]), int(drawn[t]), bound)
        for t in np.flatnonzero(judged & (drawn > 0))
    }
    # Where a class at the threshold would have been led to, one that was not is left alone.
    blind = bound is not None and settings.num_draws * 10.0**bound < 1.0
    undecided = [
        t for t, chance in chances.items()
        if bound is not None and chance.hits < FEW_HITS and chance.interval[1] > bound
        and (chance.hits > 0 or blind)
    ]  # fmt: skip
    undecided.sort(key=lambda t: -best[t])
    if undecided and settings.num_deepened:
        deep = deepen(
            run,
            space,
            pool,
            success,
            undecided[: settings.num_deepened],
            Settings(
                num_probes=settings.num_probes,
                num_particles=settings.num_particles,
                max_levels=settings.max_levels,
            ),
            jax.random.fold_in(key, settings.num_draws),
            max(0, share - spent),
            report,
        )
        for t, depth in deep.items():
            chances[t] = _by_splitting(chances[t], depth, bound)
    return _Look(space.description, bound, chances, ledger.spent - started, spent)


def _by_draws(hits: int, draws: int, bound: float | None) -> Chance:
    """The share that hit, with the interval of Clopper and Pearson (Biometrika 1934)."""
    high = float(np.log10(stats.beta.ppf(0.975, hits + 1, max(draws - hits, 1e-9))))
    if hits == 0:
        high = float(np.log10(1.0 - 0.05 ** (1.0 / draws)))
        return Chance(None, (None, high), 0, draws, "draws", _excess(high, bound))
    low = float(np.log10(stats.beta.ppf(0.025, hits, draws - hits + 1)))
    estimate = float(np.log10(hits / draws))
    return Chance(estimate, (low, min(high, 0.0)), hits, draws, "draws", _excess(estimate, bound))


def _by_splitting(chance: Chance, depth: Depth, bound: float | None) -> Chance:
    """The better of the two: an estimate by splitting, or the lower bound."""
    if depth.log10_prob is None and (chance.hits or depth.interval[1] >= chance.interval[1]):
        return chance
    value = depth.interval[1] if depth.log10_prob is None else depth.log10_prob
    return chance._replace(
        log10_prob=depth.log10_prob,
        interval=depth.interval,
        method="splitting",
        excess=_excess(value, bound),
    )


def _excess(value: float, bound: float | None) -> float | None:
    return None if bound is None else value - bound


def _suspicious(looks: dict[str, _Look]) -> dict[int, list[str]]:
    """The suspicious classes, and the spaces that say so, the clearest first."""
    found: dict[int, dict[str, float]] = {}
    for name, look in looks.items():
        for target, chance in look.chances.items():
            if chance.log10_prob is None:
                continue
            lead = chance.excess
            if lead is None:
                lead = chance.log10_prob - _typical(look, target) - OUTSTANDING
            if lead >= 0 and (chance.hits >= FEW_HITS or chance.method == "splitting"):
                found.setdefault(target, {})[name] = lead
    return {
        target: sorted(spaces, key=lambda name: -spaces[name])
        for target, spaces in sorted(found.items())
    }


def _typical(look: _Look, target: int) -> float:
    """The median of the other classes' log10 probabilities, a bound where there is no estimate."""
    others = [
        chance.interval[1] if chance.log10_prob is None else chance.log10_prob
        for other, chance in look.chances.items()
        if other != target
    ]
    return float(np.median(others)) if others else 0.0


def _recovered(
    run: Run,
    target: int,
    how: dict[str, Settings],
    share: int,
    shared: dict[str, Any],
    report: Report,
) -> Recovery | None:
    """The trigger of a class, in the first space of those that made it suspicious where one is."""
    closest: Recovery | None = None
    oracle, ledger = run.model, run.ledger
    end = ledger.spent + share
    for name, settings in how.items():
        report(f"recovering the trigger of {oracle.class_names[target]} ({name})")

        def on_level(step: Progress) -> None:
            report(f"{oracle.class_names[target]}: level {step.level}, best {step.best:.3g}", False)

        budget = min(end - ledger.spent, catalogue.find(name).budget)
        if budget < needs(oracle, settings)[1]:
            continue  # what is left does not pay for it
        try:
            attempt = recover(
                oracle, target, space=name, stop="first_hit", budget=budget, settings=settings,
                on_progress=on_level, within=run, **shared,
            )  # fmt: skip
        except (Inconclusive, OutOfQueries):
            continue  # the probes do not allow it, or images had to be sent again
        if closest is None or attempt.found or _rate(attempt) > _rate(closest):
            closest = attempt
        if attempt.found or attempt.status == "interrupted":
            break
    return closest


def _rate(recovery: Recovery) -> float:
    return recovery.probe_success_rate or 0.0


def _provenance(run: Run) -> dict[str, Any]:
    found, asking = run.provenance(), run.model.account(run.ledger)
    content = {
        "seed": found.seed, "probes": found.probes, "model": found.model,
        "versions": found.versions, "device": found.device,
    }  # fmt: skip
    if found.model_options or asking is not None:
        content["model_options"] = found.model_options
    return content if asking is None else content | {"asking": asking}
