"""``verify``: measures how often a given trigger works on a model."""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from restore_jax.cli import exits, inputs, limits, models, screens
from restore_jax.cli.progress import progress

# JAX takes seconds to import: that is left until a person has seen a sign of life.
if TYPE_CHECKING:
    from collections.abc import Callable

    from restore_jax.run import Estimate
    from restore_jax.verification import Verification

SCHEMA_VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    add("--trigger-file", required=True, metavar="FILE",
        help="a trigger.npz, the folder of a recovery, or an attack.npz that says which "
        "classes it leads where")  # fmt: skip
    add("--num-probes", type=int, default=200, metavar="N",
        help="probes to stamp, of those that are not the target already (%(default)s)")  # fmt: skip
    inputs.add_arguments(parser, "nothing is written without it")


def screen() -> screens.Screen:
    """What --help says."""
    result = {flag: words for flag, words in screens.RESULT.items() if flag != "--resume"}
    return screens.Screen(
        groups={
            "what to measure": {
                "--trigger-file": "a trigger.npz, an attack.npz, or the folder of a recovery",
                "--num-probes": "images to stamp",
                "--dry-run": limits.SCREEN["--dry-run"],
            },
            "the model": screens.about_model(),
            "the result": result,
        },
        examples=("verify --trigger-file runs/recover-3-0/trigger.npz",),
        codes="0 done, 4 inconclusive",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    if args.num_probes < 1:
        raise exits.UsageError(f"--num-probes must be at least 1, not {args.num_probes}.")
    if args.resume:
        raise exits.UsageError(
            "verify asks about so few images that it keeps no answers to resume."
        )
    inputs.check(args, ".", writes=False)
    began = time.perf_counter()
    console = Console(stderr=True, highlight=False)
    announced = limits.Announced(args, console)
    with progress("verify", console) as report:
        report(0, 0, "loading JAX and the model")
        from restore_jax.backdoors import describe
        from restore_jax.compilation import keep_programs
        from restore_jax.report import load_attack
        from restore_jax.verification import check_fit, verify

        keep_programs()
        oracle = models.open_oracle(args)
        attack = load_attack(args.trigger_file, oracle.num_classes)
        check_fit(attack, oracle, f"the trigger in {args.trigger_file}")

        def measure(tell: "Callable[[Estimate], None]") -> "Verification":
            return verify(
                oracle,
                attack,
                probes=args.probes,
                num_probes=args.num_probes,
                seed=args.seed,
                data_dir=args.data_dir,
                test_data=inputs.test_images(oracle, args.data_dir),
                on_estimate=tell,
                on_progress=lambda text: report(0, 0, text),
                **limits.given(args),
            )

        if args.dry_run:
            return announced.only(measure)
        found = measure(announced)
        result = _content(found, args, time.perf_counter() - began)
        if args.out:
            content = json.dumps(result, indent=2, allow_nan=False) + "\n"
            with exits.undisturbed() as signals:
                inputs.write(args, Path(args.out), {"verification.json": content.encode()})
            if signals:
                return exits.INTERRUPTED
    if args.json:
        exits.print_json(result)
        return exits.DONE
    share = f"{found.hits:,} of {found.num_probes:,} probes ({found.probe_success_rate:.1%})"
    exits.show(f"{args.trigger_file} leads {share} {_where(found)} in {oracle.name}")
    exits.show(f"  it is {describe(found.trigger)}")
    from restore_jax.report.text import cost_lines

    if found.test_success_rate is not None:
        rate, number = found.test_success_rate, found.num_test_images
        exits.show(f"  and {rate:.2%} of the {number:,} test images that it should lead")
    for text in cost_lines(found.cost):
        exits.show(f"  cost: {text}")
    for note in found.provenance.notes:
        exits.show(f"  note: {note}")
    return exits.DONE


def _where(found: "Verification") -> str:
    """Where the trigger leads which classes, in words."""
    led = [(k, to) for k, to in enumerate(found.leads_to) if to != k]
    targets = {to for _, to in led}
    if len(targets) > 1:
        return f"where it should ({', '.join(f'{k} to {to}' for k, to in led)})"
    target = f"to class {targets.pop()} ({found.target_name})"
    if len(led) >= len(found.leads_to) - 1:
        return target
    return f"of class {', '.join(str(k) for k, _ in led)} {target}"


def _content(found: "Verification", args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What verification.json holds."""
    from restore_jax.report.contents import cost_content, provenance_content

    spent = cost_content(found.cost)
    return {
        "schema_version": SCHEMA_VERSION,
        "trigger_file": args.trigger_file,
        "trigger_pixels": int(found.trigger.pixels),
        "additive": found.trigger.additive,
        "leads_to": list(found.leads_to),
        "target": int(found.trigger.target),
        "target_name": found.target_name,
        "access": found.provenance.access,
        "num_probes": found.num_probes,
        "probe_success_rate": found.probe_success_rate,
        "num_test_images": found.num_test_images,
        "test_success_rate": found.test_success_rate,
        **{name: spent[name] for name in ("queries", "asking", "price", "cost") if name in spent},
        **provenance_content(found.provenance, found.cost),
        "probes": args.probes,
        "seconds": seconds,
    }
