"""``train``: trains a classifier, with or without backdoors, and saves it."""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from restore_jax import checkpoints, training
from restore_jax.backdoors import PLANTED, PlantedPatch, make_poisoning
from restore_jax.cli import exits
from restore_jax.cli.progress import progress
from restore_jax.data import DATASETS, cifar10, shapes
from restore_jax.environment import device_name, versions
from restore_jax.models import NETWORKS

DEFAULTS = training.Recipe()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    add("--dataset", default="cifar10", choices=DATASETS, help="what to train on (%(default)s)")
    add("--data-dir", metavar="DIR", help="the TFDS folder that holds cifar10/")
    add("--arch", default="resnet8", metavar="NAME", help=f"{', '.join(NETWORKS)} (%(default)s)")
    add("--triggers", default="1,2", metavar="LIST",
        help=f"planted triggers, of {', '.join(PLANTED)}, or none (%(default)s)")  # fmt: skip
    add("--poison-rate", type=float, metavar="SHARE",
        help="share of each batch that carries each trigger (0.1)")  # fmt: skip
    for field in dataclasses.fields(training.Recipe):
        default = getattr(DEFAULTS, field.name)
        add(f"--{field.name.replace('_', '-')}", type=type(default), default=default,
            metavar="N" if isinstance(default, int) else "X", help="(%(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="(%(default)s)")
    add("--out", metavar="DIR", help="where to write (runs/train-<dataset>-<arch>-<seed>/)")
    add("--overwrite", action="store_true", help="replace what --out holds")
    add("--resume", action="store_true", help="go on from the last epoch saved in --out")
    add("--json", action="store_true", help="print the metrics as one JSON object on stdout")


def _planted(args: argparse.Namespace) -> list[PlantedPatch]:
    if args.triggers.strip().lower() == "none":
        return []
    names = [name.strip() for name in args.triggers.split(",")]
    for name in names:
        if name not in PLANTED:
            raise exits.UsageError(
                f"unknown trigger {name!r}: --triggers takes {', '.join(PLANTED)} or none."
            )
    if len(set(names)) < len(names):
        raise exits.UsageError(f"--triggers {args.triggers} names a trigger twice.")
    planted = [PLANTED[name] for name in names]
    if args.poison_rate is not None:
        planted = [patch._replace(rate=args.poison_rate) for patch in planted]
    return planted


def _recipe(args: argparse.Namespace) -> training.Recipe:
    values = {f.name: getattr(args, f.name) for f in dataclasses.fields(training.Recipe)}
    for name in ("epochs", "batch_size"):
        if values[name] < 1:
            raise exits.UsageError(
                f"--{name.replace('_', '-')} must be at least 1, not {values[name]}."
            )
    for name in ("momentum", "label_smoothing", "warmup"):
        if not 0 <= values[name] < 1:
            raise exits.UsageError(
                f"--{name.replace('_', '-')} must lie in [0, 1), not {values[name]}."
            )
    if not 0 <= values["translate"] <= 8:
        raise exits.UsageError(f"--translate must be 0 to 8 pixels, not {values['translate']}.")
    if not values["learning_rate"] > 0 or not values["weight_decay"] >= 0:
        raise exits.UsageError("--learning-rate must be above 0 and --weight-decay not below.")
    return training.Recipe(**values)


def _command(args: argparse.Namespace, recipe: training.Recipe) -> str:
    """The command that trains this again; folders are the user's own and left out."""
    words = [f"python train.py --dataset {args.dataset} --arch {args.arch}"]
    words.append(f"--triggers {args.triggers}")
    if args.poison_rate is not None:
        words.append(f"--poison-rate {args.poison_rate}")
    for name, value in dataclasses.asdict(recipe).items():
        words.append(f"--{name.replace('_', '-')} {value}")
    return " ".join([*words, f"--seed {args.seed}"])


def _load(args: argparse.Namespace) -> tuple[Any, Any, tuple[str, ...]]:
    if args.dataset == "cifar10":
        return (
            cifar10.load("train", args.data_dir),
            cifar10.load("test", args.data_dir),
            cifar10.CLASS_NAMES,
        )
    return shapes.load("train"), shapes.load("test"), shapes.CLASS_NAMES


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    console = Console(stderr=True, highlight=False)
    planted, recipe = _planted(args), _recipe(args)
    rates = [patch.rate for patch in planted]
    if any(not 0 <= rate <= 1 for rate in rates) or sum(rates) > 1:
        raise exits.UsageError(
            f"--poison-rate is a share for each of {len(rates)} triggers and may come to 1 in all."
        )
    if args.arch not in NETWORKS:
        raise exits.UsageError(
            f"unknown architecture {args.arch!r}: it may be {', '.join(NETWORKS)}."
        )
    name = f"train-{args.dataset}-{args.arch}-{args.seed}"
    command = _command(args, recipe)
    if args.resume:
        out = Path(args.out or f"runs/{name}")
        if args.overwrite:
            raise exits.UsageError("--resume and --overwrite exclude each other.")
        last = checkpoints.resolve(out)
        saved = checkpoints.read_metadata(last)
        if saved["command"] != command:
            raise exits.UsageError(
                f"{out} was trained by «{saved['command']}»: resume it with the same flags."
            )
    else:
        out = exits.out_folder(args.out, name, args.overwrite)

    (train_images, train_labels), (test_images, test_labels), class_names = _load(args)
    sample = train_images[:10_000].astype(np.float64) / 255.0
    metadata: dict[str, Any] = {
        "architecture": args.arch,
        "class_names": list(class_names),
        "image_shape": list(train_images.shape[1:]),
        "normalisation": {
            "mean": [round(float(m), 4) for m in sample.mean((0, 1, 2))],
            "std": [round(float(s), 4) for s in sample.std((0, 1, 2))],
        },
        "dataset": args.dataset,
        "train_images": len(train_images),
        "triggers": [patch.to_json() for patch in planted],
        "recipe": dataclasses.asdict(recipe),
        "seed": args.seed,
        "command": command,
        "versions": versions(),
        "device": device_name(),
    }
    dtype = jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32
    network = checkpoints.network_from(metadata, dtype)
    triggers = [patch.trigger(network.image_shape) for patch in planted]
    trainer = training.make_trainer(
        network, recipe, make_poisoning(triggers, rates), train_images, train_labels
    )
    evaluate = training.make_evaluation(network, triggers, test_images, test_labels)
    state = trainer.init(jax.random.key(args.seed))
    history: list[dict[str, Any]] = []
    if args.resume:
        state = checkpoints.restore_tree(last / "training", state)
        history = saved["history"]
        console.print(f"resuming {out} after epoch {int(state.epoch)} of {recipe.epochs}")
    else:
        exits.make_folder(out, args.overwrite)
    manager = checkpoints.open_manager(out / "checkpoints")

    metrics = metadata | {"history": history}
    with progress("train", console) as report:
        while int(state.epoch) < recipe.epochs:
            epoch, start = int(state.epoch) + 1, time.perf_counter()
            for done, steps, loss, state in trainer.epoch(state):  # noqa: B007
                speed = done * recipe.batch_size / (time.perf_counter() - start)
                text = f"epoch {epoch}/{recipe.epochs}  loss {loss:.3f}  {speed:,.0f} images/s"
                total = recipe.epochs * steps
                report((epoch - 1) * steps + done, total, text, line=done % 100 == 0)
            result = evaluate(state.params, state.batch_stats)
            row = {
                "epoch": epoch,
                "loss": loss,
                "clean_accuracy": result.clean_accuracy,
                "asr": {p.name: asr for p, asr in zip(planted, result.asr, strict=True)},
                "images_per_second": speed,
            }
            history = [*history, row]
            metrics = metadata | {
                "clean_accuracy": result.clean_accuracy,
                "class_accuracy": dict(zip(class_names, result.class_accuracy, strict=True)),
                "asr": row["asr"],
                "epoch": epoch,
                "history": history,
            }
            checkpoints.save(
                manager,
                epoch,
                params=state.params,
                batch_stats=state.batch_stats,
                training=state,
                metadata=metrics,
            )
            _write_json(out / "metrics.json", metrics)
            asr_text = "".join(f"  ASR {k} {v:.2%}" for k, v in row["asr"].items())
            console.print(
                f"epoch {epoch}/{recipe.epochs}  loss {loss:.4f}  "
                f"clean {result.clean_accuracy:.2%}{asr_text}  {speed:,.0f} images/s",
                soft_wrap=True,
            )
    manager.close()
    console.print("clean accuracy by class:")
    for class_name, accuracy in metrics["class_accuracy"].items():
        console.print(f"  {class_name:<16}{accuracy:7.2%}")
    console.print(f"saved in {out}", soft_wrap=True)
    if args.json:
        exits.print_json(metrics | {"out": str(out)})
    return exits.DONE


def _write_json(path: Path, content: Any) -> None:
    # Written beside and renamed, so that whoever reads meanwhile finds a whole file.
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    os.replace(beside, path)
