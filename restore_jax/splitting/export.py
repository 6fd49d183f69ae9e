"""Results for other tools: data frames, and ArviZ."""

import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from restore_jax.splitting.merging import single_runs
from restore_jax.splitting.types import SplittingResult, Status

if TYPE_CHECKING:
    import pandas as pd


def to_dataframe(result: SplittingResult) -> "pd.DataFrame":
    """A row for each level of a run, or of each of several.

    Needs pandas (``pip install 'restore-jax[export]'``).

    Args:
      result: of one run, or of a vmapped one.

    Returns:
      Columns ``run`` (of a vmapped result alone), ``level`` (from 1), ``score_above``,
      ``survival``, ``log10_prob`` (of the levels so far), ``acceptance`` (NaN where nothing moved),
      ``ancestors``, ``families``.

    >>> from restore_jax.splitting import importance_splitting, standard_normal
    >>> first = lambda x, args: x[..., 0]
    >>> algorithm = importance_splitting(first, standard_normal(1), threshold=3.0)
    >>> frame = to_dataframe(jax.jit(algorithm.run)(jax.random.key(0), ()))
    >>> list(frame.columns[:4]), len(frame)
    (['level', 'score_above', 'survival', 'log10_prob'], 5)
    """
    import pandas as pd

    frames = [_levels(run) for run in single_runs(result)]
    if np.ndim(result.status) == 0:
        return pd.DataFrame(frames[0])
    named = [pd.DataFrame({"run": k, **frame}) for k, frame in enumerate(frames)]
    return pd.concat(named, ignore_index=True)


def to_inference_data(result: SplittingResult) -> Any:
    """The particles in the event, for ArviZ: each run a chain, each particle a draw.

    They are draws of the prior in the event, each with the same weight; those of a chain share
    ancestors. Of several runs each gives as many as the one with the fewest, and should weigh what
    it found: ``sample_stats.log_prob``. Needs ArviZ (``pip install 'restore-jax[export]'``).

    Args:
      result: of one run that reached the event, or of a vmapped one of which each did.

    Returns:
      `arviz.InferenceData` (from ArviZ 1.0 on a DataTree). Its ``posterior`` has the leaves of the
      particles, named after their places in the pytree, or ``x``; its ``sample_stats`` has
      ``score`` and a run's natural ``log_prob``.

    Raises:
      ValueError: a run did not reach the event.

    >>> from restore_jax.splitting import importance_splitting, standard_normal
    >>> first = lambda x, args: x[..., 0]
    >>> algorithm = importance_splitting(first, standard_normal(2), threshold=3.0)
    >>> data = to_inference_data(jax.jit(algorithm.run)(jax.random.key(0), ()))
    >>> bool((data.posterior["x"][..., 0] >= 3.0).all())
    True
    """
    runs = single_runs(result)
    if any(int(run.status) != Status.REACHED for run in runs):
        raise ValueError("a run did not reach the event: it has no particles in it.")
    inside = [np.flatnonzero(np.asarray(run.scores) >= float(run.levels[int(run.num_levels) - 1]))
              for run in runs]  # fmt: skip
    number = min(map(len, inside))
    # Spread over the whole population: neighbours in it are states of one chain, or of one sweep.
    chosen = [rows[np.arange(number) * len(rows) // number] for rows in inside]
    posterior: dict[str, list[np.ndarray]] = {}
    for run, rows in zip(runs, chosen, strict=True):
        for path, leaf in jax.tree_util.tree_leaves_with_path(run.particles):
            name = jax.tree_util.keystr(path, simple=True, separator="_") or "x"
            posterior.setdefault(name, []).append(np.asarray(leaf)[rows])
    groups: dict[str, Any] = {
        "posterior": {name: np.stack(chains) for name, chains in posterior.items()},
        "sample_stats": {
            "score": np.stack(
                [np.asarray(run.scores)[rows] for run, rows in zip(runs, chosen, strict=True)]
            ),
            "log_prob": np.stack([np.full(number, float(run.log_prob)) for run in runs]),
        },
    }
    import arviz

    if hasattr(arviz, "InferenceData"):
        return arviz.from_dict(**groups)
    return arviz.from_dict(groups)


def _levels(run: SplittingResult) -> dict[str, np.ndarray]:
    """The columns of one run's levels."""
    number = int(run.num_levels)
    survival = np.asarray(run.survival, np.float64)[:number]
    return {
        "level": np.arange(1, number + 1),
        "score_above": np.asarray(run.levels)[:number],
        "survival": survival,
        "log10_prob": np.cumsum(np.log(survival)) / math.log(10),
        "acceptance": np.asarray(run.acceptance)[:number],
        "ancestors": np.asarray(run.ancestors)[:number],
        "families": np.asarray(run.families)[:number],
    }
