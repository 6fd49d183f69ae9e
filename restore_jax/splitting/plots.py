"""Pictures of a run, by matplotlib: its levels, the tail that it saw, who descends from whom."""

import math
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from restore_jax.splitting.keeping import kept_levels
from restore_jax.splitting.merging import single_runs
from restore_jax.splitting.tail import log_prob_of
from restore_jax.splitting.types import KeptLevels, SplittingResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOUR = "#2a6f97"
"""Of what a run says."""


def plot_levels(result: SplittingResult, ax: "Axes | None" = None) -> "Axes":
    """The score of each level against its probability, and the share of moves accepted there.

    Args:
      result: of one run, or of a vmapped one: a line for each run.
      ax: where to draw; None: a new figure.

    Returns:
      The axes, scores on their x axis and log10 of probabilities on the y axis.

    >>> import jax
    >>> from restore_jax.splitting import importance_splitting, standard_normal
    >>> first = lambda x, args: x[..., 0]
    >>> algorithm = importance_splitting(first, standard_normal(1), threshold=3.0)
    >>> ax = plot_levels(jax.jit(algorithm.run)(jax.random.key(0), ()))
    >>> ax.get_xlabel()
    'score'
    """
    ax = _axes(ax)
    runs = single_runs(result)
    for run in runs:
        number = int(run.num_levels)
        log10 = np.cumsum(np.log(np.asarray(run.survival, np.float64)[:number])) / math.log(10)
        levels = np.asarray(run.levels)[:number]
        ax.plot(levels, log10, "-", color=COLOUR, alpha=0.7, linewidth=1)
        shown = ax.scatter(
            levels, log10, c=np.asarray(run.acceptance)[:number], cmap="viridis", vmin=0, vmax=1,
            zorder=3, plotnonfinite=True,
        )  # fmt: skip
    if runs:
        ax.figure.colorbar(shown, ax=ax, label="share of moves accepted")
    ax.set_xlabel("score")
    ax.set_ylabel("log10 of the probability to exceed it")
    return ax


def plot_tail(
    result: SplittingResult,
    ax: "Axes | None" = None,
    *,
    confidence: float = 0.95,
    points: int = 200,
) -> "Axes":
    """The probability of reaching each score, with its interval: the whole tail, from one run.

    Args:
      result: of one run with ``keep=True``.
      ax: where to draw; None: a new figure.
      confidence: of the intervals, each by itself, in (0, 1).
      points: of the curve.

    Raises:
      ValueError: the run did not keep its levels, or there are several runs.

    >>> import jax
    >>> from restore_jax.splitting import importance_splitting, standard_normal
    >>> first = lambda x, args: x[..., 0]
    >>> algorithm = importance_splitting(first, standard_normal(1), threshold=3.0, keep=True)
    >>> ax = plot_tail(jax.jit(algorithm.run)(jax.random.key(0), ()))
    >>> ax.get_ylabel()
    'log10 of the probability to reach it'
    """
    _kept(result)
    ax = _axes(ax)
    at = _tail_points(result, points)
    tail = log_prob_of(result, at)
    decade = math.log(10)
    low, high = (np.asarray(end) / decade for end in tail.interval(confidence))
    ax.fill_between(
        at, low, high, color=COLOUR, alpha=0.25, linewidth=0, label=f"{confidence:.0%} interval"
    )
    ax.plot(at, np.asarray(tail.log_prob) / decade, color=COLOUR, label="estimate")
    number = int(result.num_levels)
    for level in np.asarray(result.levels)[:number]:
        ax.axvline(level, color="0.85", linewidth=0.5, zorder=0)
    ax.set_xlabel("score")
    ax.set_ylabel("log10 of the probability to reach it")
    ax.legend()
    return ax


def plot_genealogy(result: SplittingResult, ax: "Axes | None" = None) -> "Axes":
    """Who descends from whom: each population's share of descendants, by ancestor, level by level.

    A column for each population, from the first draw on, in which each of the first particles that
    has descendants has a colour and takes as much room as these. A few wide bands say that few
    families are left, and that the error may be understated.

    Args:
      result: of one run with ``keep=True``.
      ax: where to draw; None: a new figure.

    Raises:
      ValueError: the run did not keep its levels, or there are several runs.

    >>> import jax
    >>> from restore_jax.splitting import importance_splitting, standard_normal
    >>> first = lambda x, args: x[..., 0]
    >>> algorithm = importance_splitting(first, standard_normal(1), threshold=3.0, keep=True)
    >>> ax = plot_genealogy(jax.jit(algorithm.run)(jax.random.key(0), ()))
    >>> ax.get_xlabel()
    'levels passed'
    """
    kept = _kept(result)
    ax = _axes(ax)
    rows = np.sort(np.asarray(kept.ancestors)[: int(kept.num_rows)], axis=1)
    # Colours by the ancestor's rank in score, so that neighbours are like each other.
    rank = np.argsort(np.argsort(np.asarray(kept.scores[0]), kind="stable"), kind="stable")
    columns = np.sort(rank[rows], axis=1).T
    n = columns.shape[0]
    ax.imshow(
        columns, aspect="auto", origin="lower", interpolation="nearest", cmap="turbo",
        extent=(-0.5, columns.shape[1] - 0.5, 0, 1), vmin=0, vmax=n - 1,
    )  # fmt: skip
    ax.set_xlabel("levels passed")
    ax.set_ylabel("share of particles, by their first ancestor's score")
    return ax


def _tail_points(result: SplittingResult, points: int) -> np.ndarray:
    """f32[points]: scores to draw the tail at, from the median of the first particles on."""
    first = np.asarray(kept_levels(result).scores[0])
    finite = first[np.isfinite(first)]
    low = float(np.median(finite)) if len(finite) else 0.0
    last = result.levels[jnp.maximum(result.num_levels - 1, 0)]
    high = float(np.nanmax([low, float(last)]))
    return np.linspace(low, high, points, dtype=np.float32)


def _axes(ax: "Axes | None") -> "Axes":
    if ax is not None:
        return ax
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots()


def _kept(result: SplittingResult) -> KeptLevels:
    """The populations of a single run."""
    if np.ndim(result.status) != 0:
        raise ValueError("a picture of one run: take one lane of a vmapped result first.")
    return kept_levels(result)
