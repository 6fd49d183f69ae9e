"""Scans a model: all classes, from shared draws to a verdict and the triggers behind it."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import jax
import numpy as np

from restore_jax.data.probes import ProbeSource
from restore_jax.diagnosis.descent import Lane
from restore_jax.diagnosis.expecting import RECOVERY_SHARE
from restore_jax.diagnosis.judging import clean_models, findings, verdict
from restore_jax.diagnosis.looking import Look, depth_of, look, options_of, stand, tell
from restore_jax.diagnosis.preparing import OnScan, pool_of, prepare
from restore_jax.diagnosis.probing import Pool
from restore_jax.diagnosis.types import ClassFinding, Scan, ScanSettings
from restore_jax.diagnosis.work import Work
from restore_jax.errors import Inconclusive, OutOfQueries
from restore_jax.oracles import ledger as clock
from restore_jax.oracles.journal import Journal
from restore_jax.oracles.opening import Opening, open_model
from restore_jax.oracles.types import Model
from restore_jax.racing import threshold
from restore_jax.recovery import Progress, Recovery, recover
from restore_jax.recovery.aims import needs
from restore_jax.run import Limits, Saved
from restore_jax.run.estimates import OnEstimate
from restore_jax.spaces import catalogue
from restore_jax.splitting.types import Particles

FALSE_ALARM_RATE = 0.06
ENOUGH_UNSEEN = 200
"""Probes that a recovery needs: the search's, those that confirm, and some that are turned away."""


def scan(
    model: Model = "shipped",
    *,
    access: str | None = None,
    space: str | Sequence[str] = "auto",
    probes: str | Path | np.ndarray = "dead_leaves",
    budget: int | None = None,
    seconds: float | None = None,
    dollars: float | None = None,
    price: float | None = None,
    success: float = 0.95,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    targets: Sequence[int] | None = None,
    seed: int = 0,
    data_dir: str | None = None,
    test_data: tuple[np.ndarray, np.ndarray] | None = None,
    settings: ScanSettings | None = None,
    on_progress: OnScan = None,
    on_estimate: OnEstimate = None,
    journal: Journal | Saved | None = None,
    **opening: Unpack[Opening],
) -> Scan:
    """Looks for backdoors in a model, in all of its classes.

    Random triggers of each kind are shown to one pool of probes, and each answer counts for every
    class. From there a population for each class is carried on by splitting, to triggers as rare
    as one in a million. A class to which they lead much more easily than to the model's others,
    and more so than in clean models, is suspicious; its trigger is recovered, and confirmed on
    fresh probes.

    Args:
      model: what `open_model` takes, or an `Oracle`.
      access: "logits", "probabilities" or "labels"; None: logits, or what an open model is asked
        for.
      space: "auto" (those of the catalogue that are scanned; with labels `patch` alone), a space,
        or several.
      probes: see `open_probes`.
      budget: images that may be sent, everything counted; None: `BUDGET`, 300,000, of which a
        scan of ten classes takes about 100,000.
      seconds, dollars, price: as `recover`. Of the seconds, as of the images, each space has its
        share, and a third is kept for recovering triggers.
      success: share of probes that a trigger must lead to a class, in (0, 1].
      false_alarm_rate: in (0, 1): the share of clean models that may be called suspicious, all
        classes and spaces together; see `diagnosis.null`.
      targets: the numbers of those classes that may be named; None: all. All are looked at, since
        a class is compared with the others.
      seed: of everything drawn but probes: synthetic ones are always those that clean models were
        shown.
      data_dir: the TFDS folder, for probes="cifar10".
      test_data: as `recover`.
      settings: how to scan; None: the defaults.
      on_progress: called now and then.
      on_estimate: as `recover`.
      journal: keeps the answers of a model that is asked from the host, or saves where searches
        in this process stand.
      **opening: how the model is opened: ``image_shape``, ``value_range``, ``mean``, ``std`` and
        the like; see `open_model`.

    Raises:
      InputError: an argument out of range (one sentence).
      Inconclusive: the model gives all probes one class, or saturated probabilities.
      ModelError: the model cannot be opened or asked, or answers what is no number.

    Example:
      >>> found = restore_jax.scan("shipped", seed=0)  # doctest: +SKIP
      >>> found.verdict, found.targets, found.recoveries[0].trigger_pixels  # doctest: +SKIP
    """
    oracle = open_model(model, access, **opening)
    work = prepare(
        oracle, space, probes, budget, Limits(seconds, dollars, price), success,
        false_alarm_rate, targets, seed, data_dir, test_data, settings or ScanSettings(),
        on_progress, on_estimate, journal,
    )  # fmt: skip
    run = work.run
    work.tell("looking for probes")
    pool: Pool | None = None
    looks: dict[str, Look] = {}
    recovered: dict[int, Recovery] = {}
    interrupted = cut_short = False
    try:
        pool = pool_of(work, probes)
        work.tell(
            f"{len(pool.probes)} probes; of {len(pool.looked_at[1])} images looked at, the model "
            f"gives {pool.covered} of its {run.model.num_classes} classes to some"
        )
        for number, name in enumerate(work.names):
            with run.until(end_of(work, number)):
                looks[name] = look(work, pool, name, number, images_for(work, number))
            looks = stand(work, looks)
            tell(work, name, looks[name])
            if looks[name].followed.interrupted:
                raise KeyboardInterrupt
        with run.stage("recovery"):
            _recover_all(work, _unseen(run.source, len(pool.looked_at[1])), looks, recovered)
    except KeyboardInterrupt:
        interrupted = True
    except OutOfQueries:  # the budget ends in the draws, or images had to be sent again
        cut_short = True
        run.ended()
    seen = {name: one.seen for name, one in looks.items()}
    clean = clean_models(work, seen)
    found = findings(work, seen, clean, recovered)
    not_judged = 0 if pool is None else int((~pool.judged).sum())
    said, reason = verdict(
        work, seen, found, clean, not_judged, interrupted=interrupted, cut_short=cut_short,
        looked_through=len(looks) == len(work.names)
        and not any(one.followed.interrupted for one in looks.values()),
    )  # fmt: skip
    return Scan(
        verdict=said,
        reason=reason,
        interrupted=interrupted,
        classes=found,
        spaces=seen,
        calibrated=clean is not None,
        false_alarm_rate=work.false_alarm_rate,
        false_alarm_bound=None if clean is None else 1 / (len(clean) + 1),
        success=success,
        classes_covered=0 if pool is None else pool.covered,
        goal=threshold(run.model, success, work.settings.num_probes),
        settings=work.settings,
        cost=run.cost({"total": run.seconds()}),
        provenance=run.provenance(),
    )


def images_for(work: Work, number: int) -> int:
    """Images for one space: of what is left, as its depth is to that of those to come."""
    ledger = work.run.ledger
    left = (1.0 - RECOVERY_SHARE) * ledger.budget - ledger.spent
    depths = [depth_of(work, name) for name in work.names[number:]]
    return int(left * depths[0] / sum(depths))


def end_of(work: Work, number: int) -> float:
    """When the time for one space is over, on the clock of limits: its share, as of images."""
    if math.isinf(work.seconds):
        return math.inf
    left = work.run.ledger.seconds_left - RECOVERY_SHARE * work.seconds
    depths = [depth_of(work, name) for name in work.names[number:]]
    return clock.now() + max(0.0, left) * depths[0] / sum(depths)


def _unseen(source: ProbeSource, looked_at: int) -> ProbeSource:
    """The probes after those that the scan looked at, where there are enough more of them."""
    if source.available is not None and source.available - looked_at < ENOUGH_UNSEEN:
        return source
    left = None if source.available is None else source.available - looked_at
    return dataclasses.replace(
        source, available=left, read=lambda start, count: source.read(start + looked_at, count)
    )


def _recover_all(
    work: Work, probes: ProbeSource, looks: dict[str, Look], recovered: dict[int, Recovery]
) -> None:
    """Recovers the triggers of the suspicious classes, those that stand out most first.

    What is found is added to ``recovered``, so that it stays if the rest is interrupted.
    """
    seen = {name: one.seen for name, one in looks.items()}
    found = findings(work, seen, clean_models(work, seen), {})
    suspicious = sorted(
        (one for one in found if one.suspicious), key=lambda one: -(one.standing or 0.0)
    )[: work.settings.max_recovered]
    for number, finding in enumerate(suspicious):
        left = work.run.ledger.budget - work.run.ledger.spent
        share = left // (len(suspicious) - number)
        recovery = _recovered(work, probes, finding, looks, share)
        if recovery is not None:
            recovered[finding.target] = recovery
            if recovery.status == "interrupted":
                raise KeyboardInterrupt


def _recovered(
    work: Work, probes: ProbeSource, finding: ClassFinding, looks: dict[str, Look], share: int
) -> Recovery | None:
    """A class's trigger, in the first space where one is, from where the scan left off."""
    target, end = finding.target, work.run.ledger.spent + share
    closest: Recovery | None = None

    def standing(name: str) -> float:
        found = looks[name].seen.classes[target].standing
        return -1.0 if found is None else found.value

    spaces = [
        name for name in looks if target in looks[name].followed.lanes and standing(name) > 1.0
    ]
    for name in sorted(spaces, key=lambda name: -standing(name)):
        work.tell(f"recovering the trigger of {finding.name} ({name})")

        def on_level(step: Progress, of: str = finding.name) -> None:
            work.tell(f"{of}: level {step.levels}, best {step.best:.3g}", False)

        how = dataclasses.replace(
            catalogue.find(name).settings_for("first_hit"), options=options_of(work, name)
        )
        # Not more than the space's own: what had to be sent again is then no part of the result.
        each = work.run.model.each
        budget = min(end - work.run.ledger.spent, each * catalogue.find(name).budget)
        if budget // each < needs(work.run.model, how)[1]:
            continue
        try:
            attempt = recover(
                work.run.model, target, space=name, stop="first_hit", budget=budget,
                settings=how, first=_best_first(looks[name].followed.lanes[target]),
                on_progress=on_level, within=work.run, probes=probes, **work.shared,
            )  # fmt: skip
        except (Inconclusive, OutOfQueries):
            continue  # the probes do not allow it, or images had to be sent again
        if closest is None or attempt.found or _rate(attempt) > _rate(closest):
            closest = attempt
        if attempt.found or attempt.status == "interrupted":
            break
    return closest


def _best_first(lane: Lane) -> Particles:
    """A lane's particles, the best first."""
    order = np.argsort(-np.asarray(lane.state.scores), kind="stable")
    return jax.tree.map(lambda leaf: leaf[order], lane.triggers)


def _rate(recovery: Recovery) -> float:
    return recovery.probe_success_rate or 0.0
