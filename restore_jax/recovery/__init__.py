"""Recovers the trigger of one class, with nothing but the right to query the model."""

from restore_jax.oracles import Inconclusive
from restore_jax.recovery.choosing import NUM_CONFIRMATION
from restore_jax.recovery.procedure import conclude, recover
from restore_jax.recovery.question import ask, planted_in
from restore_jax.recovery.truth import attack_success_rate, compare
from restore_jax.recovery.types import (
    AUTO,
    BUDGETS,
    DEFAULTS,
    SCHEMA_VERSION,
    Progress,
    Recovery,
    Settings,
    TooSmallBudget,
    settings_for,
)

__all__ = [
    "AUTO",
    "BUDGETS",
    "DEFAULTS",
    "NUM_CONFIRMATION",
    "SCHEMA_VERSION",
    "Inconclusive",
    "Progress",
    "Recovery",
    "Settings",
    "TooSmallBudget",
    "ask",
    "attack_success_rate",
    "compare",
    "conclude",
    "planted_in",
    "recover",
    "settings_for",
]
