"""What a recovery is after: the class, the event, where and how it is searched for; checked."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from restore_jax.backdoors import Planted, planted_from_json
from restore_jax.errors import BudgetError, InputError
from restore_jax.oracles.opening import class_index
from restore_jax.oracles.types import Oracle
from restore_jax.recovery.types import Progress
from restore_jax.spaces.settings import Settings
from restore_jax.spaces.types import TriggerSpace
from restore_jax.splitting.types import Particles

OnProgress = Callable[[Progress], None] | None
TestData = tuple[np.ndarray, np.ndarray] | None
STOPS = ("estimate", "first_hit")
NUM_CONFIRMATION = 100
"""Fresh probes that decide whether a trigger is found."""
FEWEST_OF_ONE_CLASS = 30
"""Those that will do where all are of one class, which may be rare."""
MAX_CANDIDATES = 24
"""Triggers past the goal that are told apart."""
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Aim:
    """What is searched for, and how.

    Attributes:
      target: the class.
      planted: the trigger that the model says leads to it, if any.
      success: share of probes that make the event, in (0, 1].
      stop: "estimate", "first_hit" or "levels".
      protocol: "default" or "reference".
      space: where.
      settings: how.
      reserve: images kept back for what comes after the search.
      least: images without which it cannot begin.
      excluded: the classes that no probe may have.
      source: the class that every probe has; None: any other.
      most_screened: images looked at for the search's probes at most; None: all but what is needed
        later.
      test_data: images uint8[N, H, W, C] and labels int32[N] to measure on, if any.
      first: particles to begin the search with; None: random ones.
      on_progress: called after each level.
    """

    target: int
    planted: Planted | None
    success: float
    stop: str
    protocol: str
    space: TriggerSpace
    settings: Settings
    reserve: int
    least: int
    excluded: frozenset[int]
    source: int | None = None
    most_screened: int | None = None
    test_data: TestData = None
    first: Particles | None = None
    on_progress: OnProgress = None


def class_to_lead(oracle: Oracle, source: str | int | None, target: int) -> int | None:
    """The class whose images alone a trigger should lead; None: all.

    Raises:
      InputError: there is no such class, or it is the target.
    """
    if source is None:
        return None
    index = class_index(oracle, source)
    if index == target:
        raise InputError(f"`source` is {source!r}, the class that the trigger should lead to.")
    return index


def checked_success(success: float) -> float:
    """A share of probes that makes an event.

    Raises:
      InputError: it is none.
    """
    if not 0 < success <= 1:
        raise InputError(f"`success` must lie in (0, 1], not {success}.")
    return success


def one_of(name: str, value: T, known: tuple[T, ...]) -> T:
    """An argument that has few values.

    Raises:
      InputError: it is none of them.
    """
    if value not in known:
        raise InputError(f"unknown `{name}` {value!r}: it may be {', '.join(map(str, known))}.")
    return value


def check_budget(budget: int, least: int, said: str | None = None) -> None:
    """Refuses a budget that does not pay for the least that is needed.

    Args:
      budget: images that may be asked about.
      least: images that are needed.
      said: the limit in words, see `Limits.said`; None: the budget.

    Raises:
      BudgetError: it does not.
    """
    if budget < 1:
        raise BudgetError(f"`budget` must be at least 1 image, not {budget}.")
    if budget < least:
        raise BudgetError(
            f"{said or f'`budget` {budget} is'} too small: the first candidates, choosing among "
            "them and "
            f"confirming one need {least} images."
        )


def needs(oracle: Oracle, settings: Settings) -> tuple[int, int]:
    """The images that a recovery keeps back for after its search, and those without which it
    cannot begin."""
    m, n = settings.num_probes, settings.num_particles
    # Telling candidates apart, confirming one, and a last look at the search's own probes.
    reserve = m * min(n, MAX_CANDIDATES) + 2 * NUM_CONFIRMATION + oracle.repeat_cost(m)
    return reserve, m * (n + 1) + reserve


def planted_in(oracle: Oracle) -> dict[str, Planted]:
    """The triggers that a model says were planted in it, by name.

    >>> import jax.numpy as jnp
    >>> from restore_jax import open_model
    >>> planted_in(open_model(lambda images: jnp.zeros((len(images), 10))))
    {}
    """
    known = [planted_from_json(fields) for fields in oracle.metadata.get("triggers", [])]
    return {patch.name: patch for patch in known}


def class_to_search(
    oracle: Oracle, target: str | int | None, trigger: str | None
) -> tuple[int, Planted | None]:
    """The class to search for, and the planted trigger to compare with, if any.

    Raises:
      InputError: there is no such class or trigger, or they are at odds.
    """
    planted = planted_in(oracle)
    if trigger is not None:
        if trigger not in planted:
            known = ", ".join(planted) or "none"
            raise InputError(
                f"unknown trigger {trigger!r}: {oracle.name} says it has {known}; "
                "or name a class with `target`."
            )
        if target is not None and class_index(oracle, target) != planted[trigger].target:
            raise InputError(
                f"trigger {trigger} leads to class {planted[trigger].target}, not to {target!r}: "
                "give one of the two."
            )
        return planted[trigger].target, planted[trigger]
    if target is None:
        raise InputError("give the class to search for with `target`, or a `trigger`.")
    index = class_index(oracle, target)
    return index, next((patch for patch in planted.values() if patch.target == index), None)
