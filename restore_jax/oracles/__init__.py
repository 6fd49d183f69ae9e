"""Models as black boxes: images in, logits, probabilities or labels out."""

from restore_jax.oracles.asking import Asker, Inconclusive, ProbeFeed, account
from restore_jax.oracles.foreign import Foreign
from restore_jax.oracles.journal import Journal
from restore_jax.oracles.ledger import Ledger, OutOfQueries
from restore_jax.oracles.opening import class_index, open_model
from restore_jax.oracles.options import ModelOptions
from restore_jax.oracles.types import ACCESSES, LOG_FLOOR, ModelError, Oracle, labels, margins

__all__ = [
    "ACCESSES",
    "LOG_FLOOR",
    "Asker",
    "Foreign",
    "Inconclusive",
    "Journal",
    "Ledger",
    "ModelError",
    "ModelOptions",
    "Oracle",
    "OutOfQueries",
    "ProbeFeed",
    "account",
    "class_index",
    "labels",
    "margins",
    "open_model",
]
