"""``verify``: measures how often a given trigger works on a model."""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from restore_jax.cli import exits, inputs, models
from restore_jax.cli.progress import progress

# JAX takes seconds to import: that is left until a person has seen a sign of life.
if TYPE_CHECKING:
    import jax

    from restore_jax.backdoors import Trigger
    from restore_jax.oracles import Asker, Oracle

SCHEMA_VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    add("--trigger-file", required=True, metavar="FILE",
        help="a trigger.npz, or the folder of a recovery")  # fmt: skip
    add("--num-probes", type=int, default=200, metavar="N",
        help="probes to stamp, of those that are not the target already (%(default)s)")  # fmt: skip
    inputs.add_arguments(parser, "nothing is written without it")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    if args.num_probes < 1:
        raise exits.UsageError(f"--num-probes must be at least 1, not {args.num_probes}.")
    if args.resume:
        raise exits.UsageError(
            "verify asks about so few images that it keeps no answers to resume."
        )
    inputs.check(args, ".")
    began = time.perf_counter()
    with progress("verify", Console(stderr=True, highlight=False)) as report:
        report(0, 0, "loading JAX and the model")
        import jax.numpy as jnp

        from restore_jax.backdoors import stamp
        from restore_jax.compilation import keep_programs
        from restore_jax.environment import device_name, versions
        from restore_jax.oracles import Asker, Ledger, account
        from restore_jax.recovery import attack_success_rate
        from restore_jax.report import load_trigger

        trigger = load_trigger(args.trigger_file)
        keep_programs()
        oracle = models.open_oracle(args)
        _check_fit(trigger, oracle, args.trigger_file)
        test_data = inputs.test_images(oracle, args.data_dir)
        report(0, 0, "asking about probes")
        ledger = Ledger(1 << 62)
        asker = Asker(oracle, ledger)
        probes, asked = _probes(args, oracle, asker, int(trigger.target))
        hits = int(jnp.sum(asker.labels(stamp(trigger, probes)) == trigger.target))
        test_rate, num_test = None, 0
        if test_data is not None:
            num_test = int((test_data[1] != int(trigger.target)).sum())
            report(0, 0, f"asking about {num_test:,} test images")
            test_rate = attack_success_rate(oracle, trigger, *test_data, asker=asker)
        result: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "trigger_file": args.trigger_file,
            "trigger_pixels": int(trigger.pixels),
            "additive": trigger.additive,
            "target": int(trigger.target),
            "target_name": oracle.class_names[int(trigger.target)],
            "model": oracle.name,
            "access": oracle.access,
            "probes": args.probes,
            "num_probes": len(probes),
            "probe_success_rate": hits / len(probes),
            "num_test_images": num_test,
            "test_success_rate": test_rate,
            "queries": oracle.asked + asked + len(probes) + num_test + ledger.resent,
            **account(oracle, ledger),
            "seconds": time.perf_counter() - began,
            "seed": args.seed,
            "versions": versions(),
            "device": device_name(),
        }
        if args.out:
            _write(result, Path(args.out), args.overwrite)
    if args.json:
        exits.print_json(result)
        return exits.DONE
    share = f"{hits:,} of {len(probes):,} probes ({hits / len(probes):.1%})"
    target = f"class {result['target']} ({result['target_name']})"
    print(f"{args.trigger_file} leads {share} to {target} in {oracle.name}")
    if test_rate is not None:
        print(f"  and {test_rate:.2%} of the {num_test:,} test images of other classes")
    return exits.DONE


def _check_fit(trigger: "Trigger", oracle: "Oracle", name: str) -> None:
    shape = tuple(trigger.pattern.shape)
    if shape != oracle.image_shape:
        raise exits.UsageError(
            f"the trigger in {name} is for images of shape {shape}, but {oracle.name} takes "
            f"{oracle.image_shape}."
        )
    if int(trigger.target) >= oracle.num_classes:
        raise exits.UsageError(
            f"the trigger in {name} leads to class {int(trigger.target)}, but {oracle.name} has "
            f"only {oracle.num_classes} classes."
        )


def _probes(
    args: argparse.Namespace, oracle: "Oracle", asker: "Asker", target: int
) -> "tuple[jax.Array, int]":
    """Probes f32[n, H, W, C] that the model does not take for the target, and how many it saw.

    A source with an end may give fewer than were asked for.

    Raises:
      Inconclusive: it takes nearly all of them for the target.
    """
    import jax.numpy as jnp

    from restore_jax.data.probes import open_probes
    from restore_jax.oracles import Inconclusive

    source = open_probes(args.probes, args.seed, oracle.image_shape, args.data_dir)
    most = 20 * args.num_probes
    if source.available is not None:
        most = min(most, source.available)
    kept: list[jax.Array] = []
    have, asked = 0, 0
    while have < args.num_probes and asked < most:
        images = source.draw(asked, min(args.num_probes - have, most - asked))
        asked += len(images)
        images = images[asker.labels(images) != target]
        kept, have = [*kept, images], have + len(images)
    if have == 0 or (have < args.num_probes and source.available is None):
        raise Inconclusive(
            f"only {have} of {asked} probes are not already of class {target} to this model: "
            "give other --probes."
        )
    return jnp.concatenate(kept), asked


def _write(result: dict[str, Any], folder: Path, overwrite: bool) -> None:
    from restore_jax.report import write_files

    content = json.dumps(result, indent=2, allow_nan=False) + "\n"
    try:
        exits.make_folder(folder, overwrite)
        write_files(folder, {"verification.json": content.encode()})
    except OSError as error:
        raise exits.UsageError(
            f"the result cannot be written to {folder} ({error.strerror})."
        ) from error
