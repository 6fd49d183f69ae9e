"""``recover``: searches a model for the trigger of one class, and writes what it found."""

import argparse
import math
from typing import TYPE_CHECKING

from rich.console import Console

from restore_jax.cli import exits, inputs, limits, models, screens
from restore_jax.cli.progress import Tell, progress
from restore_jax.spaces import SPACES, catalogue

# JAX takes seconds to import: that is left until a person has seen a sign of life.
if TYPE_CHECKING:
    from collections.abc import Callable

    from restore_jax.oracles import Journal, Oracle
    from restore_jax.recovery import Progress, Recovery
    from restore_jax.run import Estimate, Saved

PROTOCOLS = ("default", "reference")
STOPS = ("estimate", "first_hit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    add("--trigger", metavar="NAME",
        help="a trigger that the model says was planted in it, as 1 or 2: the search is for its "
             "class, and the result is compared with it")  # fmt: skip
    add("--target", metavar="CLASS", help="the class to search for, by name or number")
    add("--source", metavar="CLASS",
        help="the class whose images alone the trigger should lead there, by name or number (all "
             "other classes)")  # fmt: skip
    spaces = "; ".join(f"{name}, {entry.help}" for name, entry in SPACES.items())
    in_turn = catalogue.automatic()
    add("--space", choices=("auto", *SPACES),
        help=f"where to look: {spaces}; auto tries {', '.join(in_turn[:-1])} and {in_turn[-1]} "
             "until one finds something (patch; sparse with --protocol reference)")  # fmt: skip
    add("--protocol", default="default", choices=PROTOCOLS,
        help="reference: the earlier implementation's search, kept to compare with "
             "(%(default)s)")  # fmt: skip
    add("--budget", type=int, metavar="N",
        help="images the model may be asked about, all counted (the space's own)")  # fmt: skip
    add("--success", type=float, default=0.95, metavar="SHARE",
        help="share of probes that a trigger must lead to the class (%(default)s)")  # fmt: skip
    add("--stop", choices=STOPS,
        help="first_hit ends at the first trigger that works: cheaper, but then there is no "
             "probability (estimate)")  # fmt: skip
    add("--compare", type=int, default=0, metavar="N",
        help="once a trigger is found: search N other classes for as many images each, as far as "
             "the budget goes, and say whether they have one as well (%(default)s)")  # fmt: skip
    inputs.add_arguments(parser, "runs/recover-<target>-<seed>/")


def screen() -> screens.Screen:
    """What --help says."""
    return screens.Screen(
        groups={
            "what to look for": {
                "--target": "the class to search, by name or number",
                "--source": "the class that the trigger should lead there (all others)",
                "--trigger": "or a trigger that the model says was planted, as 1",
                "--space": f"where: auto, {', '.join(SPACES)}",
                "--compare": "other classes to search as hard, once one is found",
                "--budget": "most images to ask about",
                "--stop": "first_hit: sooner, but without a probability (estimate)",
                **limits.SCREEN,
            },
            "the model": screens.about_model(),
            "the result": screens.RESULT,
        },
        examples=(
            "recover --target cat --compare 3",
            "recover --model onnx:model.onnx --target 7 --space auto",
        ),
        codes="0 found, 3 not found, 4 inconclusive",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    _check(args)
    console = Console(stderr=True, highlight=False)
    announced = limits.Announced(args, console)
    with progress("recover", console, "images") as report:
        report(0, 0, "loading JAX and the model")
        from restore_jax.compilation import keep_programs
        from restore_jax.report import render_recovery

        keep_programs()
        oracle = models.open_oracle(args)
        if args.dry_run:
            return announced.only(lambda tell: _search(args, oracle, None, report, announced, tell))
        with models.kept(args, oracle, _name(args, oracle)) as kept:
            recovery = _search(args, oracle, kept.journal, report, announced, announced)
            with exits.undisturbed() as signals:
                report(0, 0, "drawing the result", line=False)
                files = render_recovery(recovery, oracle, inputs.command(args, oracle))
                inputs.write(args, kept.folder, files, kept.names())
                if recovery.status != "interrupted" and recovery.cost.limit != "seconds":
                    kept.done()
    with exits.undisturbed() as late:
        if args.json:
            from restore_jax.report import recovery_content

            exits.print_json(recovery_content(recovery) | {"out": str(kept.folder)})
        else:
            from restore_jax.report.text import line

            exits.show(recovery.summary())
            exits.show(line("files", f"{kept.folder}/: {', '.join(files)}"))
    if recovery.status == "interrupted" or signals or late:
        return exits.INTERRUPTED
    return exits.DONE if recovery.found else exits.VERDICT


def _name(args: argparse.Namespace, oracle: "Oracle") -> str:
    """What the folder is called if nobody names it."""
    from restore_jax.recovery.aims import class_to_search

    if oracle.repeat_cost(1):
        return f"recover-{args.target or f'trigger-{args.trigger}'}-{args.seed}"
    return f"recover-{class_to_search(oracle, args.target, args.trigger)[0]}-{args.seed}"


def _check(args: argparse.Namespace) -> None:
    if args.trigger is None and args.target is None:
        raise exits.UsageError(
            "give the class to search for with --target, or a planted trigger with --trigger."
        )
    if args.source is not None and (args.trigger is not None or args.protocol == "reference"):
        raise exits.UsageError("--source goes with --target, and with --protocol default.")
    if args.budget is not None and args.budget < 1:
        raise exits.UsageError(f"--budget must be at least 1 image, not {args.budget}.")
    if args.compare < 0 or (args.compare and args.protocol == "reference"):
        raise exits.UsageError(
            f"--compare must be a number of classes, not {args.compare}, and goes with --protocol "
            "default."
        )
    if not 0 < args.success <= 1:
        raise exits.UsageError(f"--success must lie in (0, 1], not {args.success}.")
    if args.protocol == "reference" and args.stop is not None:
        raise exits.UsageError("--protocol reference decides itself when to stop: drop --stop.")
    if args.space == "auto" and args.protocol == "reference":
        raise exits.UsageError("--protocol reference knows one space at a time: drop --space auto.")
    inputs.check(args, "runs")


def _search(
    args: argparse.Namespace,
    oracle: "Oracle",
    journal: "Journal | Saved | None",
    report: Tell,
    announced: limits.Announced,
    tell: "Callable[[Estimate], None]",
) -> "Recovery":
    from restore_jax import recovery

    shown = 0

    def on_progress(step: "Progress") -> None:
        nonlocal shown
        # A search that stalls reports its last level twice.
        total = announced.total(step.queries, step.budget)
        text = progress_text(step) + announced.cost(step.queries)
        report(step.queries, total, text, line=step.levels != shown)
        shown = step.levels

    test_data = inputs.test_images(oracle, args.data_dir)
    report(0, 0, "compiling the search and drawing the first triggers")
    return recovery.recover(
        oracle,
        args.target,
        source=args.source,
        trigger=args.trigger,
        access=args.access,
        space=args.space,
        protocol=args.protocol,
        probes=args.probes,
        budget=args.budget,
        success=args.success,
        stop=args.stop or "estimate",
        compare=args.compare,
        seed=args.seed,
        data_dir=args.data_dir,
        test_data=test_data,
        on_progress=on_progress,
        on_estimate=tell,
        journal=journal,
        **limits.given(args),
    )


def progress_text(step: "Progress") -> str:
    """One line of progress."""
    moved = "-" if math.isnan(step.acceptance) else f"{step.acceptance:.0%}"
    goal = "" if math.isnan(step.goal) else f" (goal {step.goal:.3g})"
    if step.level >= step.goal:
        goal = " (past the goal)"
    return (
        f"level {step.levels}  score above {step.level:.3g}{goal}  "
        f"best {step.best:.3g}  accepted {moved}  {step.queries:,} of {step.budget:,} queries"
    )
