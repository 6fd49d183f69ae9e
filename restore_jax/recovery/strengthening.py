"""Strengthening: goes on from triggers that barely work to one that works when faded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.errors import OutOfQueries
from restore_jax.racing import needed
from restore_jax.recovery.aims import NUM_CONFIRMATION
from restore_jax.recovery.candidates import candidates, leads, robust
from restore_jax.recovery.found import Candidate, Found, known
from restore_jax.recovery.searching import progress
from restore_jax.run import Run
from restore_jax.splitting import SplittingState, Status, counting

LESS = 0.75
"""Moves towards a trigger that works faded aim at this share of the fading."""


def strengthen(run: Run, found: Found) -> Found:
    """Moves on, where no candidate works faded and the budget pays: the smallest trigger that then
    works less faded, or else the closest, if it still does unfaded what the chosen one did."""
    with run.stage("choice"), run.keeping(2 * NUM_CONFIRMATION):
        if (
            found.margins is None
            or found.interrupted
            or robust(found.margins, found.aim.success)
            or run.ledger.left <= found.aim.reserve
            or run.ledger.time_is_over()
        ):
            return found
        try:
            latest, interrupted = _moved_on(run, found)
            better = found.now(particles=latest.particles, scores=latest.scores)
            if interrupted:
                better = better.now(status="interrupted", log10_prob=None, interval=None)
            chosen = _smallest_or_closest(run, better)
        except OutOfQueries:  # images had to be sent again
            return found
    return better.now(chosen=chosen, trigger=chosen.trigger)


def _smallest_or_closest(run: Run, found: Found) -> Candidate:
    aim, searching, probes = found.aim, known(found.search), known(found.probes)
    scores = known(found.scores)
    stronger = candidates(found.particles, scores, aim.space, aim.target, searching.goal)
    best = min(stronger, key=lambda candidate: int(candidate.trigger.pixels))
    if best.score >= searching.goal:
        return best
    # None works so faded. The closest to that may not even work unfaded, as those before did.
    paid = run.ledger.left >= probes.shape[0]
    if paid and robust(leads(run, [best.trigger], probes, 0.0), aim.success):
        return best
    return known(found.chosen)


def _moved_on(run: Run, found: Found) -> tuple[SplittingState, bool]:
    """Some levels with the trigger's effect faded.

    The population becomes copies of those past the event, with their faded scores. What this says
    of probabilities is nothing.

    Returns:
      The last state, its scores those of faded triggers, and whether Ctrl-C ended it.
    """
    aim, searching = found.aim, found.search
    assert searching is not None
    fade = LESS * aim.settings.fade
    state = _faded_population(run, found, fade)
    args = searching.args | {"fade": jnp.float32(fade)}
    try:
        for _ in range(aim.settings.refine_levels):
            state = searching.sampler.advance(state, args)
            if aim.on_progress is not None:
                aim.on_progress(progress(run, searching, state))
            reached = float(state.scores.max()) >= searching.goal
            if int(state.status) != Status.RUNNING or reached or run.ledger.time_is_over():
                break
    except KeyboardInterrupt:
        return state, True
    except OutOfQueries:  # images had to be sent again
        return dataclasses.replace(state, status=jnp.int32(Status.OUT_OF_QUERIES)), False
    return state, False


def _faded_population(run: Run, found: Found, fade: float) -> SplittingState:
    """The search's state with copies of the candidates for particles."""
    aim, searching, state = found.aim, known(found.search), known(found.state)
    past = known(found.past)
    margins = leads(run, [candidate.trigger for candidate in past], known(found.probes), fade)
    n, m = state.scores.shape[0], margins.shape[1]
    by_labels = searching.goal > 0
    if by_labels:
        scores = (margins >= 0).sum(-1)
    else:
        scores = np.sort(margins, -1)[:, m - needed(aim.success, m)]
    places = np.resize(np.arange(len(past)), n)
    scores = scores[places].astype(np.float32)
    # Where all are level there is no level to be above: one of them is put just below.
    scores[-1] -= 1.0 if by_labels else 1e-4 * max(1.0, abs(float(scores[-1])))
    particles = [candidate.particle for candidate in past]
    return dataclasses.replace(
        state,
        # What was sent besides the search counts against its budget, too.
        num_queries=counting.halves((run.ledger.spent - searching.since) // run.model.each),
        particles=jax.tree.map(lambda *leaves: jnp.stack(leaves)[places], *particles),
        scores=jnp.asarray(scores),
        status=jnp.int32(Status.RUNNING),
    )
