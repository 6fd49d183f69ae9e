"""The sampler: importance splitting over any search space, for any score."""

from restore_jax.splitting.counting import count
from restore_jax.splitting.directions import half_spaces, inside_box
from restore_jax.splitting.estimators import (
    effective_sample_size,
    ideal_log_prob_std,
    log_prob_interval,
)
from restore_jax.splitting.host_driven import host_driven
from restore_jax.splitting.importance_splitting import importance_splitting
from restore_jax.splitting.kernels import MetropolisOptions, MetropolisTuning, metropolis
from restore_jax.splitting.keys import particle_keys
from restore_jax.splitting.merging import MergedResult, merge
from restore_jax.splitting.priors import Mapped, mapped, pcn, redraw, standard_normal, uniform_box
from restore_jax.splitting.types import (
    DrawnProposal,
    Kernel,
    LearnedProposal,
    LevelInfo,
    Lineage,
    MoveInfo,
    Proposal,
    ScoreFn,
    Scorer,
    SearchSpace,
    SplittingAlgorithm,
    SplittingResult,
    SplittingState,
    Status,
    Trial,
)

__all__ = [
    "DrawnProposal",
    "Kernel",
    "LearnedProposal",
    "LevelInfo",
    "Lineage",
    "Mapped",
    "MergedResult",
    "MetropolisOptions",
    "MetropolisTuning",
    "MoveInfo",
    "Proposal",
    "ScoreFn",
    "Scorer",
    "SearchSpace",
    "SplittingAlgorithm",
    "SplittingResult",
    "SplittingState",
    "Status",
    "Trial",
    "count",
    "effective_sample_size",
    "half_spaces",
    "host_driven",
    "ideal_log_prob_std",
    "importance_splitting",
    "inside_box",
    "log_prob_interval",
    "mapped",
    "merge",
    "metropolis",
    "particle_keys",
    "pcn",
    "redraw",
    "standard_normal",
    "uniform_box",
]
