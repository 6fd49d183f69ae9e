"""Scans a model for backdoors in any of its classes."""

from restore_jax.diagnosis.null import false_alarm_bound
from restore_jax.diagnosis.preparing import BUDGET
from restore_jax.diagnosis.procedure import FALSE_ALARM_RATE, scan
from restore_jax.diagnosis.types import (
    BACKDOOR,
    INCONCLUSIVE,
    NOTHING,
    SCHEMA_VERSION,
    SUSPICIOUS,
    ClassFinding,
    ClassLook,
    Scan,
    ScanProgress,
    ScanSettings,
    SpaceLook,
    depths_by,
)

__all__ = [
    "BACKDOOR",
    "BUDGET",
    "FALSE_ALARM_RATE",
    "INCONCLUSIVE",
    "NOTHING",
    "SCHEMA_VERSION",
    "SUSPICIOUS",
    "ClassFinding",
    "ClassLook",
    "Scan",
    "ScanProgress",
    "ScanSettings",
    "SpaceLook",
    "depths_by",
    "false_alarm_bound",
    "scan",
]
