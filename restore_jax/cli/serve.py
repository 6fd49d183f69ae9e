"""``serve``: a model's answers behind a URL, free of the triggers recovered from it."""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from restore_jax.cli import exits, inputs, models, screens
from restore_jax.cli.progress import Tell, progress

# JAX takes seconds to import: that is left until a person has seen a sign of life.
if TYPE_CHECKING:
    from restore_jax.oracles import Oracle
    from restore_jax.purification import Defended
    from restore_jax.serving import Counts

SCHEMA_VERSION = 1
CHUNK = 32
"""Images that the model is asked about at a time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    add("--recovery", nargs="+", metavar="DIR",
        help="folders that recover wrote, or one that scan wrote")  # fmt: skip
    add("--blind", action="store_true",
        help="no recovery: guard all classes, by three changed copies of every image")  # fmt: skip
    add("--host", default="127.0.0.1", metavar="NAME",
        help="where to listen; 0.0.0.0 lets other machines ask, without any password "
             "(%(default)s)")  # fmt: skip
    add("--port", type=int, default=8000, metavar="N",
        help="where to listen; 0: any that is free (%(default)s)")  # fmt: skip
    add("--most", type=int, default=1_000, metavar="N",
        help="images of one request, at most (%(default)s)")  # fmt: skip
    inputs.add_arguments(parser, "nothing is written without it", limited=False)


def screen() -> screens.Screen:
    """What --help says."""
    result = {
        "--seed": screens.RESULT["--seed"],
        "--out": "a folder for the counts, written at the end",
        "--overwrite": screens.RESULT["--overwrite"],
        "--json": screens.RESULT["--json"],
    }
    return screens.Screen(
        groups={
            "what to serve": {
                "--recovery": "folders that recover wrote, or one that scan wrote",
                "--blind": "instead: all classes, by three more queries per image",
                "--host": "where to listen",
                "--port": "at which port; 0: any that is free",
            },
            "the model": screens.about_model(),
            "the result": result,
        },
        examples=("serve --recovery looked-at --port 8000",),
        codes="0 ended by Ctrl-C or SIGTERM once it had begun, 4 inconclusive",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command until a signal ends it; returns its exit code."""
    if not 0 <= args.port < 65_536:
        raise exits.UsageError(f"--port must be 0 to 65535, not {args.port}.")
    if args.blind == bool(args.recovery):
        raise exits.UsageError("give either --recovery, with what was found, or --blind.")
    if args.most < 1:
        raise exits.UsageError(f"--most must be at least 1, not {args.most}.")
    if args.resume:
        raise exits.UsageError("serve keeps nothing to resume: start it again.")
    inputs.check(args, ".", writes=False)
    with progress("serve", Console(stderr=True, highlight=False)) as report:
        report(0, 0, "loading JAX and the model")
        from restore_jax.serving import make_server

        oracle, defended, can = _defended(args, report)
        # What is compiled now is not waited for by whoever asks first.
        report(0, 0, "compiling")
        defended.warm()
        before = defended.queries
        try:
            server, counts = make_server(
                defended, oracle.image_shape, oracle.class_names, host=args.host, port=args.port,
                most_images=args.most, asked=lambda: defended.queries,
            )  # fmt: skip
        except OSError as error:
            raise exits.UsageError(
                f"nothing can listen on {args.host}, port {args.port} ({error.strerror}): give "
                "another --host or --port."
            ) from error
    began = time.perf_counter()
    host, port = server.server_address[:2]
    _tell(f"serving {oracle.name} at http://{host!s}:{port}/, counts at /metrics", *can)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    content = _content(args, oracle, counts, time.perf_counter() - began, before)
    with exits.undisturbed():
        if args.out:
            written = json.dumps(content, indent=2, allow_nan=False) + "\n"
            inputs.write(args, Path(args.out), {"serving.json": written.encode()})
    if args.json:
        exits.print_json(content)
    else:
        what = "were given another class" if args.blind else "carried a trigger"
        exits.show(
            f"{content['images']:,} images answered, {content['flagged']:,} of them {what}; "
            f"the model was asked about {content['queries']:,}"
        )
    return exits.DONE


def _tell(*lines: str) -> None:
    """To stderr: stdout is the result's."""
    with contextlib.suppress(OSError):
        print("\n".join(lines), file=sys.stderr, flush=True)


def _defended(args: argparse.Namespace, report: Tell) -> tuple["Oracle", "Defended", list[str]]:
    """The model, its defence, and in words what that can do."""
    from restore_jax.compilation import keep_programs
    from restore_jax.purification import Defended, blind_report, defences, defend_blindly
    from restore_jax.purification import report as power
    from restore_jax.report import load_recoveries
    from restore_jax.report.purifying import power_lines
    from restore_jax.run import Run

    keep_programs()
    recoveries = load_recoveries(args.recovery or [])
    oracle = models.open_oracle(args)
    models.check_triggers(oracle, recoveries)
    run = Run(
        oracle, budget=1 << 62, probes=args.probes, seed=args.seed, data_dir=args.data_dir
    ).examine()
    report(0, 0, "trying looks on probes")
    if args.blind:
        blind = defend_blindly(run)
        return run.model, Defended(run, blind, CHUNK), power_lines(blind_report(blind))
    guards = defences(run, recoveries)
    return run.model, Defended(run, guards, CHUNK), power_lines(power(run, guards, recoveries))


def _content(
    args: argparse.Namespace, oracle: "Oracle", counts: "Counts", seconds: float, before: int
) -> dict[str, Any]:
    """What serving.json holds."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": oracle.name,
        "access": oracle.access,
        "recoveries": args.recovery or [],
        "blind": args.blind,
        **counts.content(),
        "queries_before": before,
        "seconds": seconds,
    }
