"""``train``: trains a classifier, with or without backdoors, and saves it."""

import argparse
import dataclasses
import math
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console

from restore_jax import checkpoints, training
from restore_jax.backdoors import KINDS, PLANTED, Planted, poisoning_of
from restore_jax.cli import exits, inputs, planting, screens
from restore_jax.cli.progress import Tell, progress
from restore_jax.data import DATASETS, cifar10, shapes
from restore_jax.errors import InputError
from restore_jax.models import NETWORKS

DEFAULTS = training.Recipe()
DEFAULT_TRIGGERS = "1,2"
DATA = {"cifar10": cifar10, "shapes": shapes}
RECIPE_HELP = {
    "epochs": "passes over the training images",
    "batch_size": "images a step",
    "optimizer": " or ".join(training.OPTIMIZERS),
    "learning_rate": "the highest, after the warm-up; it then falls to 0 as a cosine",
    "adam_learning_rate": "the highest for what muon leaves to Adam: biases, norms, the last layer",
    "momentum": "Nesterov's",
    "weight_decay": "on kernels, not on biases or norms; sgd only",
    "label_smoothing": "share of each label that is spread over all classes",
    "warmup": "share of all steps in which the learning rate rises from 0",
    "translate": "largest random shift of an image, in pixels",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = (
        "After each epoch a checkpoint and metrics.json (clean accuracy in all and by class, "
        "attack success rate of each trigger) are written to --out, and at the end model/: the "
        "network alone, in half precision. Ctrl-C loses the epoch it "
        "falls in and no more: --resume goes on, to the same weights bit for bit (on a GPU with "
        "--deterministic)."
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
        own = [f"{value[field.name]} for {name}" for name, value in training.OWN.items()
               if field.name in value]  # fmt: skip
        add(f"--{field.name.replace('_', '-')}", type=type(default),
            metavar={int: "N", float: "X", str: "NAME"}[type(default)],
            choices=training.OPTIMIZERS if field.name == "optimizer" else None,
            help=f"{RECIPE_HELP[field.name]} ({', '.join([str(default), *own])})")  # fmt: skip
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
    add("--deterministic", action="store_true",
        help="on a GPU: the same seed gives the same weights bit for bit, for some of its speed; "
             "on a CPU it always does")  # fmt: skip
    add("--out", metavar="DIR", help="where to write (runs/train-<dataset>-<arch>-<seed>/)")
    add("--overwrite", action="store_true", help="replace what --out holds")
    add("--resume", action="store_true",
        help="go on from the last epoch saved in --out; the other flags as they were")  # fmt: skip
    add("--json", action="store_true", help="print the metrics as one JSON object on stdout")


def screen() -> screens.Screen:
    """What --help says."""
    return screens.Screen(
        groups={
            "data and network": {
                "--dataset": "cifar10, or shapes, which is drawn here",
                "--data-dir": "the TFDS folder with cifar10/ in it",
                "--arch": f"{', '.join(NETWORKS)}",
            },
            "what to plant": {
                "--triggers": f"of {', '.join(PLANTED)}; none: a clean model",
                "--plant": f"or others: KIND:key=value,...; kinds: {', '.join(KINDS)}",
                "--poison-rate": "share of each batch with each trigger",
            },
            "how to train": {
                "--epochs": RECIPE_HELP["epochs"],
                "--batch-size": RECIPE_HELP["batch_size"],
                "--learning-rate": "the highest",
                "--holdout": "training images kept out, to measure on",
            },
            "the result": screens.RESULT,
        },
        examples=(
            "train --dataset shapes --epochs 4",
            "train --data-dir DIR --plant stripes:target=1",
        ),
        codes="0 done",
    )


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
    names = [field.name for field in dataclasses.fields(training.Recipe)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    recipe = training.recipe_for(args.arch, **given)
    values = dataclasses.asdict(recipe)
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
    return recipe


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
    if args.deterministic:
        words.append("--deterministic")
    if args.start_from:
        words.append("--start-from" + " DIR" * len(args.start_from))
    return " ".join([*words, f"--seed {args.seed}"])


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    console = Console(stderr=True, highlight=False)
    planted, recipe = _planted(args), _recipe(args)
    _check(args, planted)
    name, command = f"train-{args.dataset}-{args.arch}-{args.seed}", _command(args, recipe)
    out = _out(args, name)
    try:
        with progress("train", console) as report:
            told = _Told(console, report, args.holdout)
            trained = training.train(
                out,
                dataset=args.dataset,
                architecture=args.arch,
                planted=planted,
                recipe=recipe,
                start_from=args.start_from or (),
                holdout=args.holdout,
                evaluate_every=args.evaluate_every,
                seed=args.seed,
                data_dir=args.data_dir,
                deterministic=args.deterministic,
                overwrite=args.overwrite,
                resume=args.resume,
                command=command,
                on_step=told.step,
                on_epoch=told.epoch,
                on_resume=lambda epoch: console.print(
                    f"resuming {out} after epoch {epoch} of {recipe.epochs}"
                ),
            )
    except KeyboardInterrupt:
        console.print(_farewell(args, out, command, recipe.epochs), soft_wrap=True, markup=False)
        return exits.INTERRUPTED
    console.print("clean accuracy by class:")
    for class_name, accuracy in trained.metrics["class_accuracy"].items():
        console.print(f"  {class_name:<16}{accuracy:7.2%}")
    console.print(f"saved in {out}, and in {out / 'model'} for use alone", soft_wrap=True)
    if args.json:
        exits.print_json(trained.metrics | {"out": str(out)})
    return exits.DONE


class _Told:
    """Says how training goes."""

    def __init__(self, console: Console, report: Tell, holdout: int):
        self._console, self._report, self._holdout = console, report, holdout

    def step(self, step: training.Step) -> None:
        """Within an epoch: on the bar, and now and then as a line."""
        text = (
            f"epoch {step.epoch}/{step.epochs}  loss {step.loss:.3f}  "
            f"{step.images_per_second:,.0f} images/s"
        )
        done = (step.epoch - 1) * step.steps + step.done
        self._report(done, step.epochs * step.steps, text, line=step.done % 100 == 0)

    def epoch(self, epoch: training.Epoch) -> None:
        """After an epoch: a line."""
        if epoch.epoch == 0:
            where = " on the test images" if self._holdout else ""
            self._console.print(f"model/{where}: {_outcome(epoch.measured)}", soft_wrap=True)
            return
        text = f"epoch {epoch.epoch}/{epoch.epochs}  loss {epoch.loss:.4f}"
        if epoch.measured:
            text += f"  {_outcome(epoch.measured)}"
        self._console.print(f"{text}  {epoch.images_per_second:,.0f} images/s", soft_wrap=True)


def _check(args: argparse.Namespace, planted: list[Planted]) -> None:
    """What can be refused before any data is read."""
    data = DATA[args.dataset]
    try:
        poisoning_of(planted, data.IMAGE_SHAPE, len(data.CLASS_NAMES))
    except InputError as error:
        what = "--plant" if args.plant else "--poison-rate"
        raise exits.UsageError(f"{what}: {error}") from error
    if args.arch not in NETWORKS:
        raise exits.UsageError(
            f"unknown architecture {args.arch!r}: it may be {', '.join(NETWORKS)}."
        )


def _out(args: argparse.Namespace, name: str) -> Path:
    """The folder of the run, which is there already where it is to be resumed."""
    if not args.resume:
        inputs.check(args, "runs")
        return exits.out_folder(args.out, name, args.overwrite)
    if args.overwrite:
        raise exits.UsageError("--resume and --overwrite exclude each other.")
    return Path(args.out or f"runs/{name}")


def _outcome(measured: dict[str, Any]) -> str:
    asr = "".join(f"  ASR {k} {v:.2%}" for k, v in measured["asr"].items())
    return f"clean {measured['clean_accuracy']:.2%}{asr}"


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
