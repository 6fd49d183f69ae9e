"""OpenTURNS, `SubsetSampling`. See `protocol` for the command line and the answer."""

import math

import numpy as np
import openturns as ot
from protocol import NoEstimate, Prior, Score, one_by_one

BLOCKS = 20
"""Blocks per level. A larger block gives the score more rows at once and leaves the estimate as
it is, to the last bit, while it holds no more than the seeds of a level: a tenth of its size."""


def estimate(score: Score, prior: Prior, size: int, seed: int) -> float:
    """Subset simulation with ``size`` particles per level.

    The conditional probability (0.1) and the proposal's range (2) are the defaults. OpenTURNS
    maps a uniform prior to the standard normal space itself.
    """
    ot.RandomGenerator.SetSeed(seed)
    law = (
        ot.Normal(prior.dim)
        if prior.law == "normal"
        else ot.JointDistribution([ot.Uniform(0.0, 1.0)] * prior.dim)
    )
    function = ot.PythonFunction(
        prior.dim, 1, func_sample=lambda x: np.asarray(score(np.asarray(x)))[:, None]
    )
    output = ot.CompositeRandomVector(function, ot.RandomVector(law))
    algorithm = ot.SubsetSampling(ot.ThresholdEvent(output, ot.GreaterOrEqual(), 0.0))
    algorithm.setMaximumOuterSampling(BLOCKS)
    algorithm.setBlockSize(size // BLOCKS)
    try:
        algorithm.run()
    except (RuntimeError, TypeError) as error:
        # Raised after the last level, for the variance alone: the probability is there.
        if "variance estimate must be" not in str(error):
            raise
    probability, level = algorithm.getProbabilityEstimatePerStep(), algorithm.getThresholdPerStep()
    if level[-1] != 0.0:
        raise NoEstimate("stopped at a level below the threshold")
    return float(probability[-1]) if math.isfinite(probability[-1]) else 0.0


if __name__ == "__main__":
    ot.Log.Show(ot.Log.NONE)
    one_by_one("SubsetSampling", ["openturns", "numpy", "scipy"], estimate, BLOCKS)
