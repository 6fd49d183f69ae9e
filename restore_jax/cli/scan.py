"""``scan``: looks for backdoors in all classes of a model, and writes what it found."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from restore_jax.cli import exits, inputs, models
from restore_jax.cli.progress import progress
from restore_jax.spaces import SPACES, catalogue

# JAX takes seconds to import: that is left until a person has seen a sign of life.
if TYPE_CHECKING:
    from restore_jax.diagnosis import Chance, Scan, ScanProgress

_VERDICTS = {
    "clean": "nothing suspicious: random triggers lead nowhere more often than in clean models",
    "inconclusive": "suspicious, but no trigger was confirmed on fresh probes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = (
        "Exit codes: 0 nothing suspicious, 3 a backdoor, 4 suspicious but not confirmed, 2 wrong "
        "arguments or input, 130 interrupted."
    )
    add = parser.add_argument
    add("--space", nargs="+", default=["auto"], choices=("auto", *SPACES), metavar="SPACE",
        help=f"where to look: some of {', '.join(SPACES)}; auto: "
             f"{', '.join(catalogue.scanned())} (auto)")  # fmt: skip
    add("--budget", type=int, metavar="N",
        help="images the model may be asked about, all counted (40,000 per space)")  # fmt: skip
    add("--success", type=float, default=0.95, metavar="SHARE",
        help="share of probes that a trigger must lead to a class (%(default)s)")  # fmt: skip
    add("--false-alarm-rate", type=float, default=0.05, metavar="RATE",
        help="share of clean models that may be accused, all classes and spaces together "
             "(%(default)s)")  # fmt: skip
    inputs.add_arguments(parser, "runs/scan-<seed>/")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    _check(args)
    console = Console(stderr=True, highlight=False)
    with progress("scan", console, "images") as report:
        report(0, 0, "loading JAX and the model")
        from restore_jax.compilation import keep_programs
        from restore_jax.diagnosis import scan
        from restore_jax.report import render_scan

        keep_programs()
        oracle = models.open_oracle(args)

        def on_progress(step: "ScanProgress") -> None:
            report(step.queries, step.budget, step.text, line=step.milestone)

        name = f"scan-{args.seed}"
        with models.kept_answers(args, oracle, name) as kept:
            found = scan(
                oracle,
                access=args.access,
                space="auto" if args.space == ["auto"] else args.space,
                probes=args.probes,
                budget=args.budget,
                success=args.success,
                false_alarm_rate=args.false_alarm_rate,
                seed=args.seed,
                data_dir=args.data_dir,
                test_data=inputs.test_images(oracle, args.data_dir),
                on_progress=on_progress,
                journal=kept.journal,
            )
            report(0, 0, "drawing the result", line=False)
            folder = inputs.write(args, kept.folder, name, render_scan(found, oracle))
            if not found.interrupted:
                kept.done()
    if args.json:
        exits.print_json(found.to_json() | {"out": str(folder)})
    else:
        _show(found, folder)
    if found.interrupted:
        return exits.INTERRUPTED
    codes = {"clean": exits.DONE, "backdoor": exits.VERDICT}
    return codes.get(found.verdict, exits.INCONCLUSIVE)


def _check(args: argparse.Namespace) -> None:
    if "auto" in args.space and len(args.space) > 1:
        raise exits.UsageError("--space auto stands alone: it already takes several.")
    if args.budget is not None and args.budget < 1:
        raise exits.UsageError(f"--budget must be at least 1 image, not {args.budget}.")
    if not 0 < args.success <= 1:
        raise exits.UsageError(f"--success must lie in (0, 1], not {args.success}.")
    if not 0 < args.false_alarm_rate < 1:
        raise exits.UsageError(
            f"--false-alarm-rate must lie in (0, 1), not {args.false_alarm_rate}."
        )
    inputs.check(args, "runs")


def _show(found: "Scan", folder: Path) -> None:
    """The result for a person."""
    from restore_jax.report.text import asking_lines

    console = Console(highlight=False)
    named = [f"{f.target} ({f.name})" for f in found.classes if f.confirmed]
    console.print(
        f"backdoor: a trigger leads to class {', '.join(named)}" if named else _sentence(found),
        soft_wrap=True,
    )
    spaces = found.fields["spaces"]
    table = Table(title="log10 of the probability that a random trigger leads there")
    table.add_column("class")
    for space in spaces:
        table.add_column(space, justify="right")
    table.add_column("verdict")
    for finding in found.classes:
        row = [f"{finding.target} {finding.name}"]
        row += [_number(finding.chances.get(space)) for space in spaces]
        table.add_row(*row, _word(finding))
    bounds = [look["threshold_log10_prob"] for look in spaces.values()]
    texts = ["none" if bound is None else f"{bound:.2f}" for bound in bounds]
    table.add_section()
    table.add_row("threshold", *texts, "")
    console.print(table)
    fields = found.fields
    stages = ", ".join(f"{name} {number:,}" for name, number in fields["queries_by_stage"].items())
    if fields["calibrated"]:
        console.print(
            f"  false alarms  {fields['false_alarm_rate']:.0%} of clean models like those the "
            "thresholds were measured on",
            soft_wrap=True,
        )
    else:
        console.print(
            "  false alarms  not known: the thresholds were measured under other conditions, or "
            "there are none",
            soft_wrap=True,
        )
    lines = [
        f"  queries       {fields['queries']:,} of {fields['budget']:,} ({stages})",
        *(f"  asking        {text}" for text in asking_lines(fields.get("asking"))),
        f"  time          {fields['seconds']['total']:.1f} s",
        f"  files         {folder}/: scan.json, scan.png, a folder per suspicious class",
    ]
    console.print("\n".join(lines), soft_wrap=True)
    if named:
        console.print(
            f"  next          restore-jax purify --recovery {folder} --model "
            f"{fields['model']} --images ...",
            soft_wrap=True,
        )


def _sentence(found: "Scan") -> str:
    """The verdict where no trigger was confirmed."""
    if found.interrupted:
        return "interrupted: no trigger was confirmed until then"
    if found.verdict == "clean" and not found.fields["calibrated"]:
        return (
            "no class stands out from the others; no clean model was measured under these "
            "conditions, so that this does not say the model is clean"
        )
    return _VERDICTS[found.verdict]


def _number(chance: "Chance | None") -> str:
    if chance is None:
        return "-"
    if chance.log10_prob is None:
        return f"< {chance.interval[1]:.2f}"
    return f"{chance.log10_prob:.2f}"


def _word(finding: Any) -> str:
    if finding.confirmed:
        return f"backdoor, {int(finding.recovery.trigger.pixels):,} pixels"
    return "suspicious" if finding.suspicious else ""
