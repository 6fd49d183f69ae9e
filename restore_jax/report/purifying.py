"""What purifying can do for a model, in words and as JSON."""

import dataclasses

from restore_jax.purification import BlindPower, Power, Report
from restore_jax.report.text import line
from restore_jax.types import JSON


def power_content(report: Report) -> dict[str, JSON]:
    """What purification.json says of the guards: no NaN, no infinity, no arrays."""
    guards: list[JSON] = [
        dataclasses.asdict(guard) | {"looks": list(guard.looks)} for guard in report.guards
    ]
    unguarded: list[JSON] = [*report.unguarded]
    warnings: list[JSON] = [*report.warnings]
    content: dict[str, JSON] = {"guards": guards, "unguarded": unguarded, "warnings": warnings}
    if report.blind is not None:
        content["blind"] = dataclasses.asdict(report.blind) | {"looks": list(report.blind.looks)}
    return content


def power_lines(report: Report) -> list[str]:
    """The guards, what goes through, and what a user has to know, one fact a line."""
    if report.blind is not None:
        return [
            *_blind_lines(report.blind),
            *(line("warning", text) for text in report.warnings),
        ]
    others = ", ".join(report.unguarded) or "none"
    return [
        *(text for guard in report.guards for text in _guard_lines(guard)),
        line("unguarded", f"{others} (whatever leads there goes through)"),
        *(line("warning", text) for text in report.warnings),
    ]


def _blind_lines(power: BlindPower) -> list[str]:
    worst = max(power.changed_by_class, key=lambda name: power.changed_by_class[name])
    return [
        line("guarded", f"all classes, blindly: the mean of {', '.join(power.looks)}"),
        line(
            "on probes",
            f"{power.changed:.0%} of {power.honest} probes without a trigger are given another "
            f"class; of those that were {worst}, {power.changed_by_class[worst]:.0%}"
            f"{_meaning(power.probes)}",
        ),
    ]


def _meaning(probes: str) -> str:
    """What such a share says of photographs."""
    if probes not in ("dead_leaves", "shapes"):
        return ""
    return "; photographs change far less often: measure with clean images of yours (--probes)"


def _guard_lines(power: Power) -> list[str]:
    fresh = "no others were found that work"
    if power.held_out_asr_before is not None and power.held_out_asr_after is not None:
        fresh = (
            f"from {power.held_out_asr_before:.0%} to {power.held_out_asr_after:.0%} for "
            f"{power.held_out} that the guard was not chosen with"
        )
    looks = " and ".join(power.looks)
    return [
        line("guarded", f"class {power.target} ({power.target_name}): {looks} ({power.rule})"),
        line(
            "on probes",
            f"success falls from {power.recovered_asr_before:.0%} to "
            f"{power.recovered_asr_after:.0%} for what was recovered, from {power.asr_before:.0%} "
            f"to {power.asr_after:.0%} for {power.triggers} triggers that work; {fresh}",
        ),
        line(
            "",
            f"{power.kept:.0%} of stamped probes get the answer back that they had without a "
            f"trigger; {power.clean_loss:.0%} of {power.honest} probes without a trigger would "
            "lose theirs (photographs do less often)",
        ),
    ]
