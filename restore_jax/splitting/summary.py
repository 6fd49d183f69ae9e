"""A run's result for a person to read."""

import math
from typing import TYPE_CHECKING

import jax
import numpy as np

from restore_jax.splitting.counting import count
from restore_jax.splitting.estimators import effective_sample_size
from restore_jax.splitting.types import Array, Status

if TYPE_CHECKING:
    from restore_jax.splitting.types import SplittingResult, SplittingState

FEW_FAMILIES = 8
FEW_DEGREES = 8
LOW_ACCEPTANCE = 0.05
_ENDED = {
    Status.RUNNING: "still running",
    Status.REACHED: "the event was reached",
    Status.STALLED: "stalled, all particles having the same score",
    Status.OUT_OF_LEVELS: "out of levels before the event",
    Status.OUT_OF_QUERIES: "out of queries before the event",
}


def summary(result: "SplittingResult", confidence: float = 0.95) -> str:
    """A few lines and a table of levels.

    Args:
      result: of one run.
      confidence: of the interval, in (0, 1).

    Returns:
      Text of several lines: how the run ended, the probability with its interval or bound, the
      effective sample size, a row per level (the score to exceed, the share above it, log10 of
      the probability so far, the share of moves accepted, how many of the first particles
      have descendants, how many families parted a few levels ago), and a warning for
      whatever makes the interval doubtful.

    Raises:
      ValueError: the result of a vmapped run.
    """
    if np.ndim(result.status) != 0:
        raise ValueError("summary reads one result: take one lane of a vmapped one first.")
    status = Status(int(result.status))
    lines = [
        f"{': '.join(filter(None, (_ENDED[status], status.remedy)))}, "
        f"{count(result.num_queries):,} queries",
        _probability(result, confidence),
        f"effective sample size {float(effective_sample_size(result)):,.0f} of "
        f"{result.scores.shape[-1]:,} particles",
    ]
    lines.append(f"{'level':>5} {'score above':>12} {'survive':>8} {'log10 p':>9} "
                 f"{'accepted':>9} {'ancestors':>10} {'families':>9}")  # fmt: skip
    log_prob = 0.0
    for i in range(int(result.num_levels)):
        log_prob += math.log(float(result.survival[i]))
        acceptance = float(result.acceptance[i])
        accepted = "" if math.isnan(acceptance) else f"{acceptance:.1%}"
        lines.append(
            f"{i + 1:>5} {float(result.levels[i]):>12.5g} {float(result.survival[i]):>8.1%} "
            f"{log_prob / math.log(10):>9.3f} {accepted:>9} "
            f"{int(result.ancestors[i]):>10} {int(result.families[i]):>9}"
        )
    return "\n".join([*lines, *(f"warning: {text}" for text in warnings(result))])


def in_a_line(given: "SplittingResult | SplittingState", num_levels: Array) -> str:
    """What Python shows of a result or a state: a line, and no numbers where there are none."""
    name = type(given).__name__
    leaves = jax.tree.leaves(given)
    if not all(isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in leaves):
        return f"{name}(of {len(leaves)} leaves)"
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return f"{name}(traced, {given.scores.shape[-1]:,} particles)"
    runs = np.shape(given.status)
    particles = f"{given.scores.shape[-1]:,} particles"
    if runs:
        reached = int(np.sum(np.asarray(given.status) == Status.REACHED))
        return f"{name}({math.prod(runs):,} runs of {particles}, {reached:,} reached the event)"
    status, log_prob = Status(int(given.status)), float(given.log_prob) / math.log(10)
    found = "no estimate" if math.isnan(log_prob) else f"log10 p = {log_prob:.3f}"
    if status != Status.REACHED and not math.isnan(log_prob):
        found += " of the last level"
    return (
        f"{name}({_ENDED[status]}, {found}, {int(num_levels)} levels, "
        f"{count(given.num_queries):,} queries, {particles})"
    )


def warnings(result: "SplittingResult") -> list[str]:
    """What makes the interval of one run doubtful, a sentence each; empty where nothing does."""
    levels = int(result.num_levels)
    n = result.scores.shape[-1]
    found = []
    fewest = min(np.asarray(result.families)[:levels], default=n)
    if fewest < min(FEW_FAMILIES, n):
        found.append(
            f"the {n} particles were of only {fewest} families at some level: the interval may be "
            "too narrow, take more particles."
        )
    elif float(result.log_prob_dof) < FEW_DEGREES:
        found.append(
            f"the standard error rests on {float(result.log_prob_dof):.0f} degrees of freedom: a "
            "few families made most of it, take more particles or more moves."
        )
    accepted = np.asarray(result.acceptance)[:levels]
    if np.any(accepted < LOW_ACCEPTANCE):
        found.append(
            f"at {int(np.sum(accepted < LOW_ACCEPTANCE))} of {levels} levels fewer than "
            f"{LOW_ACCEPTANCE:.0%} of the moves were accepted: clones stay together, and the "
            "interval may be too narrow; take more or smaller moves."
        )
    if count(result.num_nan):
        found.append(f"{count(result.num_nan):,} scores were NaN and counted as below every level.")
    return found


def _probability(result: "SplittingResult", confidence: float) -> str:
    if math.isnan(float(result.log_prob)):
        return "stopped at the first hit: no estimate of its probability"
    low, high = result.interval(confidence)
    if bool(result.reached):
        return (
            f"log10 p = {_log10(result.log_prob):.3f}, {confidence:.0%} interval "
            f"{_log10(low):.3f} to {_log10(high):.3f}"
        )
    return f"log10 p is at most {_log10(high):.3f} ({confidence:.0%})"


def _log10(natural: Array) -> float:
    """A natural logarithm as a decimal one."""
    return float(natural) / math.log(10)
