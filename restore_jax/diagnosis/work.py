"""What the stages of a scan share: the run, the options, and how progress is told."""

import dataclasses
import math
from collections.abc import Callable

import jax

from restore_jax.diagnosis.null import Conditions
from restore_jax.diagnosis.types import ScanSettings
from restore_jax.run import Run
from restore_jax.types import Argument


@dataclasses.dataclass(frozen=True)
class Work:
    """One scan's means.

    Attributes:
      run: the model, its probes, and who pays.
      names: the spaces to look through.
      conditions: under what it looks.
      false_alarm_rate: see `scan`.
      wanted: the classes that may be named.
      settings: how to scan.
      key: of everything drawn.
      tell: ``(text, milestone)``: progress.
      shared: what recoveries are given besides.
      seconds: that the scan may take; infinity: no limit.
    """

    run: Run
    names: list[str]
    conditions: Conditions
    false_alarm_rate: float
    wanted: frozenset[int]
    settings: ScanSettings
    key: jax.Array
    tell: Callable[..., None]
    shared: dict[str, Argument]
    seconds: float = math.inf

    @property
    def success(self) -> float:
        """The share of probes that makes the event."""
        return self.conditions.success
