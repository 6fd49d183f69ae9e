"""A scan as files, and its recoveries back.

| file | holds |
|---|---|
| scan.json | what `Scan.to_json` says |
| scan.png | how probable it is that a random trigger leads to each class, by space |
| class-<k>/ | the recovery of each suspicious class, as `restore_jax.report.written` writes it |
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from restore_jax.diagnosis import BACKDOOR, CLEAN, INCONCLUSIVE, Chance, ClassFinding, Scan
from restore_jax.oracles import Oracle
from restore_jax.recovery import Recovery
from restore_jax.report.figures import BLUE, FAINT, INK, ORANGE, in_place, layout, png, short
from restore_jax.report.written import ResultError, load_recovery, read_json, render_recovery

MOST_CLASSES = 20
"""In the figure; of more classes those that random triggers lead to most."""
_SENTENCES = {BACKDOOR: "A backdoor", INCONCLUSIVE: "Suspicious, but not confirmed"}


def render_scan(scan: Scan, oracle: Oracle | None) -> dict[str, bytes]:
    """The files of a scan by name, in memory.

    Args:
      scan: what to write.
      oracle: as for `write_recovery`.
    """
    content = json.dumps(scan.to_json(), indent=2, allow_nan=False) + "\n"
    files = {"scan.json": content.encode(), "scan.png": png(scan_figure(scan))}
    for finding in scan.classes:
        if finding.recovery is not None:
            for name, data in render_recovery(finding.recovery, oracle).items():
                files[f"class-{finding.target}/{name}"] = data
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
        content = read_json(folder / "scan.json", {"verdict": str, "targets": list})
        if not content["targets"]:
            raise ResultError(f"the scan in {folder} confirmed no trigger.")
        found += [load_recovery(folder / f"class-{target}") for target in content["targets"]]
    return found


def scan_figure(scan: Scan) -> Figure:
    """The log10 probabilities by class, one panel per space, and the triggers recovered."""
    spaces = list(scan.fields["spaces"])
    shown = _shown(scan)
    confirmed = [finding for finding in scan.classes if finding.confirmed][:6]
    height = 1.6 + 0.3 * len(shown)
    figure = Figure(
        figsize=(2.6 + 2.9 * len(spaces), height + (2.9 if confirmed else 0.0)),
        dpi=110,
        layout=layout(),
    )
    heights = [height, 2.9] if confirmed else [height]
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    names = ", ".join(f"{f.target} ({short(f.name)})" for f in confirmed)
    title = _SENTENCES.get(scan.verdict, "Nothing suspicious") + (
        f": class {names}" if names else ""
    )
    if scan.interrupted and not names:
        title = "Interrupted"
    elif not names and scan.verdict == CLEAN and not scan.fields["calibrated"]:
        title = "No class stands out (not calibrated)"
    parts[0].suptitle(title, fontsize=13, color=INK)
    # A scan that was interrupted in its first space has none to show.
    panels = np.atleast_1d(parts[0].subplots(1, max(1, len(spaces)), sharey=True))
    for axes, space in zip(panels, spaces, strict=False):
        _probabilities(axes, shown, space, scan.fields["spaces"][space]["threshold_log10_prob"])
    panels[0].set_yticks(range(len(shown)), [f"{f.target} {short(f.name)}" for f in shown])
    panels[0].invert_yaxis()
    if confirmed:
        row = np.atleast_1d(parts[1].subplots(1, max(3, len(confirmed))))
        for axes, finding in zip(row, confirmed, strict=False):
            assert finding.recovery is not None
            in_place(axes, finding.recovery.trigger, sparse_ticks=True)
            axes.set_title(f"{short(finding.name)} ({finding.recovery.space})",
                           fontsize=11, color=INK)  # fmt: skip
        for axes in row[len(confirmed) :]:
            axes.set_axis_off()
    return figure


def _shown(scan: Scan) -> list[ClassFinding]:
    if len(scan.classes) <= MOST_CLASSES:
        return scan.classes
    chosen = sorted(scan.classes, key=lambda f: max(map(_value, f.chances.values()), default=-99.0))
    return sorted(chosen[-MOST_CLASSES:], key=lambda f: f.target)


def _value(chance: Chance) -> float:
    return chance.interval[1] if chance.log10_prob is None else chance.log10_prob


def _probabilities(
    axes: Axes, shown: Sequence[ClassFinding], space: str, bound: float | None
) -> None:
    lowest = min(
        [_value(f.chances[space]) for f in shown if space in f.chances] + [bound or 0.0, -3.0]
    )
    for place, finding in enumerate(shown):
        chance = finding.chances.get(space)
        if chance is None:
            axes.text(lowest, place, "not judged", fontsize=9, color=FAINT, va="center")
            continue
        colour: Any = ORANGE if finding.suspicious else BLUE
        low, high = chance.interval
        if chance.log10_prob is None:
            axes.plot([lowest - 0.6, high], [place, place], color=FAINT, linewidth=1.2)
            axes.plot(high, place, marker="|", color=FAINT, markersize=9)
            continue
        axes.plot([low if low is not None else lowest, high], [place, place], color=colour)
        axes.plot(chance.log10_prob, place, marker="D" if finding.suspicious else "o", color=colour)
    if bound is not None:
        axes.axvline(bound, color=INK, linestyle="--", linewidth=1.0)
    axes.set_xlim(lowest - 0.6, 0.15)
    axes.set_title(space, fontsize=11, color=INK)
    axes.set_xlabel("log10 P(a random trigger leads there)", fontsize=9, color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
