"""Screening: images that the model does not take for the target already."""

from restore_jax.recovery.found import Found
from restore_jax.run import Run


def screen(run: Run, found: Found) -> Found:
    """Takes the search's own probes.

    Raises:
      Inconclusive: the model gives nearly all probes the target without any trigger.
    """
    aim = found.aim
    m = aim.settings.num_probes
    with run.stage("screening"):
        most = aim.most_screened
        if most is None:
            most = run.ledger.left - (aim.least - m)
        return found.now(probes=found.feed.take(m, most))
