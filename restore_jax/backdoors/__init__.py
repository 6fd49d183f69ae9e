"""Triggers, stamping them on images, and the transform that plants them in a batch."""

from restore_jax.backdoors.planted import PLANTED, PlantedPatch
from restore_jax.backdoors.poisoning import Poisoning, make_poisoning
from restore_jax.backdoors.trigger import Trigger, stamp

__all__ = ["PLANTED", "PlantedPatch", "Poisoning", "Trigger", "make_poisoning", "stamp"]
