"""A run that says how it goes, from inside the compiled loop."""

import math
import sys

import jax
import numpy as np

from restore_jax.splitting.counting import count
from restore_jax.splitting.levels import one_level
from restore_jax.splitting.settings import SamplerSettings
from restore_jax.splitting.types import Args, Array, LevelInfo, SplittingState, Status


def reported_level(
    settings: SamplerSettings, state: SplittingState, args: Args
) -> tuple[SplittingState, LevelInfo]:
    """One level, told to ``settings.progress`` if there is anybody to tell."""
    after, info = one_level(settings, state, args)
    told = settings.progress
    if told is None:
        return after, info

    def tell(running: np.ndarray, info: LevelInfo) -> None:
        # Under vmap a run that is done goes through the levels of the others, for nothing.
        if running:
            told(jax.tree.map(np.asarray, info))

    running: Array = state.status == Status.RUNNING
    jax.debug.callback(tell, running, info)
    return after, info


def print_level(info: LevelInfo) -> None:
    """One line on stderr about a level, in NumPy.

    >>> import contextlib, io
    >>> from restore_jax.splitting import importance_splitting, standard_normal
    >>> first = lambda x, args: x[..., 0]
    >>> algorithm = importance_splitting(first, standard_normal(1), threshold=1.0, progress=True)
    >>> with contextlib.redirect_stderr(io.StringIO()) as said:
    ...     _ = algorithm.run(jax.random.key(0), ())
    ...     jax.effects_barrier()
    >>> len(said.getvalue().splitlines())
    2
    """
    accepted = "" if math.isnan(info.acceptance) else f", {float(info.acceptance):.0%} accepted"
    sys.stderr.write(
        f"level {int(info.index) + 1}: score above {float(info.level):.5g}, "
        f"log10 p {float(info.log_prob) / math.log(10):.3f}{accepted}, "
        f"{count(info.num_queries):,} scores\n"
    )
    sys.stderr.flush()
