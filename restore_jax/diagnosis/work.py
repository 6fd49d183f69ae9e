"""What the stages of a scan share: the model, its ledger, the options, and how progress is told."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from restore_jax.data.probes import ProbeSource
from restore_jax.diagnosis.null import Conditions
from restore_jax.diagnosis.types import ScanSettings
from restore_jax.oracles import Asker, Ledger, Oracle

STAGES = ("probes", "draws", "splitting", "recovery")


@dataclasses.dataclass(frozen=True)
class Work:
    """One scan's means.

    Attributes:
      oracle: the model.
      ledger, asker: count what it is sent, and ask it.
      sources: where probes come from.
      names: the spaces to look through.
      success: share of probes that makes the event.
      false_alarm_rate: see `scan`.
      wanted: the classes that may be named.
      settings: how to scan.
      key: of everything drawn.
      tell: ``(text, milestone)``: progress.
      queries: images sent so far by stage, of `STAGES`.
      shared: what recoveries are given besides.
    """

    oracle: Oracle
    ledger: Ledger
    asker: Asker
    sources: list[ProbeSource]
    names: list[str]
    success: float
    false_alarm_rate: float
    wanted: frozenset[int]
    settings: ScanSettings
    key: jax.Array
    tell: Callable[..., None]
    queries: dict[str, int]
    shared: dict[str, Any]

    @property
    def conditions(self) -> Conditions:
        """Under what it looks."""
        return Conditions(
            self.oracle.access,
            self.sources[0].name,
            self.success,
            self.oracle.image_shape,
            self.oracle.num_classes,
        )

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Books what is sent meanwhile under a stage."""
        before = self.ledger.spent
        try:
            yield
        finally:
            self.queries[name] += self.ledger.spent - before
