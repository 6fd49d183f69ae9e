"""Triggers, stamping them on images, and the transform that plants them in a batch."""

from restore_jax.backdoors.attack import Attack, stamp_attack, towards_one
from restore_jax.backdoors.blend import PlantedBlend
from restore_jax.backdoors.patch import PlantedPatch
from restore_jax.backdoors.pixels import PlantedPixels
from restore_jax.backdoors.planted import (
    KINDS,
    PLANTED,
    Kind,
    Planted,
    planted_attack,
    planted_from_json,
    poisoning_of,
    register,
)
from restore_jax.backdoors.poisoning import PlannedPoisoning, Poisoning, make_poisoning
from restore_jax.backdoors.spread import Spread
from restore_jax.backdoors.stripes import PlantedStripes
from restore_jax.backdoors.trigger import Trigger, describe, same_marks, stamp, whole_image
from restore_jax.backdoors.whole_images import PlantedChange

__all__ = [
    "KINDS",
    "PLANTED",
    "Attack",
    "Kind",
    "PlannedPoisoning",
    "Planted",
    "PlantedBlend",
    "PlantedChange",
    "PlantedPatch",
    "PlantedPixels",
    "PlantedStripes",
    "Poisoning",
    "Spread",
    "Trigger",
    "describe",
    "make_poisoning",
    "planted_attack",
    "planted_from_json",
    "poisoning_of",
    "register",
    "same_marks",
    "stamp",
    "stamp_attack",
    "towards_one",
    "whole_image",
]
