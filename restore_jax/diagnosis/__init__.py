"""Scans a model for backdoors in any of its classes."""

from restore_jax.diagnosis.null import prediction_bound, threshold
from restore_jax.diagnosis.procedure import BUDGET_PER_SPACE, FALSE_ALARM_RATE, scan
from restore_jax.diagnosis.types import (
    BACKDOOR,
    CLEAN,
    INCONCLUSIVE,
    SCHEMA_VERSION,
    Chance,
    ClassFinding,
    Scan,
    ScanProgress,
    ScanSettings,
)

__all__ = [
    "BACKDOOR",
    "BUDGET_PER_SPACE",
    "CLEAN",
    "FALSE_ALARM_RATE",
    "INCONCLUSIVE",
    "SCHEMA_VERSION",
    "Chance",
    "ClassFinding",
    "Scan",
    "ScanProgress",
    "ScanSettings",
    "prediction_bound",
    "scan",
    "threshold",
]
