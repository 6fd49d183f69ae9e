"""Triggers, stamping them on images, and the transform that plants them in a batch."""

from restore_jax.backdoors.attack import Attack, stamp_attack, towards_one
from restore_jax.backdoors.blend import PlantedBlend
from restore_jax.backdoors.patch import PlantedPatch
from restore_jax.backdoors.pixels import PlantedPixels
from restore_jax.backdoors.planted import KINDS, PLANTED, Kind, Planted, planted_from_json, register
from restore_jax.backdoors.poisoning import Poisoning, make_poisoning
from restore_jax.backdoors.stripes import PlantedStripes
from restore_jax.backdoors.trigger import Trigger, describe, same_marks, stamp, whole_image

__all__ = [
    "KINDS",
    "PLANTED",
    "Attack",
    "Kind",
    "Planted",
    "PlantedBlend",
    "PlantedPatch",
    "PlantedPixels",
    "PlantedStripes",
    "Poisoning",
    "Trigger",
    "describe",
    "make_poisoning",
    "planted_from_json",
    "register",
    "same_marks",
    "stamp",
    "stamp_attack",
    "towards_one",
    "whole_image",
]
