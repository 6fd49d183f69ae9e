"""Several independent runs as one: estimate, interval, population, and whether they agree."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from scipy import special

from restore_jax.splitting.counting import count
from restore_jax.splitting.types import Particles, SplittingResult, Status

DISAGREE = 0.01
"""Runs that are independent and well-behaved seem to disagree as much in one case of a hundred."""


@dataclasses.dataclass(frozen=True)
class MergedResult:
    """What several runs found together.

    Attributes:
      log_prob: natural log of the estimated probability; -inf if no run reached the event.
      log_prob_std: its standard error.
      log_prob_dof: degrees of freedom of that error.
      num_runs: how many runs were merged.
      num_reached: how many of them reached the event.
      num_queries: scores asked for, by all.
      homogeneity: in [0, 1], how probable it is that runs of one law differ as much as these, or
        more (Cochran, Biometrics 1954); 1 for a single run. Below `DISAGREE` do not trust the
        standard error: some run has missed a part of the event.
      particles: a pytree, those of the last populations in which the event happens, run by run.
      scores: f32[N].
      log_weights: f64[N], what each particle stands for: they sum to 1, and a mean under them is
        one under the prior beyond the threshold.
    """

    log_prob: float
    log_prob_std: float
    log_prob_dof: float
    num_runs: int
    num_reached: int
    num_queries: int
    homogeneity: float
    particles: Particles
    scores: np.ndarray
    log_weights: np.ndarray

    @property
    def agree(self) -> bool:
        """Whether the runs differ no more than their standard errors say."""
        return self.homogeneity >= DISAGREE

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Natural-log interval of the event's probability, ``(low, high)``.

        Raises:
          ValueError: the confidence is not in (0, 1).
        """
        if not 0.0 < confidence < 1.0:
            raise ValueError(f"confidence must be in (0, 1), got {confidence!r}.")
        quantile = float(special.stdtrit(max(self.log_prob_dof, 1.0), 0.5 + confidence / 2.0))
        middle = self.log_prob + 0.5 * self.log_prob_std**2
        margin = quantile * self.log_prob_std
        return middle - margin, min(middle + margin, 0.0)

    def summary(self) -> str:
        """The result in two lines."""
        low, high = (end / math.log(10) for end in self.interval())
        text = (
            f"{self.num_runs} runs, {self.num_reached} of which reached the event, "
            f"{self.num_queries:,} scores\n"
            f"log10 p = {self.log_prob / math.log(10):.3f} (95 %: {low:.3f} to {high:.3f})"
        )
        if not self.agree:
            text += (
                f"\nthe runs disagree (p = {self.homogeneity:.1g}): some have missed a part of the "
                "event; take more particles or moves"
            )
        return text


def merge(results: SplittingResult | Sequence[SplittingResult]) -> MergedResult:
    """Makes one estimate of independent runs of one problem, of any sizes.

    Each run's estimate of the probability is unbiased, and its variance falls with the number of
    its particles: the mean of the estimates, weighted by these numbers, is unbiased, too. (Weights
    made of the runs' own variances would not be: low estimates come with small variances.) A run
    that ended before it reached the event counts as an estimate of 0. The standard error is
    the larger of what the runs' own errors make of the mean, and what their spread does.

    Args:
      results: one result with a leading axis (a vmapped run), or several single ones.

    Raises:
      ValueError: there are none, or one stopped at its first hit and has no estimate.

    Example:
      >>> import jax
      >>> from restore_jax import importance_splitting, standard_normal
      >>> first = lambda x, args: x[..., 0]
      >>> algorithm = importance_splitting(first, standard_normal(1), threshold=3.0)
      >>> keys = jax.random.split(jax.random.key(0), 8)
      >>> merged = merge(jax.vmap(algorithm.run, (0, None))(keys, ()))
      >>> abs(merged.log_prob - (-6.6077)) < 0.5, merged.num_runs, merged.agree
      (True, 8, True)

    References:
      Cochran, The combination of estimates from different experiments, Biometrics 10, 1954.
    """
    runs = single_runs(results)
    if not runs:
        raise ValueError("there are no results to merge.")
    if any(math.isnan(float(run.log_prob)) for run in runs):
        raise ValueError("a run that stopped at its first hit has no estimate to merge.")
    sizes = np.array([run.scores.shape[0] for run in runs], np.float64)
    reached = np.array([int(run.status) == Status.REACHED for run in runs])
    logs = np.array([float(run.log_prob) for run in runs])
    stds = np.array([float(run.log_prob_std) for run in runs])
    weights = sizes / sizes.sum()
    terms = np.where(reached, np.log(weights) + logs, -np.inf)
    log_prob = float(np.logaddexp.reduce(terms))
    with np.errstate(invalid="ignore"):
        shares = np.where(reached, np.exp(terms - log_prob), 0.0) if reached.any() else weights * 0
    own = float(np.sum(np.square(shares * stds)))
    spread, dof = own, float(sum(float(run.log_prob_dof) for run in runs))
    if len(runs) > 1 and reached.any():
        ratios = np.where(reached, shares / weights, 0.0)
        between = float(np.sum(np.square(weights * (ratios - 1.0)))) * len(runs) / (len(runs) - 1)
        if between > own:
            spread, dof = between, float(len(runs) - 1)
    kept = [run for run, there in zip(runs, reached, strict=True) if there]
    inside = [_inside(run) for run in kept]
    return MergedResult(
        log_prob=log_prob,
        log_prob_std=math.sqrt(spread) if reached.any() else math.nan,
        log_prob_dof=dof,
        num_runs=len(runs),
        num_reached=int(reached.sum()),
        num_queries=sum(count(run.num_queries) for run in runs),
        homogeneity=_homogeneity(logs[reached], stds[reached], len(runs) - int(reached.sum())),
        particles=_together([run.particles for run in kept], inside, runs[0].particles),
        scores=_together([run.scores for run in kept], inside, runs[0].scores),
        log_weights=np.concatenate(
            [
                np.full(hits.sum(), math.log(share / hits.sum()))
                for hits, share in zip(inside, shares[reached], strict=True)
            ]
            or [np.zeros(0)]
        ),
    )


def single_runs(results: SplittingResult | Sequence[SplittingResult]) -> list[SplittingResult]:
    """The runs one by one, whatever they were vmapped over."""
    if not isinstance(results, SplittingResult):
        return [run for one in results for run in single_runs(one)]
    if np.ndim(results.log_prob) == 0:
        return [results]
    rows = range(results.log_prob.shape[0])
    return [
        run
        for row in rows
        for run in single_runs(jax.tree.map(lambda leaf, row=row: leaf[row], results))
    ]


def _inside(run: SplittingResult) -> np.ndarray:
    """bool[n]: which of the last particles are in the event: the last level is the threshold."""
    return np.asarray(run.scores) >= float(run.levels[int(run.num_levels) - 1])


def _together(trees: list[Particles], chosen: list[np.ndarray], like: Particles) -> Particles:
    """The chosen rows of all, one after the other; none, if there are no trees."""
    if not trees:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:0], like)
    return jax.tree.map(
        lambda *leaves: np.concatenate(
            [np.asarray(leaf)[rows] for leaf, rows in zip(leaves, chosen, strict=True)]
        ),
        *trees,
    )


def _homogeneity(logs: np.ndarray, stds: np.ndarray, missed: int) -> float:
    """The p-value of Cochran's Q of the log estimates; 0 where only some runs met the event."""
    if len(logs) and missed:
        return 0.0
    sure = stds > 0
    if sure.sum() < 2:
        return 1.0
    # A log estimate lies half a variance too low.
    middle, precision = logs[sure] + 0.5 * stds[sure] ** 2, 1.0 / stds[sure] ** 2
    mean = float(np.sum(precision * middle) / np.sum(precision))
    return float(special.chdtrc(sure.sum() - 1, np.sum(precision * (middle - mean) ** 2)))
