"""Keeps using a model that has backdoors: takes triggers' effects out of its answers.

Only what the model gives a guarded class is suspicious. A guard is a class's, not a pattern's: what
was planted is seldom what was recovered, and both give themselves away by the same answers. An
honest image keeps its class when it is mirrored, moved by a pixel or painted over where it stands
out; most triggers do not. Which of many such looks tell stamped images from honest ones is learned
for each model, on probes: with the recovered triggers, the population that their search ended with,
and fresh ones around them. At most two are spent on a suspicious image, and none on any other.
Where nothing was recovered, all classes can be guarded blindly, by three looks at every image.
"""

from restore_jax.purification.blind import Blind, answer_blindly, blind_looks
from restore_jax.purification.guarding import (
    BLIND_COST,
    Recovered,
    blind_report,
    defence_cost,
    defences,
    defend_blindly,
    report,
)
from restore_jax.purification.inverses import subtract
from restore_jax.purification.purifying import Defended, Purifier, purifier
from restore_jax.purification.types import BlindPower, Guard, Look, Power, Report, Rule
from restore_jax.purification.windows import stand_out

__all__ = [
    "BLIND_COST",
    "Blind",
    "BlindPower",
    "Defended",
    "Guard",
    "Look",
    "Power",
    "Purifier",
    "Recovered",
    "Report",
    "Rule",
    "answer_blindly",
    "blind_looks",
    "blind_report",
    "defence_cost",
    "defences",
    "defend_blindly",
    "purifier",
    "report",
    "stand_out",
    "subtract",
]
