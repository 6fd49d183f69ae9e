"""From what was seen to findings and a verdict."""

from collections.abc import Mapping
from typing import NamedTuple

from restore_jax.diagnosis.looking import depth_of
from restore_jax.diagnosis.null import clean_standings, false_alarm_bound, profiles
from restore_jax.diagnosis.types import (
    BACKDOOR,
    INCONCLUSIVE,
    NOTHING,
    SUSPICIOUS,
    ClassFinding,
    SpaceLook,
)
from restore_jax.diagnosis.work import Work
from restore_jax.recovery import Recovery
from restore_jax.run.limits import DOLLARS, SECONDS

SHORT = 0.3
"""A scan that ends this many decades above its depth has not looked as deep as it should."""
LOUD = 2.5
"""Where no clean model was measured, the standing from which a class is suspicious."""


def clean_models(work: Work, looks: Mapping[str, SpaceLook]) -> list[float] | None:
    """The standings of clean models that this scan can be compared with; see `null`.

    None if in any of its spaces there are none.
    """
    seen = [profiles(work.conditions, work.settings, one.prior) for one in looks.values()]
    if not seen or not all(seen):
        return None
    return clean_standings(work.conditions.access, list(looks)) or None


def findings(
    work: Work,
    looks: Mapping[str, SpaceLook],
    clean: list[float] | None,
    recovered: Mapping[int, Recovery],
) -> list[ClassFinding]:
    """One finding per class, in order."""
    return [
        _finding(work, looks, clean, target, recovered.get(target))
        for target in range(work.run.model.num_classes)
    ]


def _finding(
    work: Work,
    looks: Mapping[str, SpaceLook],
    clean: list[float] | None,
    target: int,
    recovery: Recovery | None,
) -> ClassFinding:
    values = {}
    for name, seen in looks.items():
        one = seen.classes.get(target)
        if one is not None and one.standing is not None:
            values[name] = one.standing.value
    space = max(values, key=lambda name: values[name]) if values else None
    standing = None if space is None else values[space]
    bound = None
    if standing is not None and clean is not None:
        bound = false_alarm_bound(standing, clean)
    suspicious = standing is not None and target in work.wanted and (
        standing >= LOUD if bound is None else bound <= work.false_alarm_rate
    )  # fmt: skip
    return ClassFinding(
        target=target,
        name=work.run.model.class_names[target],
        standing=standing,
        space=space,
        false_alarms=bound,
        suspicious=suspicious,
        recovery=recovery,
    )


class Verdict(NamedTuple):
    """A verdict, and why in one sentence where it needs one."""

    verdict: str
    reason: str


def verdict(
    work: Work,
    looks: Mapping[str, SpaceLook],
    found: list[ClassFinding],
    clean: list[float] | None,
    not_judged: int,
    *,
    interrupted: bool,
    cut_short: bool,
    looked_through: bool = True,
) -> Verdict:
    """What the scan says, and why.

    What stands out before every space is ``looked_through`` may do so because others were not
    followed as far: nothing but a confirmed trigger counts then.
    """
    suspicious = [one for one in found if one.suspicious]
    if any(one.confirmed for one in suspicious) and clean is not None:
        return Verdict(BACKDOOR, "")
    if interrupted and not looked_through:
        return Verdict(INCONCLUSIVE, "interrupted before every kind of trigger was looked through")
    if suspicious:
        if clean is None:
            return Verdict(SUSPICIOUS, _uncalibrated(work))
        return Verdict(SUSPICIOUS, "no trigger was confirmed on fresh probes")
    if interrupted:
        return Verdict(INCONCLUSIVE, "interrupted before it came to an end")
    short = [
        f"{name} (10^{seen.depth:.1f} of 10^{depth_of(work, name):.1f})"
        for name, seen in looks.items()
        if seen.depth > depth_of(work, name) + SHORT
    ]
    missing = [name for name in work.names if name not in looks]
    if cut_short or short or missing:
        return Verdict(
            INCONCLUSIVE,
            f"{_limit(work)} ended before the scan was deep "
            f"enough to tell: {', '.join(short + missing) or 'images had to be sent again'}; give "
            f"{_more(work)}",
        )
    if not_judged:
        return Verdict(
            INCONCLUSIVE,
            f"{not_judged} classes had no probes to be judged by, since the model gives nearly "
            "all probes to them: give other `probes`",
        )
    if clean is None:
        return Verdict(INCONCLUSIVE, f"no class stands out, but {_uncalibrated(work)}")
    if work.false_alarm_rate < 1 / (len(clean) + 1):
        return Verdict(
            INCONCLUSIVE,
            f"{len(clean)} clean models cannot vouch for a false alarm rate below "
            f"{1 / (len(clean) + 1):.1%}: give a larger `false_alarm_rate`",
        )
    return Verdict(NOTHING, "")


def _limit(work: Work) -> str:
    """What ended the scan."""
    if work.run.limit == SECONDS:
        return f"the time of {work.seconds:g} seconds"
    return f"the budget of {work.run.ledger.budget:,} images"


def _more(work: Work) -> str:
    """What it takes to go deeper."""
    return {SECONDS: "more `seconds`", DOLLARS: "more `dollars`"}.get(
        work.run.limit or "", "a larger `budget`"
    )


def _uncalibrated(work: Work) -> str:
    """Why there is no false alarm rate."""
    model = work.run.model
    shape = "x".join(map(str, model.image_shape))
    return (
        f"no clean model was measured under these conditions ({shape} images, "
        f"{model.num_classes} classes, {model.access}, {work.run.source.name} probes, "
        "or other settings), so how often a clean one would look like this is not known"
    )
