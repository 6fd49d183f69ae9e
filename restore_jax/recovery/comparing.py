"""How a class's trigger compares with the model's other classes: alone, *found* says little."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from restore_jax.errors import OutOfTime
from restore_jax.recovery.aims import needs
from restore_jax.recovery.types import Other, Recovery
from restore_jax.run import Run
from restore_jax.spaces.settings import Settings


def with_others(
    recover: Callable[..., Recovery],
    run: Run,
    recovery: Recovery,
    number: int,
    settings: Settings,
    how: dict[str, Any],
) -> Recovery:
    """The recovery, and what as many images do for other classes.

    Each of the other classes is searched as this one was, for as many images as this one took; as
    many of them as the budget pays for, spread evenly over the classes.

    Args:
      recover: recovers one class.
      run: the recovery's, which pays.
      recovery: of the class itself.
      number: of other classes, at most all.
      settings: how the class was searched.
      how: further arguments of the search.
    """
    model = run.model
    classes = [k for k in range(model.num_classes) if k not in (recovery.target, recovery.source)]
    number = min(number, len(classes))
    places = np.linspace(0, len(classes) - 1, number).round().astype(int)
    most = max(recovery.queries, model.each * needs(model, settings)[1])
    status = recovery.status
    others: list[Other] = []
    for k in (classes[place] for place in places):
        if run.ledger.budget - run.ledger.spent < most:
            break
        try:
            with run.stage("other classes"):
                other = recover(model, k, settings=settings, budget=most, within=run, **how)
        except KeyboardInterrupt:  # before it came to anything
            status = "interrupted"
            break
        except OutOfTime:
            break
        others.append(
            Other(
                k, other.target_name, other.found, other.log10_prob, other.interval, other.queries
            )
        )
        if run.ledger.time_is_over():
            break
        if other.status == "interrupted":
            status = other.status
            break
    return dataclasses.replace(
        recovery,
        status=status,
        others=tuple(others),
        cost=run.cost({**recovery.cost.seconds, "total": run.seconds()}),
    )
