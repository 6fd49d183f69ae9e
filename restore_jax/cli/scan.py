"""``scan``: looks for backdoors in all classes of a model, and writes what it found."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console

from restore_jax.cli import exits, inputs, limits, models, screens
from restore_jax.cli.progress import progress
from restore_jax.spaces import SPACES, catalogue

# JAX takes seconds to import: that is left until a person has seen a sign of life.
if TYPE_CHECKING:
    from collections.abc import Callable

    from restore_jax.diagnosis import Scan, ScanProgress, ScanSettings
    from restore_jax.oracles import Journal
    from restore_jax.run import Estimate, Saved

CODES = {
    "nothing found": exits.DONE,
    "backdoor": exits.VERDICT,
    "suspicious": exits.INCONCLUSIVE,
    "inconclusive": exits.INCONCLUSIVE,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = (
        "Exit codes: 0 nothing found, 3 a backdoor, 4 suspicious but not confirmed, or "
        "inconclusive, 2 wrong arguments or input, 130 interrupted."
    )
    add = parser.add_argument
    add("--space", nargs="+", default=["auto"], choices=("auto", *SPACES), metavar="SPACE",
        help=f"where to look: some of {', '.join(SPACES)}; auto: "
             f"{', '.join(catalogue.scanned())}, with labels "
             f"{', '.join(catalogue.scanned('labels'))} (auto)")  # fmt: skip
    add("--budget", type=int, metavar="N",
        help="images the model may be asked about, all counted (300,000; a model of ten classes "
             "takes about 100,000)")  # fmt: skip
    add("--depth", nargs="+", metavar="SPACE=X",
        help="how rare a trigger is looked for, as patch=-6: one in 10^6 random ones; other "
             "values than these are not calibrated (patch=-6 stripes=-2.5 "
             "smooth=-3.25 frequency=-3.25 colour=-2.5 quantise=-1.5, with labels "
             "patch=-5, and patch=-12 where no clean model was measured)")  # fmt: skip
    add("--option", nargs="+", metavar="SPACE.NAME=VALUE",
        help="what a space takes, as patch.max_size=3 or patch.channels=grey; other values "
             "than the default are not calibrated")  # fmt: skip
    add("--target", nargs="+", metavar="CLASS",
        help="name no other classes than these, by name or number; all are looked at, since a "
             "class is compared with the others (all)")  # fmt: skip
    add("--success", type=float, default=0.95, metavar="SHARE",
        help="share of probes that a trigger must lead to a class (%(default)s)")  # fmt: skip
    add("--false-alarm-rate", type=float, default=0.06, metavar="RATE",
        help="share of clean models that may be called suspicious, all classes and spaces "
             "together (%(default)s)")  # fmt: skip
    inputs.add_arguments(parser, "runs/scan-<seed>/")


def screen() -> screens.Screen:
    """What --help says."""
    return screens.Screen(
        groups={
            "what to look for": {
                "--space": f"where: {', '.join(SPACES)}; auto is {', '.join(catalogue.scanned())}",
                "--budget": "most images to ask about",
                "--false-alarm-rate": "share of clean models that may be called suspicious",
                "--target": "name no other classes than these",
                **limits.SCREEN,
            },
            "the model": screens.about_model(),
            "the result": screens.RESULT,
        },
        examples=("scan", "scan --model onnx:model.onnx --out looked-at"),
        codes="0 nothing found, 3 a backdoor, 4 suspicious or inconclusive",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    _check(args)
    console = Console(stderr=True, highlight=False)
    announced = limits.Announced(args, console)
    with progress("scan", console, "images") as report:
        report(0, 0, "loading JAX and the model")
        from restore_jax.compilation import keep_programs
        from restore_jax.diagnosis import scan
        from restore_jax.oracles import class_index
        from restore_jax.report import render_scan

        keep_programs()
        settings = _settings(args)
        oracle = models.open_oracle(args)

        def on_progress(step: "ScanProgress") -> None:
            total = announced.total(step.queries, step.budget)
            text = step.text + announced.cost(step.queries)
            report(step.queries, total, text, line=step.milestone)

        def look(journal: "Journal | Saved | None", tell: "Callable[[Estimate], None]") -> "Scan":
            return scan(
                oracle,
                access=args.access,
                space="auto" if args.space == ["auto"] else args.space,
                probes=args.probes,
                budget=args.budget,
                success=args.success,
                false_alarm_rate=args.false_alarm_rate,
                targets=None
                if args.target is None
                else [class_index(oracle, word) for word in args.target],
                seed=args.seed,
                data_dir=args.data_dir,
                test_data=inputs.test_images(oracle, args.data_dir),
                settings=settings,
                on_progress=on_progress,
                on_estimate=tell,
                journal=journal,
                **limits.given(args),
            )

        if args.dry_run:
            return announced.only(lambda tell: look(None, tell))
        name = f"scan-{args.seed}"
        with models.kept(args, oracle, name) as kept:
            found = look(kept.journal, announced)
            if found.interrupted and args.resume and not found.spaces:
                raise KeyboardInterrupt  # what is there already says more
            with exits.undisturbed() as signals:
                report(0, 0, "drawing the result", line=False)
                files = render_scan(found, oracle, inputs.command(args, oracle))
                inputs.write(args, kept.folder, files, kept.names())
                if not found.interrupted and found.cost.limit != "seconds":
                    kept.done()
    with exits.undisturbed() as late:
        if args.json:
            from restore_jax.report import scan_content

            exits.print_json(scan_content(found) | {"out": str(kept.folder)})
        else:
            from restore_jax.report.scan_text import scan_text

            exits.show(scan_text(found, sys.stdout, kept.folder))
    ended = found.interrupted or signals or late
    return exits.INTERRUPTED if ended else CODES[found.verdict]


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
    _depths(args.depth)
    _options(args.option)
    inputs.check(args, "runs")


def _settings(args: argparse.Namespace) -> "ScanSettings":
    from restore_jax.diagnosis import ScanSettings

    return ScanSettings(depths=_depths(args.depth), options=_options(args.option))


def _depths(words: list[str] | None) -> dict[str, float]:
    """By space, log10 of the probability to follow classes to."""
    depths = {}
    for word in words or ():
        space, _, text = word.partition("=")
        try:
            depths[space] = float(text)
        except ValueError:
            depths[space] = 0.0
        if space not in SPACES or not -30.0 <= depths[space] <= -1.0:
            raise exits.UsageError(
                f"--depth {word}: give SPACE=X, a space of {', '.join(SPACES)} and a number from "
                "-30 to -1, as patch=-6."
            )
    return depths


def _options(words: list[str] | None) -> dict[str, dict[str, Any]]:
    """By space, what it takes."""
    options: dict[str, dict[str, Any]] = {}
    for word in words or ():
        name, _, text = word.partition("=")
        space, _, option = name.partition(".")
        if space not in SPACES or not option or not text:
            raise exits.UsageError(
                f"--option {word}: give SPACE.NAME=VALUE, a space of {', '.join(SPACES)}, as "
                "patch.max_size=3."
            )
        options.setdefault(space, {})[option] = _value(text)
    return options


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
