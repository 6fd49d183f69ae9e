"""A scan in words, for a person: the verdict, a table of classes, and what it took."""

import io
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table

from restore_jax.diagnosis import ClassFinding, Scan, SpaceLook
from restore_jax.report.text import (
    asking_lines,
    class_words,
    cost_lines,
    finding_word,
    foremost,
    limit_lines,
    line,
    scan_sentence,
)


def scan_text(scan: Scan, stream: TextIO | None = None, folder: Path | None = None) -> str:
    """The result of a scan.

    Args:
      scan: what was found.
      stream: where it will be shown: its width, colours and letters count; None: plain text.
      folder: where its files are; None: nothing is said of them.
    """
    # Names of classes are plain text, whatever is in them.
    written = _Written(stream)
    console = Console(highlight=False, markup=False, emoji=False, file=written)
    console.print(scan_sentence(scan), soft_wrap=True)
    shown = foremost(scan)
    table = Table(title="log10 of the probability that a random trigger leads there")
    table.add_column("class")
    for space in scan.spaces:
        table.add_column(space, justify="right")
    table.add_column("stands out", justify="right")
    table.add_column("verdict")
    for finding in shown:
        row = [class_words(finding.target, finding.name)]
        row += [_probability(finding, seen) for seen in scan.spaces.values()]
        table.add_row(*row, _standing(finding), finding_word(finding))
    console.print(table)
    if len(shown) < len(scan.classes):
        console.print(
            f"  {len(scan.classes) - len(shown):,} more classes, which stand out less, are in "
            "scan.json"
        )
    lines = _lines(scan)
    if folder is not None:
        files = "report.html, scan.json, scan.png"
        files += ", a folder per suspicious class" if scan.recoveries else ""
        lines.append(line("files", f"{folder}/: {files}"))
        how = f"--recovery {folder}" if scan.targets else "--blind"
        model = scan.provenance.model
        command = f"restore-jax purify {how} --model {model} --images ..."
        lines.append(line("next", command))
    console.print("\n".join(lines), soft_wrap=True)
    return written.getvalue().rstrip("\n")


def _lines(scan: Scan) -> list[str]:
    rate = f"{scan.false_alarm_rate:.0%} of clean models like those measured"
    stages = ", ".join(f"{name} {number:,}" for name, number in scan.cost.queries_by_stage.items())
    bounds = ", ".join(
        f"{name} 10^{seen.log10_certificate:.1f} (by plain draws alone "
        f"10^{seen.log10_certificate_draws:.1f})"
        for name, seen in scan.spaces.items()
    )
    at_most = f"of random triggers at most so many work on any class (95 %): {bounds}"
    return [
        line("false alarms", rate if scan.calibrated else "not known: no clean model was measured"),
        line("certificate", at_most),
        line("queries", f"{scan.queries:,} of {scan.cost.budget:,} ({stages})"),
        *(line("cost", text) for text in cost_lines(scan.cost)),
        *(line("limit", text) for text in limit_lines(scan.cost)),
        *(line("asking", text) for text in asking_lines(scan.cost.asking)),
        line("time", f"{scan.cost.seconds.get('total', 0.0):.1f} s"),
        *(line("note", note) for note in scan.provenance.notes),
    ]


class _Written(io.StringIO):
    """Text that is written as a stream would show it."""

    def __init__(self, stream: TextIO | None):
        super().__init__()
        self._stream = stream

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's."""
        return "utf-8" if self._stream is None else self._stream.encoding or "ascii"


def _probability(finding: ClassFinding, seen: SpaceLook) -> str:
    """What one space says of a class: the event's probability, or what it is below."""
    one = seen.classes.get(finding.target)
    if one is None:
        return "-"
    return f"< {one.log10_bound:.1f}" if one.log10_prob is None else f"{one.log10_prob:.1f}"


def _standing(finding: ClassFinding) -> str:
    """How far the class stands out, and in which space."""
    return "-" if finding.standing is None else f"{finding.standing:.1f} {finding.space}"
