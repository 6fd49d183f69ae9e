"""The sampler: importance splitting over any search space, for any score."""

from restore_jax.splitting.checkpoints import RunError, load, run_with_checkpoints, save
from restore_jax.splitting.compiling import quick_compilation
from restore_jax.splitting.counting import count
from restore_jax.splitting.directions import half_spaces, inside_box
from restore_jax.splitting.estimators import (
    effective_sample_size,
    ideal_log_prob_std,
    log_prob_interval,
)
from restore_jax.splitting.export import to_dataframe, to_inference_data
from restore_jax.splitting.host_driven import host_driven
from restore_jax.splitting.importance_splitting import importance_splitting
from restore_jax.splitting.kernels import MetropolisOptions, MetropolisTuning, metropolis
from restore_jax.splitting.keys import particle_keys
from restore_jax.splitting.merging import MergedResult, merge
from restore_jax.splitting.plots import plot_genealogy, plot_levels, plot_tail
from restore_jax.splitting.precision import PreciseResult, until_precise
from restore_jax.splitting.priors import Mapped, mapped, pcn, redraw, standard_normal, uniform_box
from restore_jax.splitting.progress import print_level
from restore_jax.splitting.tail import Tail, WeightedParticles, log_prob_of, weighted_particles
from restore_jax.splitting.types import (
    DrawnProposal,
    KeptLevels,
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
    "KeptLevels",
    "Kernel",
    "LearnedProposal",
    "LevelInfo",
    "Lineage",
    "Mapped",
    "MergedResult",
    "MetropolisOptions",
    "MetropolisTuning",
    "MoveInfo",
    "PreciseResult",
    "Proposal",
    "RunError",
    "ScoreFn",
    "Scorer",
    "SearchSpace",
    "SplittingAlgorithm",
    "SplittingResult",
    "SplittingState",
    "Status",
    "Tail",
    "Trial",
    "WeightedParticles",
    "count",
    "effective_sample_size",
    "half_spaces",
    "host_driven",
    "ideal_log_prob_std",
    "importance_splitting",
    "inside_box",
    "load",
    "log_prob_interval",
    "log_prob_of",
    "mapped",
    "merge",
    "metropolis",
    "particle_keys",
    "pcn",
    "plot_genealogy",
    "plot_levels",
    "plot_tail",
    "print_level",
    "quick_compilation",
    "redraw",
    "run_with_checkpoints",
    "save",
    "standard_normal",
    "to_dataframe",
    "to_inference_data",
    "uniform_box",
    "until_precise",
    "weighted_particles",
]
