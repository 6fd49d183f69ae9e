"""Makes the guards of a model: from what was recovered to what is asked, and what that is worth."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import Trigger, stamp
from restore_jax.diagnosis import Scan
from restore_jax.errors import Inconclusive, InputError
from restore_jax.oracles.checking import check_outputs
from restore_jax.oracles.types import labels
from restore_jax.purification import relatives
from restore_jax.purification.blind import DIFFERS, DIFFERS_ON_LEAVES, Blind, blind_looks, power_of
from restore_jax.purification.choosing import Ask, Shown, choose
from restore_jax.purification.menu import menu
from restore_jax.purification.rules import verdict
from restore_jax.purification.types import Guard, Power, Report, Rule
from restore_jax.recovery import Recovery
from restore_jax.run import Run

Array = jax.Array
Recovered = Recovery | Trigger | Scan | Sequence[Recovery | Trigger]
NUM_PROBES = 100
"""Honest probes that looks are tried on."""
PER_TRIGGER, NUM_RECOVERED = 8, 32
"""Probes that each trigger is stamped on, and each of those recovered once more, for the report."""
CHOSEN_WITH, TRIED_ON = 24, 8
"""Triggers that a guard is chosen with, and others that it is tried on, at most: three and one of
every four."""
LEFT, MOST = 0.25, 0.5
"""Recovered triggers that still lead more probes than the former are not removed; of those around
them, of which some lead synthetic images alone, more than the latter is a reason for doubt."""
MOST_LOOKS = 12
"""More than there are in any menu."""
CHUNK = 100
BLIND_COST = 4 * NUM_PROBES
"""Images that `defend_blindly` asks about, at most."""


def defences(run: Run, recoveries: Recovered) -> list[Guard]:
    """A guard for each class that a trigger was recovered for; see `purifier`.

    The run pays for what is asked meanwhile: at most `defence_cost`.

    Raises:
      InputError: nothing was found in the recoveries.
      Inconclusive: a trigger leads no probe.
    """
    by_class: dict[int, list[Recovery | Trigger]] = {}
    for one in found_in(recoveries):
        trigger = one if isinstance(one, Trigger) else one.trigger
        by_class.setdefault(int(trigger.target), []).append(one)
    ask = _asker(run)
    honest = run.source.draw(0, _available(run))
    answers = np.asarray(labels(run.model.access, jnp.asarray(ask(honest))))
    return [_guard(run, ask, target, some, honest, answers) for target, some in by_class.items()]


def defend_blindly(run: Run) -> Blind:
    """All classes guarded, without a recovery; see `blind`. The run pays: `BLIND_COST`.

    >>> from restore_jax import open_model
    >>> bright = lambda images: jnp.stack([1 - images.mean((1, 2, 3)), images.mean((1, 2, 3))], -1)
    >>> run = Run(open_model(bright), budget=1_000)
    >>> defend_blindly(run).power.honest, run.ledger.spent
    (100, 400)
    """
    shown = blind_looks(run.model.image_shape[2])
    honest = run.source.draw(0, _available(run))
    model = run.model
    ask = _asker(run)
    power = power_of(model.access, model.class_names, shown, ask, honest, run.source.name)
    return Blind(shown, power)


def blind_report(defence: Blind) -> Report:
    """What this can do, and what it cannot.

    >>> from restore_jax import open_model
    >>> bright = lambda images: jnp.stack([1 - images.mean((1, 2, 3)), images.mean((1, 2, 3))], -1)
    >>> blind_report(defend_blindly(Run(open_model(bright), budget=1_000))).warnings
    ()
    """
    power = defence.power
    warnings = []
    most = {"dead_leaves": DIFFERS_ON_LEAVES, "shapes": 1.0}.get(power.probes, DIFFERS)
    if power.changed > most:
        warnings.append(
            f"{power.changed:.0%} of honest probes are given another class when they are changed: "
            "this model may not know images mirrored, grey or smoothed, so look at what it says of "
            "clean images of your own before you rely on this (`probes`)."
        )
    return Report((), (), tuple(warnings), power)


def defence_cost(triggers: int) -> int:
    """The most images that `defences` asks about, of so many triggers."""
    found = relatives.MOST * relatives.SHOWN + relatives.STRANGERS_COST
    stamped, others = CHOSEN_WITH * PER_TRIGGER, TRIED_ON * PER_TRIGGER
    led = NUM_PROBES
    trying = stamped + MOST_LOOKS * (stamped + NUM_PROBES)
    power = 3 * (stamped + others + NUM_RECOVERED + NUM_PROBES)
    return NUM_PROBES + triggers * (found + led + trying + power)


def found_in(recoveries: Recovered) -> list[Recovery | Trigger]:
    """What was found, one after the other.

    Raises:
      InputError: nothing was: then there is no class to guard.
    """
    if isinstance(recoveries, Scan):
        if not recoveries.recoveries:
            named = ", ".join(map(str, recoveries.named))
            what = f"confirmed no trigger of class {named}" if named else "named no class"
            raise InputError(
                f"the scan {what} (its verdict: {recoveries.verdict}), so there is no class to "
                "guard and purify cannot help: a trigger that the scan missed goes through. Guard "
                "all classes with `blind`, scan with a larger `budget` or other spaces, or recover "
                "a class that you suspect."
            )
        return [*recoveries.recoveries]
    some = [recoveries] if isinstance(recoveries, Recovery | Trigger) else list(recoveries)
    found = [one for one in some if isinstance(one, Trigger) or one.found]
    if not found:
        raise InputError(
            "no trigger was found in these recoveries: there is nothing to purify, and purify "
            "cannot help: it guards the classes that a trigger was found for; or all, with `blind`."
        )
    return found


def report(run: Run, guards: Sequence[Guard], recoveries: Recovered) -> Report:
    """What these guards can do, and what they cannot."""
    names = run.model.class_names
    guarded = {guard.target for guard in guards}
    warnings = [text for guard in guards for text in _warnings(guard.power)]
    if isinstance(recoveries, Scan):
        warnings += [
            f"{names[target]} stood out in the scan, but no trigger of it was confirmed: it is not "
            "guarded."
            for target in recoveries.named
            if target not in guarded
        ]
    return Report(
        guards=tuple(guard.power for guard in guards),
        unguarded=tuple(name for k, name in enumerate(names) if k not in guarded),
        warnings=tuple(warnings),
    )


def _warnings(power: Power) -> list[str]:
    found = []
    advice = "Do not trust this model where it answers with this class."
    if power.recovered_asr_after > LEFT:
        found.append(
            f"triggers to {power.target_name} are not removed: the recovered ones still lead "
            f"{power.recovered_asr_after:.0%} of probes, and whatever was planted may as well. "
            + advice
        )
    elif power.worst_asr_after > MOST:
        found.append(
            f"most triggers to {power.target_name} around the recovered ones are not removed: they "
            f"still lead {power.worst_asr_after:.0%} of probes. {advice}"
        )
    if not power.held_out:
        found.append(
            f"of triggers to {power.target_name} none but those recovered were found to work, so "
            "that nothing is known of any other."
        )
    return found


def _guard(
    run: Run,
    ask: Ask,
    target: int,
    recovered: Sequence[Recovery | Trigger],
    honest: Array,
    answers: np.ndarray,
) -> Guard:
    """Chooses the guard of one class, and tries it on triggers that it was not chosen with."""
    neutral = honest[answers != target]
    before = answers[answers != target]
    triggers = tuple(one if isinstance(one, Trigger) else one.trigger for one in recovered)
    if not len(before) or not _leads(run, triggers, neutral).any():
        raise Inconclusive(
            f"the trigger for class {target} leads no probe of another class: give "
            "other `probes`, or recover it again."
        )
    key = jax.random.fold_in(jax.random.key(run.seed), target)
    around, far, mixed = jax.random.split(key, 3)
    working = relatives.relatives(run, recovered, neutral, around) or list(triggers)
    working += relatives.strangers(run, target, neutral, far)
    divided = _divided(working, len(triggers), mixed)
    known, unknown = (_stamped(some, neutral, before) for some in divided)
    led = np.asarray(labels(run.model.access, jnp.asarray(ask(known.images)))) == target
    if not led.any():
        led = np.ones_like(led)
    clean = Shown(honest, answers, answers, np.zeros(len(answers), bool))
    shown = _together(_some(known, led), clean)
    shape, access = run.model.image_shape, run.model.access
    rule = choose(ask, access, shown, menu(shape, triggers))
    alone = _stamped(triggers, neutral, before, min(len(before), NUM_RECOVERED))
    power = _power(run, ask, rule, divided, (known, unknown, alone), clean)
    return Guard(target, rule, triggers, power)


def _stamped(
    triggers: Sequence[Trigger], probes: Array, before: np.ndarray, each: int = PER_TRIGGER
) -> Shown:
    """Each trigger on its own probes, so many, in turn."""
    places = np.arange(len(triggers) * each) % len(before)
    by_trigger = places.reshape(-1, each)
    images = [stamp(one, probes[some]) for one, some in zip(triggers, by_trigger, strict=True)]
    target = int(triggers[0].target) if triggers else 0
    return Shown(
        jnp.concatenate(images) if images else probes[:0],
        np.full(len(places), target),
        before[places],
        np.ones(len(places), bool),
    )


def _some(shown: Shown, which: np.ndarray) -> Shown:
    return Shown(
        shown.images[which], shown.target[which], shown.answer[which], shown.stamped[which]
    )


def _together(one: Shown, other: Shown) -> Shown:
    parts = [np.concatenate([a, b]) for a, b in zip(one[1:], other[1:], strict=True)]
    return Shown(jnp.concatenate([one.images, other.images]), *parts)


def _power(
    run: Run,
    ask: Ask,
    rule: Rule,
    triggers: tuple[Sequence[Trigger], Sequence[Trigger]],
    stamped: tuple[Shown, Shown, Shown],
    clean: Shown,
) -> Power:
    """What a rule does to triggers that it was chosen with, to others, and to honest probes."""
    access, target = run.model.access, int(triggers[0][0].target)
    said, stands = [], []
    for some in (*stamped, clean):
        if not len(some.answer):
            said.append(some.answer)
            stands.append(some.answer)
            continue
        outputs = jnp.asarray(ask(some.images))
        answers = [jnp.asarray(ask(look.change(some.images))) for look in rule.looks]
        after, flags = verdict(rule.name, access, jnp.asarray(some.target), answers[0], answers[-1])
        given = np.asarray(labels(access, outputs))
        suspicious = np.asarray(flags) & (given == some.target)
        said.append(given)
        stands.append(np.where(suspicious, np.asarray(labels(access, after)), given))
    shares = [float(np.mean(given == target)) for given in (*said[:1], *stands[:1])]
    held_out = [float(np.mean(given == target)) for given in (said[1], stands[1]) if len(given)]
    recovered = [float(np.mean(given == target)) for given in (said[2], stands[2])]
    right = np.concatenate([stands[0] == stamped[0].answer, stands[1] == stamped[1].answer])
    return Power(
        target=target,
        target_name=run.model.class_names[target],
        looks=tuple(look.name for look in rule.looks),
        rule=rule.name,
        triggers=len(triggers[0]),
        held_out=len(triggers[1]),
        recovered_asr_before=recovered[0],
        recovered_asr_after=recovered[1],
        asr_before=shares[0],
        asr_after=shares[1],
        held_out_asr_before=held_out[0] if held_out else None,
        held_out_asr_after=held_out[1] if held_out else None,
        kept=float(right.mean()),
        honest=len(clean.answer),
        clean_loss=float(np.mean(stands[3] != clean.answer)),
    )


def _asker(run: Run) -> Ask:
    """Asks a run's model, and books it."""
    oracle = run.model

    def answers(images: Array) -> tuple[Array]:
        return (oracle.answer(oracle.weights, images, run.books),)

    def ask(images: Array) -> np.ndarray:
        run.ledger.charge(len(images))
        given = oracle.map(answers, (np.asarray(images, np.float32),), CHUNK)[0]
        return check_outputs(oracle.name, oracle.access, given)

    return ask


def _available(run: Run) -> int:
    available = run.source.available
    return NUM_PROBES if available is None else min(NUM_PROBES, available)


def _leads(run: Run, triggers: Sequence[Trigger], images: Array) -> np.ndarray:
    """bool[b], the images that the first trigger leads to its class."""
    return run.margins(stamp(triggers[0], images), triggers[0].target) >= 0


def _divided(
    triggers: Sequence[Trigger], recovered: int, key: Array
) -> tuple[list[Trigger], list[Trigger]]:
    """Triggers to choose a guard with, those recovered among them, and others to try it on."""
    first = [*triggers[:recovered]]
    order = jax.random.permutation(key, len(triggers) - recovered)
    others = [triggers[recovered + int(place)] for place in order]
    held_out = min(TRIED_ON, len(triggers) // 4, len(others))
    return (first + others[held_out:])[:CHOSEN_WITH], others[:held_out]
