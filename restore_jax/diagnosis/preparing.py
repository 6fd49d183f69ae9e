"""A scan's means, made ready and checked."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from restore_jax.data.probes import ImageShape, ProbeSource, open_probes
from restore_jax.diagnosis.expecting import expected
from restore_jax.diagnosis.null import PROBES_SEED, Conditions, was_measured
from restore_jax.diagnosis.probing import Pool, make_pool
from restore_jax.diagnosis.types import OTHER_DEPTH, ScanProgress, ScanSettings, depths_by
from restore_jax.diagnosis.work import Work
from restore_jax.errors import BudgetError, InputError
from restore_jax.oracles.journal import Journal
from restore_jax.oracles.types import Oracle
from restore_jax.recovery.aims import checked_success
from restore_jax.run import Limits, Run, Saved
from restore_jax.run.estimates import OnEstimate, announce
from restore_jax.spaces import catalogue

BUDGET = 300_000
LABELS_BUDGET = 400_000
SYNTHETIC = ("dead_leaves", "shapes")
"""The words for probes that the package draws."""
Probes = str | Path | np.ndarray
OnScan = Callable[[ScanProgress], None] | None


def prepare(
    oracle: Oracle,
    space: str | Sequence[str],
    probes: Probes,
    budget: int | None,
    limits: Limits,
    success: float,
    false_alarm_rate: float,
    targets: Sequence[int] | None,
    seed: int,
    data_dir: str | None,
    test_data: tuple[np.ndarray, np.ndarray] | None,
    settings: ScanSettings,
    on_progress: OnScan,
    on_estimate: OnEstimate,
    journal: Journal | Saved | None,
) -> Work:
    """The scan's means, checked; the arguments are those of `scan`.

    Raises:
      InputError: an argument out of range.
      BudgetError: the budget does not pay for the first draws.
    """
    names = _names(space, oracle.access)
    if not 0 < false_alarm_rate < 1:
        raise InputError(f"`false_alarm_rate` must lie in (0, 1), not {false_alarm_rate}.")
    checked_success(success)
    wanted = frozenset(range(oracle.num_classes) if targets is None else targets)
    if not wanted or not wanted <= frozenset(range(oracle.num_classes)):
        raise InputError(
            f"`targets` must be some of 0 to {oracle.num_classes - 1}, not {sorted(wanted)}."
        )
    if budget is None:
        budget = oracle.each * (LABELS_BUDGET if oracle.access == "labels" else BUDGET)
    # Of each space the draws, shown to twice a class's probes, and a look for these.
    least = 100 + len(names) * settings.num_draws * 2 * settings.num_probes
    least = oracle.asked + oracle.each * least
    if limits.images(budget) < least:
        raise BudgetError(
            f"{limits.said(budget)} too small: probes and the first random triggers of "
            f"{len(names)} spaces need {least} images; name fewer with `space`."
        )
    run = Run(
        oracle, budget=budget, probes=_as_measured(probes, oracle.image_shape), seed=seed,
        data_dir=data_dir, journal=journal, limits=limits,
    )  # fmt: skip
    run.examine()
    conditions = Conditions(
        run.model.access, run.source.name, success, oracle.image_shape, oracle.num_classes
    )
    depths = depths_by(conditions.access, was_measured(conditions)) | settings.depths
    settings = dataclasses.replace(settings, depths=depths)
    followed = [depths.get(name, OTHER_DEPTH) for name in names]
    images = expected(
        followed, oracle.num_classes, settings, run.model.access == "labels",
        run.ledger.budget / run.model.each,
    )  # fmt: skip
    announce(run, images, least // oracle.each, on_estimate)

    def tell(text: str, milestone: bool = True) -> None:
        if on_progress is not None:
            on_progress(ScanProgress(text, milestone, run.ledger.spent, run.ledger.budget))

    return Work(
        run=run,
        names=names,
        conditions=conditions,
        false_alarm_rate=false_alarm_rate,
        wanted=wanted,
        settings=settings,
        key=jax.random.key(seed),
        tell=tell,
        shared={"success": success, "seed": seed, "test_data": test_data},
        seconds=math.inf if limits.seconds is None else limits.seconds,
    )


def _as_measured(probes: Probes, image_shape: ImageShape) -> Probes | ProbeSource:
    """Images that the package draws are those that clean models were shown, whatever the seed.

    How easily a model is led depends on its probes, by as much as it does on its family.
    """
    if isinstance(probes, str) and probes in SYNTHETIC:
        return open_probes(probes, PROBES_SEED, image_shape)
    return probes


def _names(space: str | Sequence[str], access: str) -> list[str]:
    """The spaces to look through."""
    if space == "auto":
        return catalogue.scanned(access)
    names = [space] if isinstance(space, str) else list(space)
    unknown = [name for name in names if name not in catalogue.SPACES]
    if unknown or not names or len(set(names)) < len(names):
        raise InputError(
            f"unknown spaces {', '.join(map(str, names))}: they may be auto, or some of "
            f"{', '.join(catalogue.SPACES)}, each once."
        )
    return names


def pool_of(work: Work, probes: Probes) -> Pool:
    """The scan's probes.

    Args:
      work: the scan.
      probes: as `scan` takes them. To dead leaves another kind of synthetic image is added, for
        models that see few classes in these.
    """
    run, sources = work.run, [work.run.source]
    if isinstance(probes, str) and probes == "dead_leaves":
        sources.append(open_probes("shapes", PROBES_SEED, run.model.image_shape))
    with run.stage("probes"):
        return make_pool(run, sources, work.settings.num_probes)
