"""Several spaces in turn, until one finds something, within one budget."""

import dataclasses
from collections.abc import Callable, Mapping

from restore_jax.errors import InputError, OutOfTime
from restore_jax.oracles.journal import Journal
from restore_jax.oracles.types import Oracle
from restore_jax.recovery.aims import check_budget, needs, one_of
from restore_jax.recovery.expecting import expected
from restore_jax.recovery.types import Attempt, Recovery
from restore_jax.run import Limits, Run, Saved
from restore_jax.run.estimates import Expected, OnEstimate, announce
from restore_jax.run.limits import SECONDS
from restore_jax.spaces import catalogue
from restore_jax.spaces.settings import Settings
from restore_jax.types import Argument


def try_spaces(
    recover: Callable[..., Recovery],
    oracle: Oracle,
    target: str | int | None,
    budget: int | None,
    limits: Limits,
    settings: Settings | None,
    journal: Journal | Saved | None,
    within: Run | None,
    how: dict[str, Argument],
    on_estimate: OnEstimate,
) -> Recovery:
    """One recovery per space, the cheapest first; the one that found something, or the closest.

    Args:
      recover: recovers in one space.
      oracle, target, budget, limits, settings, journal, within, on_estimate: see `recover`.
      how: its other arguments.

    Raises:
      InputError: an option that none of the spaces knows, or whatever the first space refuses.
    """
    one_of("protocol", how["protocol"], ("default",))
    names = catalogue.automatic()
    plans = _plans(names, settings, how["stop"])
    budgets = {name: catalogue.find(name).budget for name in names}
    whole = oracle.each * sum(budgets.values()) if budget is None else budget
    check_budget(whole, 0)
    options = {name: how[name] for name in ("probes", "seed", "data_dir")}
    run = Run(oracle, budget=whole, journal=journal, within=within, limits=limits, **options)
    whole = run.ledger.budget
    if within is None:
        run.examine()
        each = [expected(catalogue.find(k), plans[k], how["stop"]) for k in names]
        announce(run, _in_turn(each), needs(oracle, plans[names[0]])[1], on_estimate)
    oracle, before = run.model, run.cost().queries_by_stage
    begun = run.ledger.spent - sum(before.values())
    found: list[Recovery] = []
    for name in names:
        most = min(run.ledger.budget - run.ledger.spent, oracle.each * budgets[name])
        if found and most // oracle.each < needs(oracle, plans[name])[1]:
            break  # what is left does not pay for another space
        try:
            attempt = recover(
                oracle, target, space=name, budget=most, settings=plans[name], within=run, **how
            )
        except KeyboardInterrupt:
            if not found:
                raise
            # Before it came to anything: the closest of the others is what there is.
            interrupted = max(found, key=lambda one: one.probe_success_rate or 0.0)
            attempt = dataclasses.replace(interrupted, status="interrupted")
            found.remove(interrupted)
        except OutOfTime:
            if not found:
                raise
            break
        found.append(attempt)
        if attempt.found or attempt.status in ("interrupted", "out_of_time"):
            break
    # The last one ended it, or else the closest, the earlier of equals.
    ends = found[-1].found or found[-1].status == "interrupted"
    best = found[-1] if ends else max(found, key=lambda one: one.probe_success_rate or 0.0)
    if run.limit == SECONDS and not ends:
        best = dataclasses.replace(best, status="out_of_time")
    return dataclasses.replace(
        best,
        cost=dataclasses.replace(
            best.cost,
            queries=run.ledger.spent,
            budget=whole,
            queries_by_stage=_sums(
                [before, *(one.cost.queries_by_stage for one in found)], begun, run.ledger.spent
            ),
            limit=run.limit or best.cost.limit,
            asking=oracle.spending(run.ledger),
        ),
        spaces_tried=tuple(map(_attempt, found)),
    )


def _in_turn(each: list[Expected]) -> Expected:
    """What spaces in turn take: at least the first one's least, at most the most of all."""
    return Expected(
        sum(one.images for one in each),
        each[0].images if each[0].low is None else each[0].low,
        sum(one.images if one.high is None else one.high for one in each),
        sum(one.recoveries or 0 for one in each),
    )


def _plans(names: list[str], settings: Settings | None, stop: str) -> dict[str, Settings]:
    """How each space is searched: with the options among those given that it knows."""
    entries = {name: catalogue.find(name) for name in names}
    if settings is None:
        return {name: entry.settings_for(stop) for name, entry in entries.items()}
    known = {name: set(entry.takes()) for name, entry in entries.items()}
    for option in settings.options:
        if not any(option in takes for takes in known.values()):
            raise InputError(f"none of the spaces {', '.join(names)} takes the option {option!r}.")
    return {
        name: dataclasses.replace(
            settings,
            options=entry.settings.options
            | {key: value for key, value in settings.options.items() if key in known[name]},
        )
        for name, entry in entries.items()
    }


def _sums(parts: list[Mapping[str, int]], begun: int, spent: int) -> dict[str, int]:
    """Images by stage, of all spaces; opening the model is the first stage's. Those of a space that
    was interrupted before it came to anything are its own."""
    total: dict[str, int] = {}
    for stages in parts:
        for stage, images in stages.items():
            total[stage] = total.get(stage, 0) + images
    if begun:
        first = next(iter(total))
        total[first] += begun
    lost = spent - sum(total.values())
    return total | {"interrupted": lost} if lost else total


def _attempt(recovery: Recovery) -> Attempt:
    return Attempt(
        space=recovery.space,
        queries=recovery.queries,
        log10_prob=recovery.log10_prob,
        interval=recovery.interval,
        probe_success_rate=recovery.probe_success_rate,
        found=recovery.found,
    )
