"""``purify``: a model's answers on images, free of the triggers recovered from it."""

import argparse
import csv
import io
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from restore_jax.cli import exits, inputs, limits, models, screens
from restore_jax.cli.progress import Tell, progress

# JAX takes seconds to import: that is left until a person has seen a sign of life.
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from restore_jax.data.probes import ProbeSource
    from restore_jax.oracles import Journal, Oracle
    from restore_jax.purification import Defended
    from restore_jax.recovery import Recovery
    from restore_jax.report.purification_page import Example
    from restore_jax.run import Estimate, Run, Saved

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
    from restore_jax.report.purification_page import purification_page
    from restore_jax.report.purifying import power_lines

    run = _begun(args, oracle, recoveries, source, journal, tell)
    number = source.available or 0
    report(0, number, "trying looks on probes")
    defended, can = _guarded(args, run, recoveries)
    seen = _looked_at(run, defended, source, report)
    cost, provenance, command = run.cost(), run.provenance(), inputs.command(args, run.model)

    def page(result: dict[str, Any]) -> bytes:
        return purification_page(result, seen.examples, recoveries, cost, provenance, command)

    result = _content(args, run, recoveries, seen, number, defended.queries, can)
    names = run.model.class_names
    return result, _table(names, seen.said, seen.stands, seen.flag), page, power_lines(can)


def _begun(
    args: argparse.Namespace,
    oracle: "Oracle",
    recoveries: "Sequence[Recovery]",
    source: "ProbeSource",
    journal: "Journal | Saved | None",
    tell: "Callable[[Estimate], None]",
) -> "Run":
    """The run, with the model examined and its cost announced."""
    from restore_jax.purification import BLIND_COST, defence_cost
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
    found = {int(one.trigger.target) for one in recoveries if one.found}
    least = (most - run.model.asked) // run.model.each
    expected = least if args.blind else CHOOSING * len(found) + PER_IMAGE * number
    announce(run, expected, least, tell, most // run.model.each)
    return run


def _guarded(
    args: argparse.Namespace, run: "Run", recoveries: "Sequence[Recovery]"
) -> "tuple[Defended, Any]":
    """The model behind its guards, and what they can do."""
    from restore_jax.purification import (
        Blind,
        Defended,
        Guard,
        blind_report,
        defences,
        defend_blindly,
    )
    from restore_jax.purification import report as power

    guards: list[Guard] | Blind
    if args.blind:
        guards = defend_blindly(run)
        return Defended(run, guards), blind_report(guards)
    guards = defences(run, recoveries)
    return Defended(run, guards), power(run, guards, recoveries)


class _Seen(NamedTuple):
    """What became of the images that were looked at.

    Attributes:
      said, stands: int32[n], the classes that the model gave, and that are given instead.
      flag: bool[n], what carries a trigger.
      examples: a few of those, for the page.
      interrupted: whether somebody ended it.
    """

    said: "np.ndarray"
    stands: "np.ndarray"
    flag: "np.ndarray"
    examples: "list[Example]"
    interrupted: bool


def _looked_at(run: "Run", defended: "Defended", source: "ProbeSource", report: Tell) -> _Seen:
    """Asks about all images, or as many as there is time and money for."""
    import numpy as np

    from restore_jax.errors import OutOfQueries
    from restore_jax.report.purification_page import NUM_EXAMPLES, Example

    number, access, names = source.available or 0, run.model.access, run.model.class_names
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    examples: list[Example] = []
    interrupted, flags = False, 0
    try:
        for first in range(0, number, CHUNK):
            images = np.asarray(source.draw(first, min(CHUNK, number - first)))
            outputs, flagged, plain = defended(images)
            said, stands = _labels(access, plain), _labels(access, outputs)
            parts.append((said, stands, flagged))
            for k in np.flatnonzero(flagged)[: NUM_EXAMPLES - len(examples)]:
                place = first + int(k)
                examples.append(Example(place, images[k], names[said[k]], names[stands[k]]))
            flags += int(flagged.sum())
            done = first + len(images)
            report(done, number, f"{flags:,} flagged", line=False)
            if done < number:
                run.ledger.go_on()
    except KeyboardInterrupt:
        if not parts:
            raise
        interrupted = True
    except OutOfQueries:
        if not parts:
            raise
        run.ended()
    said, stands, flag = map(np.concatenate, zip(*parts, strict=True))
    return _Seen(said, stands, flag, examples, interrupted)


def _content(
    args: argparse.Namespace,
    run: "Run",
    recoveries: "Sequence[Recovery]",
    seen: _Seen,
    number: int,
    queries: int,
    can: Any,
) -> dict[str, Any]:
    """What purification.json says."""
    from restore_jax.report.contents import cost_content, provenance_content
    from restore_jax.report.purifying import power_content

    names, cost = run.model.class_names, run.cost()
    spent = cost_content(cost)
    return {
        "schema_version": SCHEMA_VERSION,
        "recoveries": args.recovery or [],
        "targets": sorted({int(r.trigger.target) for r in recoveries if r.found}),
        "images": args.images,
        "num_images": len(seen.flag),
        "of_images": number,
        "interrupted": seen.interrupted,
        "flagged": int(seen.flag.sum()),
        "flagged_by_class": {
            name: int(seen.flag[seen.said == k].sum())
            for k, name in enumerate(names)
            if (seen.said == k).any()
        },
        **power_content(can),
        **{
            name: spent[name]
            for name in ("queries", "asking", "price", "cost", "limit")
            if name in spent
        },
        "queries_per_image": queries / len(seen.flag),
        "access": run.model.access,
        **provenance_content(run.provenance(), cost),
    }


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
