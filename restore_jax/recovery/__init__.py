"""Recovers the trigger of one class, with nothing but the right to query the model."""

from restore_jax.errors import Inconclusive
from restore_jax.recovery.aims import NUM_CONFIRMATION, planted_in
from restore_jax.recovery.procedure import PROTOCOLS, conclude, recover
from restore_jax.recovery.truth import attack_success_rate, compare
from restore_jax.recovery.types import (
    SCHEMA_VERSION,
    Attempt,
    Level,
    Other,
    Progress,
    Recovery,
    Truth,
)
from restore_jax.spaces.settings import Settings

__all__ = [
    "NUM_CONFIRMATION",
    "PROTOCOLS",
    "SCHEMA_VERSION",
    "Attempt",
    "Inconclusive",
    "Level",
    "Other",
    "Progress",
    "Recovery",
    "Settings",
    "Truth",
    "attack_success_rate",
    "compare",
    "conclude",
    "planted_in",
    "recover",
]
