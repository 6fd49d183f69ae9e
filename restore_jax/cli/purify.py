"""``purify``: a model's answers on images, free of the triggers recovered from it."""

import argparse
import csv
import io
import json
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console

from restore_jax.cli import exits, inputs, limits, models, screens
from restore_jax.cli.progress import Tell, progress

# JAX takes seconds to import: that is left until a person has seen a sign of life.
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from restore_jax.data.probes import ProbeSource
    from restore_jax.oracles import Journal, Oracle
    from restore_jax.recovery import Recovery
    from restore_jax.run import Estimate, Saved

SCHEMA_VERSION = 2
CHUNK = 1_000
CHOOSING, PER_IMAGE = 7_000, 1.2
"""What is expected: images to choose the looks for a class, and for an image (measured: those of
photographs without a trigger); docs/measured.md."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    add("--recovery", nargs="+", metavar="DIR",
        help="folders that recover wrote, or one that scan wrote")  # fmt: skip
    add("--blind", action="store_true",
        help="no recovery: guard all classes, by three changed copies of every image")  # fmt: skip
    add("--images", required=True, metavar="SPEC",
        help="what to ask about: a folder of images, an .npz or .npy file, or cifar10, the test "
             "images in --data-dir")  # fmt: skip
    add(
        "--budget",
        type=int,
        metavar="N",
        help="images the model may be asked about, all counted (what the worst case takes)",
    )
    inputs.add_arguments(parser, "runs/purify/")


def screen() -> screens.Screen:
    """What --help says."""
    return screens.Screen(
        groups={
            "what to look at": {
                "--recovery": "folders that recover wrote, or one that scan wrote",
                "--blind": "instead: all classes, by three more queries per image",
                "--images": "a folder, a file, or cifar10 with --data-dir",
                "--budget": "most images to ask about",
                **limits.SCREEN,
            },
            "the model": screens.about_model(),
            "the result": screens.RESULT,
        },
        examples=("purify --recovery looked-at --images folder/of/images",),
        codes="0 done, 4 inconclusive",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    if args.blind == bool(args.recovery):
        raise exits.UsageError("give either --recovery, with what was found, or --blind.")
    inputs.check(args, "runs")
    began = time.perf_counter()
    console = Console(stderr=True, highlight=False)
    announced = limits.Announced(args, console)
    with progress("purify", console, "images") as report:
        report(0, 0, "loading JAX and the model")
        from restore_jax.compilation import keep_programs
        from restore_jax.data.probes import open_probes
        from restore_jax.report import load_recoveries
        from restore_jax.report.written import attempted

        recoveries = load_recoveries(args.recovery or [])
        keep_programs()
        oracle = models.open_oracle(args)
        models.check_triggers(oracle, recoveries)
        source = open_probes(
            args.images, args.seed, oracle.image_shape, args.data_dir, in_order=True
        )
        if source.available is None:
            raise exits.UsageError(
                f"--images {args.images} has no end: name a folder, a file, or cifar10."
            )
        if args.dry_run:
            return announced.only(
                lambda tell: _purify(args, oracle, recoveries, source, None, report, tell)
            )
        with models.kept(args, oracle, "purify") as kept:
            result, table, page, can = _purify(
                args, oracle, recoveries, source, kept.journal, report, announced
            )
            with exits.undisturbed() as signals:
                result["seconds"] = time.perf_counter() - began
                files = {
                    "purification.json": (
                        json.dumps(result, indent=2, allow_nan=False) + "\n"
                    ).encode(),
                    **attempted({"report.html": lambda: page(result)}),
                    "predictions.csv": table.encode(),
                }
                inputs.write(args, kept.folder, files, kept.names())
                if not result["interrupted"] and result.get("limit") != "seconds":
                    kept.done()
    whole = result["num_images"] == result["of_images"]
    code = exits.DONE if whole else exits.INCONCLUSIVE
    with exits.undisturbed() as late:
        if args.json:
            exits.print_json(result | {"out": str(kept.folder)})
        else:
            exits.show("\n".join(_lines(result, can, f"{kept.folder}/: {', '.join(files)}")))
    return exits.INTERRUPTED if result["interrupted"] or signals or late else code


def _lines(result: dict[str, Any], can: list[str], files: str) -> list[str]:
    """The result for a person; ``can`` says what purifying can do for the model."""
    from restore_jax.report.text import asking_lines

    number, of = result["num_images"], ""
    if number < result["of_images"]:
        ended = f"the {result['limit']} were over" if "limit" in result else "it was interrupted"
        of = f" looked at before {ended}, of {result['of_images']:,},"
    what = "are given another class" if "blind" in result else "carry a trigger"
    return [
        f"{result['flagged']:,} of {number:,} images{of} {what}",
        *(
            f"  {name:<16}{flagged:>7,} that the model gave this class"
            for name, flagged in result["flagged_by_class"].items()
            if flagged
        ),
        *can,
        f"  queries         {result['queries']:,}, {result['queries_per_image']:.2f} per image",
        *([f"  cost            ${result['cost']:,.2f}"] if "cost" in result else []),
        *(f"  asking          {text}" for text in asking_lines(result.get("asking"))),
        *(f"  note            {note}" for note in result.get("notes", ())),
        f"  files           {files}",
    ]


def _purify(
    args: argparse.Namespace,
    oracle: "Oracle",
    recoveries: "Sequence[Recovery]",
    source: "ProbeSource",
    journal: "Journal | Saved | None",
    report: Tell,
    tell: "Callable[[Estimate], None]",
) -> tuple[dict[str, Any], str, "Callable[[dict[str, Any]], bytes]", list[str]]:
    """Asks about all images.

    The result, the table of them, what draws the page about it, and in words what purifying can
    do.
    """
    import numpy as np

    from restore_jax.errors import OutOfQueries
    from restore_jax.purification import (
        BLIND_COST,
        Blind,
        Defended,
        Guard,
        blind_report,
        defence_cost,
        defences,
        defend_blindly,
    )
    from restore_jax.purification import report as power
    from restore_jax.report.contents import cost_content, provenance_content
    from restore_jax.report.purification_page import NUM_EXAMPLES, Example, purification_page
    from restore_jax.report.purifying import power_content, power_lines
    from restore_jax.run import Limits, Run, examining
    from restore_jax.run.estimates import announce

    number = source.available or 0
    each, choosing = (4, BLIND_COST) if args.blind else (3, defence_cost(len(recoveries)))
    most = examining.cost(oracle) + choosing + each * number
    most = oracle.asked + oracle.each * most
    limits_given = Limits(**limits.given(args))
    # What is sent again after a failure has to be paid for, too.
    budget = args.budget or 2 * most
    if limits_given.images(budget) < most:
        raise exits.UsageError(
            f"{exits.sentence(limits_given.said(budget))} too small: {number:,} images may take "
            f"{most:,}, {each} for each and some to begin with."
        )
    run = Run(
        oracle,
        budget=budget,
        probes=args.probes,
        seed=args.seed,
        data_dir=args.data_dir,
        journal=journal,
        limits=limits_given,
    ).examine()
    oracle = run.model
    found = {int(one.trigger.target) for one in recoveries if one.found}
    least = (most - oracle.asked) // oracle.each
    expected = least if args.blind else CHOOSING * len(found) + PER_IMAGE * number
    announce(run, expected, least, tell, most // oracle.each)
    report(0, number, "trying looks on probes")
    guards: list[Guard] | Blind
    if args.blind:
        guards = defend_blindly(run)
        can = blind_report(guards)
    else:
        guards = defences(run, recoveries)
        can = power(run, guards, recoveries)
    defended = Defended(run, guards)
    before: list[np.ndarray] = []
    after: list[np.ndarray] = []
    flags: list[np.ndarray] = []
    examples: list[Example] = []
    names = oracle.class_names
    interrupted = False
    try:
        for first in range(0, number, CHUNK):
            images = np.asarray(source.draw(first, min(CHUNK, number - first)))
            outputs, flagged, plain = defended(images)
            before.append(_labels(oracle.access, plain))
            after.append(_labels(oracle.access, outputs))
            flags.append(flagged)
            for k in np.flatnonzero(flagged)[: NUM_EXAMPLES - len(examples)]:
                model, stands = names[before[-1][k]], names[after[-1][k]]
                examples.append(Example(first + int(k), images[k], model, stands))
            done = first + len(images)
            report(done, number, f"{sum(map(sum, flags)):,} flagged", line=False)
            if done < number:
                run.ledger.go_on()
    except KeyboardInterrupt:
        if not flags:
            raise
        interrupted = True
    except OutOfQueries:
        if not flags:
            raise
        run.ended()
    said, stands, flag = map(np.concatenate, (before, after, flags))
    cost, provenance = run.cost(), run.provenance()
    spent, command = cost_content(cost), inputs.command(args, oracle)

    def page(result: dict[str, Any]) -> bytes:
        return purification_page(result, examples, recoveries, cost, provenance, command)

    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "recoveries": args.recovery or [],
        "targets": sorted({int(r.trigger.target) for r in recoveries if r.found}),
        "images": args.images,
        "num_images": len(flag),
        "of_images": number,
        "interrupted": interrupted,
        "flagged": int(flag.sum()),
        "flagged_by_class": {
            names[k]: int(flag[said == k].sum()) for k in range(len(names)) if (said == k).any()
        },
        **power_content(can),
        **{
            name: spent[name]
            for name in ("queries", "asking", "price", "cost", "limit")
            if name in spent
        },
        "queries_per_image": defended.queries / len(flag),
        "access": oracle.access,
        **provenance_content(provenance, cost),
    }
    return result, _table(names, said, stands, flag), page, power_lines(can)


def _labels(access: str, outputs: "np.ndarray") -> "np.ndarray":
    return outputs if access == "labels" else outputs.argmax(-1)


def _table(
    names: tuple[str, ...], said: "np.ndarray", stands: "np.ndarray", flag: "np.ndarray"
) -> str:
    """One line per image, numbered in order (of names, in a folder): its number, what the model
    said, what stands, and whether it is flagged."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "model", "purified", "flagged"])
    for index in range(len(flag)):
        row = [index, names[said[index]], names[stands[index]], int(flag[index])]
        writer.writerow(row)
    return text.getvalue()
