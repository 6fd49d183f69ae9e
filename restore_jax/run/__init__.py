"""One piece of work with one model: what it spends, keeps and is shown is booked in one place."""

from restore_jax.run.estimates import Estimate, estimate
from restore_jax.run.feed import ProbeFeed
from restore_jax.run.limits import Limits
from restore_jax.run.records import Cost, Provenance
from restore_jax.run.run import Run
from restore_jax.run.saving import Saved

__all__ = [
    "Cost",
    "Estimate",
    "Limits",
    "ProbeFeed",
    "Provenance",
    "Run",
    "Saved",
    "estimate",
]
