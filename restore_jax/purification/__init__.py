"""Keeps using a model that has backdoors: takes triggers' effects out of its answers.

Only what the model gives a guarded class is suspicious. A guard is a class's, not a pattern's: what
was planted is seldom what was recovered, and both give themselves away by the same answers. An
honest image keeps its class when it is mirrored, moved by a pixel or painted over where it stands
out; most triggers do not. Which of many such looks tell stamped images from honest ones is learned
for each model, on probes: with the recovered triggers, the population that their search ended with,
and fresh ones around them. At most two are spent on a suspicious image, and none on any other.
"""

from restore_jax.purification.guarding import Recovered, defence_cost, defences, report
from restore_jax.purification.inverses import subtract
from restore_jax.purification.purifying import Defended, Purifier, purifier
from restore_jax.purification.types import Guard, Look, Power, Report, Rule
from restore_jax.purification.windows import stand_out

__all__ = [
    "Defended",
    "Guard",
    "Look",
    "Power",
    "Purifier",
    "Recovered",
    "Report",
    "Rule",
    "defence_cost",
    "defences",
    "purifier",
    "report",
    "stand_out",
    "subtract",
]
