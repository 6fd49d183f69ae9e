"""Models as black boxes: images in, logits, probabilities or labels out."""

from restore_jax.oracles.asking import Asker, Inconclusive, ProbeFeed
from restore_jax.oracles.ledger import Ledger, OutOfQueries
from restore_jax.oracles.opening import class_index, open_model
from restore_jax.oracles.types import ACCESSES, ModelError, Oracle, labels, margins

__all__ = [
    "ACCESSES",
    "Asker",
    "Inconclusive",
    "Ledger",
    "ModelError",
    "Oracle",
    "OutOfQueries",
    "ProbeFeed",
    "class_index",
    "labels",
    "margins",
    "open_model",
]
