"""Choosing: which of the triggers that a search found is given back."""

import jax
import numpy as np

from restore_jax.errors import OutOfQueries
from restore_jax.recovery.aims import MAX_CANDIDATES
from restore_jax.recovery.candidates import candidates, leads, robust, smallest
from restore_jax.recovery.found import Candidate, Found, known
from restore_jax.run import Run

MORE_DRAWS = 6
"""How often a search for a first hit draws again, if what it drew first works but just about."""


def choose(run: Run, found: Found) -> Found:
    """The smallest of the candidates that lead most probes faded; the best one, if none is past
    the goal."""
    aim, searching = found.aim, found.search
    assert searching is not None
    assert found.state is not None
    with run.stage("choice"):
        state, some = found.state, (aim.space, aim.target, searching.goal)
        everybody = candidates(state.particles, state.scores, *some)
        past = [c for c in everybody if c.score >= searching.goal][:MAX_CANDIDATES]
        margins: np.ndarray | None = None
        chosen, faded_rate = everybody[0], None
        if past and not found.interrupted:
            try:
                margins = leads(
                    run, [c.trigger for c in past], known(found.probes), aim.settings.fade
                )
                past, margins = _drawn_again(run, found, past, margins)
                chosen = smallest(past, margins)
                faded_rate = float((margins >= 0).mean(-1).max())
            except OutOfQueries:  # images had to be sent again
                margins = None
    return found.now(
        past=tuple(past),
        margins=margins,
        chosen=chosen,
        trigger=chosen.trigger,
        faded_rate=faded_rate,
    )


def _drawn_again(
    run: Run, found: Found, past: list[Candidate], margins: np.ndarray
) -> tuple[list[Candidate], np.ndarray]:
    """More candidates, where random draws have the event and none of them works faded.

    Another draw is then cheaper than a better one by moves.
    """
    aim, searching = found.aim, found.search
    assert searching is not None
    assert found.state is not None
    if aim.stop != "first_hit" or aim.first is not None or int(found.state.index) > 0:
        return past, margins
    key, fade = jax.random.key(run.seed), aim.settings.fade
    # Draws without a hit among them are scored twice: racing, and then whole.
    dearest = 2 * aim.settings.num_particles * aim.settings.num_probes
    for again in range(1, MORE_DRAWS + 1):
        if robust(margins, aim.success) or run.ledger.left - aim.reserve < dearest:
            break
        if run.ledger.time_is_over():
            break
        more = searching.sampler.init(jax.random.fold_in(key, again), searching.args)
        fresh = candidates(more.particles, more.scores, aim.space, aim.target, searching.goal)
        fresh = [c for c in fresh if c.score >= searching.goal][: MAX_CANDIDATES - len(past)]
        if fresh:
            led = leads(run, [c.trigger for c in fresh], known(found.probes), fade)
            past, margins = [*past, *fresh], np.concatenate([margins, led])
        if len(past) == MAX_CANDIDATES:
            break
    return past, margins
