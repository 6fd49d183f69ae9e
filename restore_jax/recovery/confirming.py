"""Confirming and measuring: what the trigger does to images that the search never saw."""

import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import Attack, planted_attack, stamp, towards_one
from restore_jax.errors import OutOfQueries, OutOfTime
from restore_jax.recovery.aims import FEWEST_OF_ONE_CLASS, NUM_CONFIRMATION
from restore_jax.recovery.candidates import leads
from restore_jax.recovery.found import Found, known
from restore_jax.recovery.truth import attack_success_rate, compare
from restore_jax.run import Run

OUT_OF_QUERIES, OUT_OF_TIME = "out_of_queries", "out_of_time"


def confirm(run: Run, found: Found) -> Found:
    """The share of fresh probes that the trigger leads to the target decides."""
    with run.stage("confirmation"):
        try:
            found = found.now(confirmation=_confirmed(run, found))
        except KeyboardInterrupt:
            found = found.now(status="interrupted", cut_short=True)
        except OutOfTime:
            found = found.now(status=OUT_OF_TIME, cut_short=True)
        except OutOfQueries:  # images had to be sent again
            found = found.now(status=OUT_OF_QUERIES, cut_short=True)
    return found.now(seconds={**found.seconds, "total": run.seconds()})


def measure(run: Run, found: Found) -> Found:
    """What the budget need not pay for: test images, the planted trigger, the search's own probes
    once more."""
    aim = found.aim
    attack: Attack | None = None
    if aim.planted is not None:
        attack = planted_attack(aim.planted, run.model.image_shape, run.model.num_classes)
    planted_rate: float | None = None
    with run.stage("confirmation"):
        try:
            if aim.test_data is not None and not found.interrupted and not found.cut_short:
                mine = towards_one(known(found.trigger), run.model.num_classes, aim.source)
                found = found.now(test_rate=_on_test_images(run, mine, aim.test_data))
                if attack is not None:
                    planted_rate = _on_test_images(run, attack, aim.test_data)
        except KeyboardInterrupt:
            found = found.now(status="interrupted")
        except OutOfTime:
            found = found.now(status=OUT_OF_TIME)
        except OutOfQueries:  # images had to be sent again
            found = found.now(status=OUT_OF_QUERIES)
        found = found.now(probe_rate=_on_probes(run, found))
    if attack is None:
        return found
    truth = compare(known(found.trigger), attack.trigger, planted_rate, known(found.probes))
    return found.now(planted_trigger=attack.trigger, truth=truth)


def _confirmed(run: Run, found: Found) -> float | None:
    """The share of fresh probes led to the target; None if the budget does not pay for it."""
    wanted = min(NUM_CONFIRMATION, run.ledger.left // 2)
    if wanted < NUM_CONFIRMATION // 2:
        return None
    enough = None if found.aim.source is None else FEWEST_OF_ONE_CLASS
    probes = found.feed.take(wanted, run.ledger.left - wanted, enough)
    return float(np.mean(leads(run, [known(found.trigger)], probes, 0.0) >= 0))


def _on_test_images(
    run: Run, attack: Attack, test_data: tuple[np.ndarray, np.ndarray]
) -> float | None:
    number = int(np.sum(test_data[1] != attack.leads_to[test_data[1]]))
    if number * (run.pace or 0.0) > run.ledger.seconds_left:
        return None
    asker = run.beside(number)
    if asker is None:
        return None
    with run.untimed():  # all of them are booked
        return attack_success_rate(run.model, attack, *test_data, asker=asker)


def _on_probes(run: Run, found: Found) -> float | None:
    probes = known(found.probes)
    asker = run.beside(len(probes))
    if asker is None:
        return None
    hits = asker.labels(stamp(known(found.trigger), probes)) == found.aim.target
    return float(jnp.mean(hits))
