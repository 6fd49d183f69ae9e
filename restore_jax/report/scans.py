"""A scan as files, and its recoveries back.

| file | holds |
|---|---|
| scan.json | what `scan_content` says |
| report.html | the result for a person: see `restore_jax.report.scan_page` |
| scan.png | how far each class stands out, by space, how it was seen, and the triggers recovered |
| class-<k>/ | the recovery of each suspicious class, as `restore_jax.report.written` writes it |
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from restore_jax.diagnosis import (
    SCHEMA_VERSION,
    ClassFinding,
    ClassLook,
    Scan,
    ScanSettings,
    SpaceLook,
)
from restore_jax.diagnosis.standing import Standing
from restore_jax.oracles.errors import cause
from restore_jax.oracles.types import Oracle
from restore_jax.recovery import Recovery
from restore_jax.report.contents import cost_content, cost_from, provenance_from
from restore_jax.report.figures import BLUE, FAINT, INK, ORANGE, in_place, layout, short
from restore_jax.report.scan_page import scan_page
from restore_jax.report.text import foremost, scan_title
from restore_jax.report.written import (
    ResultError,
    Rows,
    attempted,
    drawn,
    load_recovery,
    read_json,
    recovery_files,
    shown_rows,
)
from restore_jax.types import JSON

MOST_RECOVERED, MOST_CLASS = 1_000, 2**31
"""Triggers that one scan confirms, and a number above that of every class."""


def scan_content(scan: Scan) -> dict[str, JSON]:
    """A scan as a dict that JSON can hold: no NaN, no infinity, no arrays."""
    spent = cost_content(scan.cost)
    limits: dict[str, JSON] = {
        key: spent[key] for key in ("price", "cost", "limit") if key in spent
    }
    spaces = {}
    for name, seen in scan.spaces.items():
        spaces[name] = {
            "log10_depth": seen.depth,
            "log10_certificate": seen.log10_certificate,
            "log10_certificate_draws": seen.log10_certificate_draws,
            "queries": seen.queries,
            "prior": seen.prior,
        }
    content: dict[str, JSON] = {
        "schema_version": SCHEMA_VERSION,
        "verdict": scan.verdict,
        "reason": scan.reason,
        "interrupted": scan.interrupted,
        "targets": scan.targets,
        "named": scan.named,
        "log10_certificate": scan.log10_certificate,
        "calibrated": scan.calibrated,
        "false_alarm_rate": scan.false_alarm_rate,
        "false_alarm_bound": scan.false_alarm_bound,
        "access": scan.provenance.access,
        "success": scan.success,
        "goal": scan.goal,
        "probes": scan.provenance.probes,
        "classes_covered": scan.classes_covered,
        "budget": scan.cost.budget,
        "queries": scan.cost.queries,
        "queries_by_stage": dict(scan.cost.queries_by_stage),
        **limits,
        "seconds": {**scan.cost.seconds, "by_stage": dict(scan.cost.seconds_by_stage)},
        "seed": scan.provenance.seed,
        "model": scan.provenance.model,
        "model_options": dict(scan.provenance.model_options),
        "asking": None if scan.cost.asking is None else dict(scan.cost.asking),
        "settings": dataclasses.asdict(scan.settings),
        "versions": dict(scan.provenance.versions),
        "device": scan.provenance.device,
        **({"notes": list(scan.provenance.notes)} if scan.provenance.notes else {}),
        "spaces": spaces,
        "classes": [_finding_json(finding, scan.spaces) for finding in scan.classes],
    }
    return content


def _finding_json(finding: ClassFinding, spaces: dict[str, SpaceLook]) -> dict[str, JSON]:
    by_space = {}
    for name, seen in spaces.items():
        one = seen.classes.get(finding.target)
        if one is None:
            continue
        by_space[name] = {
            "log10_prob": one.log10_prob,
            "log10_bound": one.log10_bound,
            "draws_led": one.draws_led,
            "score_without_trigger": _finite(one.empty),
            "curve": [[depth, _finite(level)] for depth, level in one.curve],
            "standing": None if one.standing is None else one.standing._asdict(),
        }
    return {
        "class": finding.target,
        "name": finding.name,
        "standing": finding.standing,
        "space": finding.space,
        "false_alarms": finding.false_alarms,
        "suspicious": finding.suspicious,
        "confirmed": finding.confirmed,
        "trigger_space": finding.recovery.space if finding.recovery else None,
        "spaces": by_space,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def render_scan(scan: Scan, oracle: Oracle | None, command: str | None = None) -> dict[str, bytes]:
    """The files of a scan by name, in memory.

    Args:
      scan: what to write.
      oracle, command: as for `render_recovery`.
    """
    content = json.dumps(scan_content(scan), indent=2, allow_nan=False) + "\n"
    rows: dict[int, Rows] = {
        finding.target: shown_rows(finding.recovery, oracle)
        for finding in scan.classes
        if finding.recovery is not None
    }

    def report() -> bytes:
        return scan_page(scan, {target: some() for target, some in rows.items()}, command)

    files = {
        "scan.json": content.encode(),
        **attempted({"report.html": report}),
        **drawn({"scan.png": lambda: scan_figure(scan)}),
    }
    for finding in scan.classes:
        if finding.recovery is not None:
            inside = recovery_files(finding.recovery, rows[finding.target], command)
            files |= {f"class-{finding.target}/{name}": data for name, data in inside.items()}
    return files


def load_recoveries(folders: Sequence[str | Path]) -> list[Recovery]:
    """The recoveries in folders that ``recover`` or ``scan`` wrote; of a scan the confirmed ones.

    Raises:
      ResultError: a folder holds neither, or a file is damaged, or a scan confirmed nothing.
    """
    found: list[Recovery] = []
    for folder in map(Path, folders):
        if not (folder / "scan.json").is_file():
            found.append(load_recovery(folder))
            continue
        content = read_json(folder / "scan.json", {"verdict": str, "targets": list}, SCHEMA_VERSION)
        targets = content["targets"]
        if not targets:
            raise ResultError(
                f"the scan in {folder} confirmed no trigger (its verdict: {content['verdict']}): "
                "there is no class to guard, so purify cannot help, and a trigger that the scan "
                "missed goes through. Guard all classes with `blind`, scan with a larger `budget` "
                "or other spaces, or recover a class that you suspect."
            )
        whole = all(type(target) is int and 0 <= target < MOST_CLASS for target in targets)
        if not whole or len(set(targets)) < len(targets) or len(targets) > MOST_RECOVERED:
            raise ResultError(
                f"targets in {folder / 'scan.json'} must be at most {MOST_RECOVERED} classes, each "
                "once."
            )
        found += [load_recovery(folder / f"class-{target}") for target in content["targets"]]
    return found


def load_scan(path: str | Path) -> Scan:
    """Reads what ``scan`` or `Scan.save` wrote.

    Args:
      path: the folder, or its scan.json.

    Raises:
      ResultError: a file is missing, damaged, or does not say what a scan's should.
    """
    folder = Path(path).expanduser()
    if folder.name == "scan.json" and not folder.is_dir():
        folder = folder.parent
    kinds = {"verdict": str, "targets": list, "classes": list, "spaces": dict, "settings": dict}
    content = read_json(folder / "scan.json", kinds, SCHEMA_VERSION)
    try:
        scan = _scan_from(content, folder)
        scan.summary()
        same = json.loads(json.dumps(scan_content(scan))) == content
    except ResultError:
        raise
    except Exception as error:  # what is of another type than it should be is found by using it
        raise ResultError(
            f"{folder / 'scan.json'} does not say what a scan's should ({cause(error)})."
        ) from error
    if not same:
        raise ResultError(f"{folder / 'scan.json'} contradicts itself.")
    return scan


def _scan_from(content: Mapping[str, JSON], folder: Path) -> Scan:
    settings = dict(content["settings"])
    recoveries = {
        one["class"]: load_recovery(folder / f"class-{int(one['class'])}")
        for one in content["classes"]
        if one["trigger_space"] is not None
    }
    return Scan(
        verdict=content["verdict"],
        reason=content["reason"],
        interrupted=content["interrupted"],
        classes=[
            ClassFinding(
                target=one["class"],
                name=one["name"],
                standing=one["standing"],
                space=one["space"],
                false_alarms=one["false_alarms"],
                suspicious=one["suspicious"],
                recovery=recoveries.get(one["class"]),
            )
            for one in content["classes"]
        ],
        spaces={
            name: SpaceLook(
                prior=seen["prior"],
                depth=seen["log10_depth"],
                classes={
                    one["class"]: _look_from(one["spaces"][name])
                    for one in content["classes"]
                    if name in one["spaces"]
                },
                log10_certificate=seen["log10_certificate"],
                log10_certificate_draws=seen["log10_certificate_draws"],
                queries=seen["queries"],
            )
            for name, seen in content["spaces"].items()
        },
        calibrated=content["calibrated"],
        false_alarm_rate=content["false_alarm_rate"],
        false_alarm_bound=content["false_alarm_bound"],
        success=content["success"],
        classes_covered=content["classes_covered"],
        goal=content["goal"],
        settings=ScanSettings(**settings | {"lanes": tuple(settings["lanes"])}),
        cost=cost_from(content),
        provenance=provenance_from(content),
    )


def _look_from(one: Mapping[str, JSON]) -> ClassLook:
    """What a space says of a class; of numbers that JSON has none for it is minus infinity."""

    def number(value: JSON) -> float:
        return -math.inf if value is None else value

    return ClassLook(
        log10_prob=one["log10_prob"],
        log10_bound=one["log10_bound"],
        draws_led=one["draws_led"],
        curve=tuple((depth, number(level)) for depth, level in one["curve"]),
        empty=number(one["score_without_trigger"]),
        standing=None if one["standing"] is None else Standing(**one["standing"]),
    )


def scan_figure(scan: Scan) -> Figure:
    """By space the score that random triggers reach, the standings, and the triggers recovered."""
    shown = foremost(scan)
    recovered = [finding for finding in scan.classes if finding.recovery is not None][:6]
    width = 3.4 * (len(scan.spaces) + 1)
    heights = [3.6, 2.9] if recovered else [3.6]
    figure = Figure(figsize=(max(width, 7.0), sum(heights)), dpi=110, layout=layout())
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    parts[0].suptitle(scan_title(scan), fontsize=13, color=INK)
    panels = np.atleast_1d(parts[0].subplots(1, len(scan.spaces) + 1))
    for axes, (name, seen) in zip(panels, scan.spaces.items(), strict=False):
        _curves(axes, shown, name, seen, scan.goal)
    _standings(panels[-1], shown, scan)
    if recovered:
        row = np.atleast_1d(parts[1].subplots(1, max(3, len(recovered))))
        for axes, finding in zip(row, recovered, strict=False):
            assert finding.recovery is not None
            in_place(axes, finding.recovery.trigger, sparse_ticks=True)
            how = "" if finding.confirmed else ", not confirmed"
            axes.set_title(
                f"{short(finding.name)} ({finding.recovery.space}{how})",
                fontsize=11, color=INK,
            )  # fmt: skip
        for axes in row[len(recovered) :]:
            axes.set_axis_off()
    return figure


def _curves(
    axes: Axes, shown: Sequence[ClassFinding], name: str, seen: SpaceLook, goal: float
) -> None:
    """What score random triggers of one space reach, the rarer the higher; the event above 0."""
    for finding in shown:
        one = seen.classes.get(finding.target)
        if one is None or not one.curve:
            continue
        depths, levels = zip(*one.curve, strict=True)
        colour = ORANGE if finding.suspicious else FAINT
        axes.plot(depths, levels, color=colour, linewidth=1.6 if finding.suspicious else 1.0)
        if finding.suspicious:
            axes.text(depths[-1], levels[-1], short(finding.name), fontsize=8, color=ORANGE)
    axes.axhline(goal, color=INK, linestyle="--", linewidth=1.0)
    axes.margins(x=0.12)  # the names at the ends of the curves lie inside
    axes.invert_xaxis()
    axes.set_title(name, fontsize=11, color=INK)
    axes.set_xlabel("log10 P(a random trigger does it)", fontsize=9, color=INK)
    axes.set_ylabel("score; a backdoor's above the line", fontsize=8, color=INK)
    axes.tick_params(labelsize=9, colors=INK)


def _standings(axes: Axes, shown: Sequence[ClassFinding], scan: Scan) -> None:
    """How far each class stands out."""
    for place, finding in enumerate(shown):
        if finding.standing is None:
            axes.text(0.0, place, "not judged", fontsize=8, color=FAINT, va="center")
            continue
        colour = ORANGE if finding.suspicious else BLUE
        axes.plot(
            max(finding.standing, 0.0),
            place,
            marker="D" if finding.suspicious else "o",
            color=colour,
        )
    axes.set_yticks(range(len(shown)), [f"{f.target} {short(f.name)}" for f in shown])
    axes.invert_yaxis()
    axes.set_xlim(left=0.0)
    axes.set_title("how far it stands out", fontsize=11, color=INK)
    note = "" if scan.calibrated else "not calibrated"
    axes.set_xlabel(note, fontsize=9, color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
