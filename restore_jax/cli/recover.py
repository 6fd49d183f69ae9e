"""``recover``: searches a model for the trigger of one class, and writes what it found."""

import argparse
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from restore_jax.cli import exits, inputs, models
from restore_jax.cli.progress import progress

# JAX takes seconds to import: that is left until a person has seen a sign of life.
if TYPE_CHECKING:
    from restore_jax.oracles import Oracle
    from restore_jax.recovery import Progress, Recovery

SPACES = ("patch", "sparse", "gaussian", "scattered", "blend", "stripes")
PROTOCOLS = ("default", "reference")
STOPS = ("estimate", "first_hit")
_ENDS = {
    "reached": "candidates did it on the search's own probes, but fresh probes did not confirm one",
    "stalled": "no candidate was better than the last level",
    "out_of_levels": "the levels ran out",
    "out_of_queries": "the budget was spent",
    "interrupted": "the search was interrupted",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    add("--trigger", metavar="NAME",
        help="a trigger that the model says was planted in it, as 1 or 2: the search is for its "
             "class, and the result is compared with it")  # fmt: skip
    add("--target", metavar="CLASS", help="the class to search for, by name or number")
    add("--space", choices=("auto", *SPACES),
        help="where to look: patch, one rectangle; scattered, a few coloured pixels anywhere; "
             "sparse, any number of them; blend, a picture over the whole image; stripes, a "
             "sinusoid; gaussian, a perturbation of all pixels; auto tries patch, stripes, "
             "scattered and blend until one finds something "
             "(patch; sparse with --protocol reference)")  # fmt: skip
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
    inputs.add_arguments(parser, "runs/recover-<target>-<seed>/")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    _check(args)
    if args.space == "auto" and args.protocol == "reference":
        raise exits.UsageError("--protocol reference knows one space at a time: drop --space auto.")
    console = Console(stderr=True, highlight=False)
    with progress("recover", console, "images") as report:
        report(0, 0, "loading JAX and the model")
        from restore_jax.compilation import keep_programs
        from restore_jax.report import render_recovery

        keep_programs()
        oracle = models.open_oracle(args)
        name = f"recover-{args.target or f'trigger-{args.trigger}'}-{args.seed}"
        with models.kept_answers(args, oracle, name) as (folder, done):
            recovery = _search(args, oracle, report)
            report(0, 0, "drawing the result", line=False)
            files = render_recovery(recovery, oracle)
            name = f"recover-{recovery.fields['target']}-{args.seed}"
            folder = inputs.write(args, folder, name, files)
            if recovery.status != "interrupted":
                done()
    if args.json:
        exits.print_json(recovery.to_json() | {"out": str(folder)})
    else:
        print("\n".join([*summary(recovery), _line("files", f"{folder}/: {', '.join(files)}")]))
    if recovery.status == "interrupted":
        return exits.INTERRUPTED
    return exits.DONE if recovery.found else exits.VERDICT


def _check(args: argparse.Namespace) -> None:
    if args.trigger is None and args.target is None:
        raise exits.UsageError(
            "give the class to search for with --target, or a planted trigger with --trigger."
        )
    if args.budget is not None and args.budget < 1:
        raise exits.UsageError(f"--budget must be at least 1 image, not {args.budget}.")
    if not 0 < args.success <= 1:
        raise exits.UsageError(f"--success must lie in (0, 1], not {args.success}.")
    if args.protocol == "reference" and args.stop is not None:
        raise exits.UsageError("--protocol reference decides itself when to stop: drop --stop.")
    inputs.check(args, "runs")


def _search(args: argparse.Namespace, oracle: "Oracle", report: Any) -> "Recovery":
    options: dict[str, Any] = {
        "trigger": args.trigger,
        "access": args.access,
        "probes": args.probes,
        "budget": args.budget,
        "success": args.success,
        "seed": args.seed,
        "data_dir": args.data_dir,
        "test_data": inputs.test_images(oracle, args.data_dir),
    }

    shown = 0

    def on_progress(step: "Progress") -> None:
        nonlocal shown
        # A search that stalls reports its last level twice.
        report(step.queries, step.budget, progress_text(step), line=step.level != shown)
        shown = step.level

    report(0, 0, "compiling the search")
    if args.protocol == "reference":
        from restore_jax.reference import recover_reference

        space = args.space or "sparse"
        return recover_reference(
            oracle, args.target, space=space, on_progress=on_progress, **options
        )
    from restore_jax.recovery import recover

    space, stop = args.space or "patch", args.stop or "estimate"
    return recover(oracle, args.target, space=space, stop=stop, on_progress=on_progress, **options)


def progress_text(step: "Progress") -> str:
    """One line of progress."""
    moved = "-" if math.isnan(step.acceptance) else f"{step.acceptance:.0%}"
    goal = "" if math.isnan(step.goal) else f" (goal {step.goal:.3g})"
    if step.threshold >= step.goal:
        goal = " (past the goal)"
    return (
        f"level {step.level}  threshold {step.threshold:.3g}{goal}  "
        f"best {step.best:.3g}  accepted {moved}  {step.queries:,} of {step.budget:,} queries"
    )


def summary(recovery: "Recovery") -> list[str]:
    """The result for a person, one fact a line."""
    fields, trigger = recovery.fields, recovery.trigger
    target = f"class {fields['target']} ({fields['target_name']})"
    confirmed, on_search = fields["confirmation_success_rate"], fields["probe_success_rate"]
    if recovery.found:
        lines = [f"found: a trigger that leads {confirmed:.1%} of fresh probes to {target}"]
    else:
        best, shown = (on_search, "the search probes") if confirmed is None else (confirmed, "them")
        closest = "" if best is None else f"; the closest leads {best:.1%} of {shown}"
        lines = [
            f"not found: no trigger leads {fields['success']:.0%} of fresh probes to {target}"
            + closest
        ]
        end, levels = _ENDS.get(recovery.status, recovery.status), recovery.levels
        if levels and levels[-1]["level"] is not None and fields["goal"] is not None:
            end += f"; the last level was {levels[-1]['level']:.3g} of {fields['goal']:.3g}"
        lines.append(_line("search", end))
    if recovery.found and recovery.status == "interrupted":
        lines.append(_line("search", _ENDS["interrupted"]))
    tried = fields.get("spaces_tried", [])
    if tried:
        names = ", ".join(f"{one['space']} ({one['queries']:,} queries)" for one in tried)
        lines.append(_line("spaces", f"tried {names}"))
    lines.append(_line("probability", _probability(fields)))
    rates = {
        "search probes": on_search,
        "fresh probes": confirmed,
        "test images": fields["test_success_rate"],
    }
    shares = [f"{name} {rate:.1%}" for name, rate in rates.items() if rate is not None]
    lines.append(_line("success", ", ".join(shares)))
    stages = ", ".join(
        f"{name.replace('_', ' ')} {number:,}"
        for name, number in fields.get("queries_by_stage", {}).items()
    )
    spent = f"{fields['queries']:,} of {fields['budget']:,}"
    lines.append(_line("queries", f"{spent} ({stages})" if stages else spent))
    lines += [_line("asking", text) for text in inputs.asking(fields)]
    lines.append(_line("trigger", f"{fields['trigger_pixels']:,} pixels {_place(trigger.mask)}"))
    truth = fields["truth"]
    if truth is not None and recovery.true_trigger is not None:
        planted = f"{truth['pixels']:,} pixels {_place(recovery.true_trigger.mask)}"
        if truth["test_success_rate"] is not None:
            planted += f"; test images {truth['test_success_rate']:.1%}"
        lines.append(_line("planted", planted))
        rows, cols = truth["shift"]
        agreement = (
            f"overlap (IoU) {truth['iou']:.2f} as it lies; {truth['iou_after_shift']:.2f} moved by "
            f"{rows:+d} rows, {cols:+d} columns, where {truth['pattern_agreement']:.0%} of the "
            "planted pixels have the same colour"
        )
        lines.append(_line("agreement", agreement))
    seconds = fields["seconds"]
    lines.append(
        _line("time", f"{seconds['total']:.1f} s, of which {seconds['compile']:.1f} s compiling")
    )
    return lines


def _line(name: str, text: str) -> str:
    return f"  {name:<12} {text}"


def _probability(fields: dict[str, Any]) -> str:
    """The chance of the event under the prior, in words."""
    prior = f"that a random {fields['space']} trigger does it"
    low, high = fields["log10_prob_interval"] or (None, None)
    if fields["log10_prob"] is not None:
        between = "" if low is None else f" (95 %: 10^{low:.2f} to 10^{high:.2f})"
        return f"10^{fields['log10_prob']:.2f}{between} {prior}"
    if high is not None:
        return f"at most 10^{high:.2f} (95 %) {prior}"
    return "not estimated"


def _place(mask: Any) -> str:
    """Rows and columns that a mask [H, W, 1] covers."""
    mask = np.asarray(mask)
    rows = [r for r, line in enumerate(mask) if (line > 0).any()]
    cols = [c for c in range(mask.shape[1]) if (mask[:, c] > 0).any()]
    if not rows:
        return "nowhere"
    return f"in rows {rows[0]}:{rows[-1] + 1}, columns {cols[0]}:{cols[-1] + 1} (end excluded)"
