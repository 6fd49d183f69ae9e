"""Recovers the trigger of one class: a row of stages, each ``(run, found) -> found``."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Unpack

import jax
import numpy as np

from restore_jax.data.probes import ProbeSource
from restore_jax.errors import InputError
from restore_jax.oracles.journal import Journal
from restore_jax.oracles.opening import Opening, open_model
from restore_jax.oracles.types import Model, Oracle
from restore_jax.recovery import reference
from restore_jax.recovery.aims import (
    STOPS,
    Aim,
    OnProgress,
    TestData,
    check_budget,
    checked_success,
    class_to_lead,
    class_to_search,
    needs,
    one_of,
    planted_in,
)
from restore_jax.recovery.candidates import inclusion
from restore_jax.recovery.choosing import choose
from restore_jax.recovery.comparing import with_others
from restore_jax.recovery.confirming import confirm, measure
from restore_jax.recovery.expecting import expected
from restore_jax.recovery.found import Found
from restore_jax.recovery.pruning import prune
from restore_jax.recovery.screening import screen
from restore_jax.recovery.searching import search
from restore_jax.recovery.strengthening import strengthen
from restore_jax.recovery.trying import try_spaces
from restore_jax.recovery.types import Recovery
from restore_jax.run import Limits, Run, Saved, examining
from restore_jax.run.estimates import Expected, OnEstimate, announce
from restore_jax.spaces.catalogue import Space, find
from restore_jax.spaces.settings import Settings
from restore_jax.spaces.types import TriggerSpace
from restore_jax.splitting.types import Particles
from restore_jax.types import Argument

INTERRUPTED = "interrupted"
Stage = Callable[[Run, Found], Found]
PROTOCOLS: dict[str, tuple[Stage, ...]] = {
    "default": (screen, search, choose, strengthen, prune, confirm, measure),
    "reference": (screen, reference.follow_reference, confirm, measure),
}


def recover(
    model: Model = "shipped",
    target: str | int | None = None,
    *,
    source: str | int | None = None,
    trigger: str | None = None,
    access: str | None = None,
    space: str | TriggerSpace | None = None,
    protocol: str = "default",
    probes: str | Path | np.ndarray | ProbeSource = "dead_leaves",
    budget: int | None = None,
    seconds: float | None = None,
    dollars: float | None = None,
    price: float | None = None,
    success: float = 0.95,
    stop: str = "estimate",
    seed: int = 0,
    data_dir: str | None = None,
    test_data: TestData = None,
    settings: Settings | None = None,
    compare: int = 0,
    first: Particles | None = None,
    on_progress: OnProgress = None,
    on_estimate: OnEstimate = None,
    journal: Journal | Saved | None = None,
    within: Run | None = None,
    **opening: Unpack[Opening],
) -> Recovery:
    """Searches for a trigger that leads to a class, and confirms it on fresh probes.

    Args:
      model: what `open_model` takes, or an `Oracle`.
      target: the class, by name or number. May be left out if ``trigger`` is given.
      source: the class whose images alone the trigger should lead there, by name or number; None:
        those of all other classes. Probes are then those that the model gives this class, which
        takes more images where it is rare among them.
      trigger: the name of a trigger that the model says was planted in it: the search is
        for its class, and the result is compared with it.
      access: "logits", "probabilities" or "labels"; None: logits, or what an open model is asked
        for.
      space: the name of a space, "auto" (several in turn, until one finds something), or a
        `TriggerSpace` of your own; None: "patch", or "sparse" by the reference.
      protocol: "default", or "reference": the earlier implementation's search, which takes
        "sparse" and "gaussian", decides itself when to stop and how, and reads logits.
      probes: "dead_leaves", "shapes", "cifar10", a folder, an .npz or an array, see
        `open_probes`; or a source that is open already.
      budget: images that may be sent, everything counted; None: the space's own.
      seconds: of the clock, once the model is open: what there is by then is given back, a level
        or a request late. `Cost.limit` says which limit ended a run.
      dollars: likewise, a budget in images at ``price``; the smallest limit counts.
      price: dollars for 1,000 images.
      success: share of probes that a trigger must lead to the target, in (0, 1].
      stop: "estimate" (the probability is estimated) or "first_hit" (cheaper, no estimate).
      seed: of everything.
      data_dir: the TFDS folder, for probes="cifar10".
      test_data: images uint8[N, H, W, C] and labels int32[N] on which to measure the
        attack success rate, outside the budget; over images whose class is not the target.
      settings: how to search; None: the space's own. With space="auto" each space takes those of
        the options that it knows.
      compare: how many other classes to search, once a trigger is found, each with as many images
        as the budget allows: if other classes have such a trigger as well, it proves nothing.
      first: particles of the same space, the best first, to begin with in place of random ones;
        with ``stop="first_hit"`` only, since a probability could not be estimated then.
      on_progress: called after each level.
      on_estimate: told before the search what is expected of it, see `estimate`; what it raises
        ends the run. Without it, and without ``seconds``, the model's speed is not measured.
      journal: keeps the answers of a model that is asked from the host, or saves where searches
        in this process stand.
      within: the run that this recovery is a part of; see `Run`.
      **opening: how the model is opened: ``image_shape``, ``value_range``, ``mean``, ``std`` and
        the like; see `open_model`.

    Raises:
      InputError: an argument out of range (one sentence).
      Inconclusive: the model sends nearly all probes to the target without any trigger.

    References:
      Le Roux, Kallas and Furon, REStore: Exploring a black-box defense against DNN backdoors
      using rare event simulation, SaTML 2024, doi 10.1109/SaTML59370.2024.00021.

    >>> from restore_jax import recover
    >>> recovery = recover("shipped", "cat", stop="first_hit")
    >>> recovery.found, recovery.confirmation_success_rate >= 0.95
    (True, True)
    """
    oracle = open_model(model, access, **opening)
    limits = Limits(seconds, dollars, price)
    one_of("protocol", protocol, tuple(PROTOCOLS))
    one_of("stop", stop, STOPS)
    if source is not None and (protocol != "default" or trigger is not None):
        raise InputError('`source` goes with `target`, and with `protocol` "default".')
    if compare < 0 or (compare and protocol != "default"):
        raise InputError('`compare` is a number of classes, and goes with `protocol` "default".')
    if first is not None and (stop != "first_hit" or protocol != "default" or space == "auto"):
        raise InputError('`first` goes with `stop` "first_hit", and with one space.')
    if space is None:
        space = "sparse" if protocol == "reference" else "patch"
    how: dict[str, Argument] = {
        "source": source, "trigger": trigger, "success": success, "stop": stop,
        "test_data": test_data, "on_progress": on_progress, "first": first,
    }  # fmt: skip
    given: dict[str, Argument] = {"probes": probes, "seed": seed, "data_dir": data_dir}
    if space == "auto":
        del how["first"]
        again = {**how, **given, "protocol": protocol, "compare": compare}
        return try_spaces(
            recover, oracle, target, budget, limits, settings, journal, within, again, on_estimate
        )
    if protocol == "reference":
        aim, own_budget = _reference_aim(oracle, target, space, how)
    else:
        aim, own_budget = _aim(oracle, target, space, settings, how)
    allowed = oracle.each * own_budget if budget is None else budget
    looked_at = 0 if within is not None else examining.cost(oracle)
    least, said = aim.least + looked_at, limits.said(allowed)
    check_budget(limits.images(allowed) // oracle.each, least, said)
    run = Run(oracle, budget=allowed, journal=journal, within=within, limits=limits, **given)
    if within is None:
        run.examine()
        images = _expected(aim, own_budget, space).times(1 + compare)
        announce(run, images, aim.least, on_estimate)
        if protocol == "reference":
            reference.check_access(run.model)
    found = Found(aim, run.feed(aim.excluded, aim.source))
    for stage in PROTOCOLS[protocol]:
        found = _gone_through(stage, run, found)
    recovery = conclude(run, found)
    if not compare or not recovery.found:
        return recovery
    again = {"source": aim.source, "space": space, "success": success, "stop": stop, **given}
    return with_others(recover, run, recovery, compare, aim.settings, again)


def _gone_through(stage: Stage, run: Run, found: Found) -> Found:
    """What is known after a stage, or before it if Ctrl-C ends it; what is left is then short.

    Raises:
      KeyboardInterrupt: it came before there was anything to give back.
    """
    try:
        return stage(run, found)
    except KeyboardInterrupt:
        if found.particles is None:
            raise
        # A stage that is told so asks nothing more.
        return stage(run, found.now(status=INTERRUPTED))


def _expected(aim: Aim, own_budget: int, space: str | TriggerSpace) -> Expected:
    """The images that the recovery takes where there is a trigger."""
    if aim.protocol == "reference":
        return Expected(own_budget)
    return expected(_entry(space), aim.settings, aim.stop)


def conclude(run: Run, found: Found) -> Recovery:
    """What was found, as a result."""
    if found.status == "out_of_queries":
        run.ended()
    aim, settings = found.aim, dataclasses.asdict(found.aim.settings)
    trigger = jax.tree.map(np.asarray, found.trigger)
    included = np.asarray(trigger.support)
    if found.past is not None:
        included = inclusion(found.past, run.model.image_shape)
    if aim.protocol == "reference":
        unused = ("fade", "refine_levels", "num_guides")
        settings = {name: value for name, value in settings.items() if name not in unused}
        settings["max_levels"] = len(found.levels)
    confirmed = found.confirmation is not None and found.confirmation >= aim.success - 1e-9
    return Recovery(
        trigger=trigger,
        found=confirmed,
        status=found.status,
        target=aim.target,
        target_name=run.model.class_names[aim.target],
        source=aim.source,
        source_name=None if aim.source is None else run.model.class_names[aim.source],
        particles=jax.tree.map(np.asarray, found.particles),
        scores=np.asarray(found.scores),
        probes=np.asarray(found.probes),
        inclusion=included.astype(np.float32),
        cost=run.cost(found.seconds),
        provenance=run.provenance(),
        success=aim.success,
        space=aim.space.name,
        prior=aim.space.description,
        protocol=aim.protocol,
        stop=aim.stop,
        settings=settings,
        log10_prob=found.log10_prob,
        interval=found.interval,
        best_score=found.best_score,
        goal=found.goal,
        probe_success_rate=found.probe_rate,
        confirmation_success_rate=found.confirmation,
        test_success_rate=found.test_rate,
        faded_success_rate=found.faded_rate,
        guides=found.guides,
        pixels_before_pruning=int(found.chosen.trigger.pixels) if found.chosen else None,
        truth=found.truth,
        levels=found.levels,
        planted_trigger=found.planted_trigger,
    )


def _aim(
    oracle: Oracle,
    target: str | int | None,
    space: str | TriggerSpace,
    settings: Settings | None,
    how: dict[str, Argument],
) -> tuple[Aim, int]:
    """What is searched for, and the space's own budget."""
    entry = _entry(space)
    settings = settings or entry.settings_for(how["stop"])
    reserve, least = needs(oracle, settings)
    index, planted = class_to_search(oracle, target, how.pop("trigger"))
    source = class_to_lead(oracle, how.pop("source", None), index)
    checked_success(how["success"])
    return Aim(
        target=index,
        source=source,
        planted=planted if source is None else None,
        protocol="default",
        space=entry.make(oracle.image_shape, **settings.options),
        settings=settings,
        reserve=reserve,
        least=least,
        excluded=frozenset({index}),
        **how,
    ), entry.budget


def _entry(space: str | TriggerSpace) -> Space:
    """What the catalogue says of a space, or would."""
    if isinstance(space, TriggerSpace):
        return Space(space.name, lambda image_shape: space, "one of the user's own")
    return find(space, also=("auto",))


def _reference_aim(
    oracle: Oracle, target: str | int | None, space: str | TriggerSpace, how: dict[str, Argument]
) -> tuple[Aim, int]:
    """What is searched for by the reference, and the budget that all its levels take."""
    name = space if isinstance(space, str) else space.name
    settings = reference.settings_of(oracle, name)
    level = reference.queries_per_level(settings.num_particles)
    index, planted = class_to_search(oracle, target, how.pop("trigger"))
    checked_success(how["success"])
    del how["source"]
    return Aim(
        target=index,
        planted=planted,
        protocol="reference",
        space=find(name).make(oracle.image_shape, **settings.options),
        settings=settings,
        reserve=0,
        least=level + reference.BESIDE,
        excluded=frozenset({index} | {other.target for other in planted_in(oracle).values()}),
        most_screened=reference.MOST_SCREENED,
        **how | {"stop": "levels"},
    ), reference.NUM_LEVELS * level + reference.BESIDE
