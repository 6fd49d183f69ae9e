"""UQpy, `SubsetSimulation`. See `protocol` for the command line and the answer."""

import logging
import warnings
from typing import Any

import numpy as np
from protocol import Prior, Score, one_by_one
from scipy import special

warnings.filterwarnings("ignore")

from UQpy.reliability import SubsetSimulation  # noqa: E402
from UQpy.run_model import RunModel  # noqa: E402
from UQpy.sampling import ModifiedMetropolisHastings  # noqa: E402

CHAINS = 10
"""Particles per chain: one over the conditional probability."""

MAX_LEVEL = 60
"""The default, 10, would end every run at 1e-10."""


class Rows(RunModel):
    """A model that is given all rows at once; `RunModel` calls its own one row at a time.

    This is in the peer's favour, which else spends most of its seconds on those calls. The
    estimates are the same.
    """

    def __init__(self, function: Any):
        self.function = function
        self.qoi_list: list[float] = []

    def run(self, samples: Any = None, append_samples: bool = True) -> None:
        """Appends the function's values of these rows to ``qoi_list``."""
        self.qoi_list.extend(self.function(np.atleast_2d(samples)))


def estimate(score: Score, prior: Prior, size: int, seed: int) -> float:
    """Subset simulation with ``size`` particles per level.

    As in UQpy's own examples: the modified Metropolis algorithm with its default proposal (a
    standard normal step), the joint log-density, first particles drawn from the prior, and
    conditional probability 0.1. A uniform prior is run as the distribution function of a
    standard normal, since a step of that size would leave the unit cube. The other sampler of
    those examples, `Stretch`, was no better overall: nearer the truth in two dimensions, further
    from it in twenty and more.
    """
    random = np.random.RandomState(seed)

    def failure(x: Any) -> Any:
        # UQpy's event is strictly below 0, and ours includes 0.
        return -score(special.ndtr(x) if prior.law == "uniform" else x) - 1e-12

    chains = ModifiedMetropolisHastings(
        dimension=prior.dim,
        log_pdf_target=lambda x: -0.5 * np.sum(np.square(x), -1),
        n_chains=size // CHAINS,
        random_state=random,
    )
    result = SubsetSimulation(
        runmodel_object=Rows(failure),
        sampling=chains,
        samples_init=random.standard_normal((size, prior.dim)),
        conditional_probability=1 / CHAINS,
        nsamples_per_subset=size,
        max_level=MAX_LEVEL,
    )
    return float(result.failure_probability)


if __name__ == "__main__":
    logging.disable()
    one_by_one("SubsetSimulation, MMH", ["UQpy", "numpy", "scipy"], estimate, CHAINS)
