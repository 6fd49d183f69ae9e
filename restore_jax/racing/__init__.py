"""How candidates are shown probes a few at a time: towards one class."""

from restore_jax.racing.scoring import (
    RACE_WIDTH,
    faded,
    make_scorer,
    needed,
    race_to_one_class,
    race_width,
    threshold,
    whole_legs,
)

__all__ = [
    "RACE_WIDTH",
    "faded",
    "make_scorer",
    "needed",
    "race_to_one_class",
    "race_width",
    "threshold",
    "whole_legs",
]
