"""Trains a classifier, with or without backdoors."""

from restore_jax.training.procedure import Epoch, Step, Trained, train
from restore_jax.training.trainer import (
    OPTIMIZERS,
    OWN,
    Evaluation,
    Recipe,
    Trainer,
    TrainingState,
    make_evaluation,
    make_optimizer,
    make_trainer,
    recipe_for,
)

__all__ = [
    "OPTIMIZERS",
    "OWN",
    "Epoch",
    "Evaluation",
    "Recipe",
    "Step",
    "Trained",
    "Trainer",
    "TrainingState",
    "make_evaluation",
    "make_optimizer",
    "make_trainer",
    "recipe_for",
    "train",
]
