"""What a recovery is about: the model, the class, the probes and the budget, opened and checked."""

from pathlib import Path
from typing import Any, NamedTuple

from restore_jax.backdoors import Planted, planted_from_json
from restore_jax.data.probes import open_probes
from restore_jax.oracles import Asker, Ledger, Oracle, ProbeFeed, class_index, open_model
from restore_jax.recovery.types import TooSmallBudget


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
      feed: fresh probes, or what else has met images: see `ProbeFeed.turned_away`.
    """

    oracle: Oracle
    target: int
    planted: Planted | None
    success: float
    seed: int
    probes: str
    asker: Asker
    ledger: Ledger
    feed: Any


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
    payer: Ledger | None = None,
) -> Question:
    """Opens the model and the probes; see `recover`.

    Args:
      least: the images that the protocol needs to begin at all.
      exclude_planted: keep probes of every planted trigger's class out, not of this one only.
      payer: see `Ledger`; it has paid for opening the model.
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
        raise TooSmallBudget(
            f"--budget {budget} is too small: the first candidates, choosing among them and "
            f"confirming one need {least} images."
        )
    source = open_probes(probes, seed, oracle.image_shape, data_dir)
    ledger = Ledger(budget, spent=0 if payer else oracle.asked, payer=payer)
    asker = Asker(oracle, ledger)
    others = {p.target for p in planted.values()} if exclude_planted else set()
    feed = ProbeFeed(source, asker, ledger, frozenset({chosen} | others))
    return Question(oracle, chosen, patch, success, seed, source.name, asker, ledger, feed)


def planted_in(oracle: Oracle) -> dict[str, Planted]:
    """The triggers that a model says were planted in it, by name."""
    known = [planted_from_json(fields) for fields in oracle.metadata.get("triggers", [])]
    return {patch.name: patch for patch in known}


def _target(
    oracle: Oracle, planted: dict[str, Planted], target: str | int | None, trigger: str | None
) -> tuple[int, Planted | None]:
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
