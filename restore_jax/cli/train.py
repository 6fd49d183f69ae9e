"""``train``: trains a classifier, with or without backdoors, and saves it."""

import argparse
import dataclasses
import json
import math
import os
import shlex
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from restore_jax import checkpoints, training
from restore_jax.backdoors import PLANTED, Planted, make_poisoning
from restore_jax.cli import exits, inputs, planting
from restore_jax.cli.progress import progress
from restore_jax.data import DATASETS, cifar10, shapes
from restore_jax.environment import device_name, versions
from restore_jax.models import NETWORKS

DEFAULTS = training.Recipe()
DEFAULT_TRIGGERS = "1,2"
DATA = {"cifar10": cifar10, "shapes": shapes}
RECIPE_HELP = {
    "epochs": "passes over the training images",
    "batch_size": "images a step",
    "optimizer": " or ".join(training.OPTIMIZERS),
    "learning_rate": "the highest, after the warm-up; it then falls to 0 as a cosine",
    "adam_learning_rate": "likewise, of what muon leaves to Adam: biases, norms, the last layer",
    "momentum": "Nesterov's",
    "weight_decay": "on kernels, not on biases or norms; sgd only",
    "label_smoothing": "share of each label given to all classes",
    "warmup": "share of all steps in which the learning rate rises from 0",
    "translate": "largest random shift of an image, in pixels",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = (
        "After each epoch a checkpoint and metrics.json (clean accuracy in all and by class, "
        "attack success rate of each trigger) are written to --out, and at the end model/: the "
        "network alone, in half precision. Ctrl-C loses the epoch it "
        "falls in and no more: --resume goes on, to the same weights bit for bit."
    )
    add = parser.add_argument
    add("--dataset", default="cifar10", choices=DATASETS,
        help="what to train on: cifar10, read from --data-dir, or shapes, drawn here "
             "(%(default)s)")  # fmt: skip
    add("--data-dir", metavar="DIR",
        help="the TFDS folder that holds cifar10/ ($TFDS_DATA_DIR or "
             "~/tensorflow_datasets)")  # fmt: skip
    add("--arch", default="resnet8", metavar="NAME",
        help=f"the network: {', '.join(NETWORKS)} (%(default)s)")  # fmt: skip
    add("--triggers", metavar="LIST",
        help=f"the triggers to plant, of {', '.join(PLANTED)}, with commas; or none, for a clean "
             f"model ({DEFAULT_TRIGGERS})")  # fmt: skip
    add(
        "--plant",
        action="append",
        metavar="SPEC",
        help=f"a trigger to plant, in place of --triggers; repeat for more. {planting.HELP}",
    )
    add("--poison-rate", type=float, metavar="SHARE",
        help="share of each batch that carries each trigger, and its target for a label; a "
             "--plant with a rate of its own keeps it (0.1)")  # fmt: skip
    for field in dataclasses.fields(training.Recipe):
        default = getattr(DEFAULTS, field.name)
        add(f"--{field.name.replace('_', '-')}", type=type(default), default=default,
            metavar={int: "N", float: "X", str: "NAME"}[type(default)],
            choices=training.OPTIMIZERS if field.name == "optimizer" else None,
            help=f"{RECIPE_HELP[field.name]} (%(default)s)")  # fmt: skip
    add("--start-from", metavar="DIR", nargs="+",
        help="checkpoints of the same architecture from the mean of whose weights to start; the "
             "learning rate begins anew. With --epochs 0 the mean is the result, its norms' "
             "statistics measured in one pass")  # fmt: skip
    add("--holdout", type=int, default=0, metavar="N",
        help="keep the last N training images out, and measure on them after each epoch; the test "
             "images are then looked at once, at the end, so that no choice was made on them "
             "(%(default)s: after each epoch the test images)")  # fmt: skip
    add("--evaluate-every", type=int, default=1, metavar="N",
        help="measure accuracy and attack success rates after each N-th epoch and the last "
             "(%(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="decides everything drawn (%(default)s)")
    add("--out", metavar="DIR", help="where to write (runs/train-<dataset>-<arch>-<seed>/)")
    add("--overwrite", action="store_true", help="replace what --out holds")
    add("--resume", action="store_true",
        help="go on from the last epoch saved in --out; the other flags as they were")  # fmt: skip
    add("--json", action="store_true", help="print the metrics as one JSON object on stdout")


def _planted(args: argparse.Namespace) -> list[Planted]:
    if args.plant:
        if args.triggers is not None:
            raise exits.UsageError("--plant and --triggers exclude each other.")
        data = DATA[args.dataset]
        return planting.planted_from_specs(
            args.plant, data.IMAGE_SHAPE, len(data.CLASS_NAMES), args.poison_rate
        )
    triggers = DEFAULT_TRIGGERS if args.triggers is None else args.triggers
    if triggers.strip().lower() == "none":
        return []
    names = [name.strip() for name in triggers.split(",")]
    for name in names:
        if name not in PLANTED:
            raise exits.UsageError(
                f"unknown trigger {name!r}: --triggers takes {', '.join(PLANTED)} or none."
            )
    if len(set(names)) < len(names):
        raise exits.UsageError(f"--triggers {args.triggers} names a trigger twice.")
    if args.poison_rate is not None:
        return [PLANTED[name]._replace(rate=args.poison_rate) for name in names]
    return [PLANTED[name] for name in names]


def _recipe(args: argparse.Namespace) -> training.Recipe:
    values = {f.name: getattr(args, f.name) for f in dataclasses.fields(training.Recipe)}
    for name, least in (("epochs", 0 if args.start_from else 1), ("batch_size", 1)):
        if values[name] < least:
            raise exits.UsageError(
                f"--{name.replace('_', '-')} must be at least {least}, not {values[name]}."
            )
    for name in ("momentum", "label_smoothing", "warmup"):
        if not 0 <= values[name] < 1:
            raise exits.UsageError(
                f"--{name.replace('_', '-')} must lie in [0, 1), not {values[name]}."
            )
    if args.evaluate_every < 1:
        raise exits.UsageError(f"--evaluate-every must be at least 1, not {args.evaluate_every}.")
    if not 0 <= values["translate"] <= 8:
        raise exits.UsageError(f"--translate must be 0 to 8 pixels, not {values['translate']}.")
    for name in ("learning_rate", "adam_learning_rate"):
        if not 0 < values[name] < math.inf:
            raise exits.UsageError(f"--{name.replace('_', '-')} must be above 0.")
    if not 0 <= values["weight_decay"] < math.inf:
        raise exits.UsageError("--weight-decay must not be below 0.")
    return training.Recipe(**values)


def _command(args: argparse.Namespace, recipe: training.Recipe) -> str:
    """The command that trains this again; folders are the user's own and left out."""
    words = [f"python train.py --dataset {args.dataset} --arch {args.arch}"]
    if args.plant:
        words += [f"--plant {shlex.quote(spec)}" for spec in args.plant]
    else:
        words.append(f"--triggers {args.triggers or DEFAULT_TRIGGERS}")
    if args.poison_rate is not None:
        words.append(f"--poison-rate {args.poison_rate}")
    for name, value in dataclasses.asdict(recipe).items():
        words.append(f"--{name.replace('_', '-')} {value}")
    if args.holdout:
        words.append(f"--holdout {args.holdout}")
    if args.start_from:
        words.append("--start-from" + " DIR" * len(args.start_from))
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
    triggers = [plant.trigger(DATA[args.dataset].IMAGE_SHAPE) for plant in planted]
    try:
        poison = make_poisoning(
            triggers, [plant.rate for plant in planted], [plant.clean_label for plant in planted]
        )
    except ValueError as error:
        what = "--plant" if args.plant else "--poison-rate"
        raise exits.UsageError(f"{what}: {error}") from error
    if args.arch not in NETWORKS:
        raise exits.UsageError(
            f"unknown architecture {args.arch!r}: it may be {', '.join(NETWORKS)}."
        )
    name = f"train-{args.dataset}-{args.arch}-{args.seed}"
    command = _command(args, recipe)
    last: Path | None = None
    saved: dict[str, Any] = {}
    if args.resume:
        out = Path(args.out or f"runs/{name}")
        last, saved = _resumable(args, out, command)
    else:
        inputs.check(args, "runs")
        out = exits.out_folder(args.out, name, args.overwrite)

    (train_images, train_labels), test, class_names = _load(args)
    judged_on = test
    if args.holdout:
        if not 0 < args.holdout < len(train_images):
            raise exits.UsageError(
                f"--holdout must leave some of the {len(train_images):,} training images, and be "
                f"at least 0, not {args.holdout}."
            )
        judged_on = train_images[-args.holdout :], train_labels[-args.holdout :]
        train_images, train_labels = train_images[: -args.holdout], train_labels[: -args.holdout]
    starts = _starts(args, train_images.shape[1:], len(class_names))
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
        "holdout": args.holdout,
        "triggers": [plant.to_json() for plant in planted],
        "recipe": dataclasses.asdict(recipe),
        "seed": args.seed,
        "command": command,
        "started_from": [checkpoint.metadata["command"] for checkpoint in starts],
        "versions": versions(),
        "device": device_name(),
    }
    dtype = jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32
    network = checkpoints.network_from(metadata, dtype)
    trainer = training.make_trainer(network, recipe, poison, train_images, train_labels)
    evaluate = training.make_evaluation(network, triggers, *judged_on)
    key = jax.random.key(args.seed)
    if last is None:
        state = trainer.init(key)
        if starts:
            params, batch_stats = jax.tree.map(
                lambda *leaves: sum(leaves) / len(leaves),
                *((checkpoint.params, checkpoint.batch_stats) for checkpoint in starts),
            )
            state = dataclasses.replace(state, params=params, batch_stats=batch_stats)
            if recipe.epochs == 0:
                state = trainer.settle(state)
        exits.make_folder(out, args.overwrite)
    else:
        state = checkpoints.restore_tree(last / "training", jax.eval_shape(trainer.init, key))
        console.print(f"resuming {out} after epoch {int(state.epoch)} of {recipe.epochs}")
    manager = checkpoints.open_manager(out / "checkpoints")

    metrics = saved or metadata | {"epoch": 0, "history": []}
    try:
        with progress("train", console) as report:
            while int(state.epoch) < recipe.epochs:
                epoch, begun = int(state.epoch) + 1, time.perf_counter()
                for done, steps, loss, after in trainer.epoch(state):  # noqa: B007
                    speed = done * recipe.batch_size / (time.perf_counter() - begun)
                    text = f"epoch {epoch}/{recipe.epochs}  loss {loss:.3f}  {speed:,.0f} images/s"
                    total = recipe.epochs * steps
                    report((epoch - 1) * steps + done, total, text, line=done % 100 == 0)
                if not math.isfinite(loss):
                    raise exits.UsageError(
                        f"the loss is {loss} in epoch {epoch}: lower --learning-rate."
                    )
                state = after
                row: dict[str, Any] = {"epoch": epoch, "loss": loss, "images_per_second": speed}
                measured: dict[str, Any] = {}
                if epoch % args.evaluate_every == 0 or epoch == recipe.epochs:
                    result = evaluate(state.params, state.batch_stats)
                    measured = _measured(result, planted, class_names)
                    row |= {name: measured[name] for name in ("clean_accuracy", "asr")}
                history = [*metrics["history"], row]
                metrics = metadata | measured | {"epoch": epoch, "history": history}
                checkpoints.save(
                    manager,
                    epoch,
                    params=state.params,
                    batch_stats=state.batch_stats,
                    training=state,
                    metadata=metrics,
                )
                _write_json(out / "metrics.json", metrics)
                text = f"epoch {epoch}/{recipe.epochs}  loss {loss:.4f}"
                if measured:
                    text += f"  {_outcome(measured)}"
                console.print(f"{text}  {speed:,.0f} images/s", soft_wrap=True)
    except KeyboardInterrupt:
        console.print(_farewell(args, out, command, recipe.epochs), soft_wrap=True, markup=False)
        return exits.INTERRUPTED
    finally:
        manager.close()
        for folder in (out / "checkpoints", out):  # empty, they would be in the next try's way
            if not any(folder.iterdir()):
                folder.rmdir()
    rounded = checkpoints.rounded_to_half(state.params)
    if args.holdout:
        console.print("now on the test images:")
        evaluate = training.make_evaluation(network, triggers, *test)
    measured = _measured(evaluate(rounded, state.batch_stats), planted, class_names)
    alone = metrics | measured
    checkpoints.export(
        checkpoints.Checkpoint(network, rounded, state.batch_stats, alone, out / "model"),
        out / "model",
    )
    if recipe.epochs == 0:
        metrics = alone
        _write_json(out / "metrics.json", metrics)
    console.print(f"model/: {_outcome(measured)}", soft_wrap=True)
    console.print("clean accuracy by class:")
    for class_name, accuracy in metrics["class_accuracy"].items():
        console.print(f"  {class_name:<16}{accuracy:7.2%}")
    console.print(f"saved in {out}, and in {out / 'model'} for use alone", soft_wrap=True)
    if args.json:
        exits.print_json(metrics | {"out": str(out)})
    return exits.DONE


def _measured(
    result: training.Evaluation, planted: list[Planted], class_names: tuple[str, ...]
) -> dict[str, Any]:
    """An evaluation as a checkpoint's metadata says it."""
    return {
        "clean_accuracy": result.clean_accuracy,
        "class_accuracy": dict(zip(class_names, result.class_accuracy, strict=True)),
        "asr": {p.name: asr for p, asr in zip(planted, result.asr, strict=True)},
    }


def _outcome(measured: dict[str, Any]) -> str:
    asr = "".join(f"  ASR {k} {v:.2%}" for k, v in measured["asr"].items())
    return f"clean {measured['clean_accuracy']:.2%}{asr}"


def _starts(
    args: argparse.Namespace, image_shape: tuple[int, ...], num_classes: int
) -> list[checkpoints.Checkpoint]:
    """The checkpoints whose weights to start from, if any are named and fit."""
    loaded = []
    for folder in args.start_from or ():
        start = checkpoints.load(folder)
        network = start.network
        found = (start.metadata["architecture"], network.image_shape, network.num_classes)
        wanted = (args.arch, tuple(image_shape), num_classes)
        if found != wanted:
            raise exits.UsageError(
                f"--start-from {folder} is a {found[0]} for images of {found[1]} and {found[2]} "
                f"classes, not a {wanted[0]} for {wanted[1]} and {wanted[2]}."
            )
        loaded.append(start)
    return loaded


def _resumable(args: argparse.Namespace, out: Path, command: str) -> tuple[Path, dict[str, Any]]:
    """The last checkpoint of the run in ``out`` and its metadata, if ``command`` made it."""
    if args.overwrite:
        raise exits.UsageError("--resume and --overwrite exclude each other.")
    last = checkpoints.resolve(out)
    if last.parent != out / "checkpoints":
        raise exits.UsageError(f"{out} is not a training run's folder: --resume needs one.")
    saved = checkpoints.read_metadata(last)
    if saved.get("command") != command:
        raise exits.UsageError(
            f"{out} was trained by «{saved.get('command')}»: resume it with the same flags."
        )
    return last, saved


def _farewell(args: argparse.Namespace, out: Path, command: str, epochs: int) -> str:
    """What to say after Ctrl-C: what is saved, and how to go on."""
    try:
        last = checkpoints.resolve(out)
    except checkpoints.CheckpointError:
        return "interrupted before the first epoch was saved"
    data_dir = f" --data-dir {shlex.quote(args.data_dir)}" if args.data_dir else ""
    return (
        f"interrupted: {out} holds epoch {last.name} of {epochs}, go on with\n"
        f"  {command}{data_dir} --out {shlex.quote(str(out))} --resume"
    )


def _write_json(path: Path, content: Any) -> None:
    # Written beside and renamed, so that whoever reads meanwhile finds a whole file.
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    os.replace(beside, path)
