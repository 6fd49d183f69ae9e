"""Trains a classifier and saves it: data, epochs, a checkpoint after each, the network alone."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from restore_jax import checkpoints
from restore_jax.backdoors import Planted, planted_attack, poisoning_of
from restore_jax.data import DATASETS, cifar10, shapes
from restore_jax.environment import device_name, versions
from restore_jax.errors import InputError
from restore_jax.folders import make_folder, write_json
from restore_jax.models import Network
from restore_jax.models.layers import Params
from restore_jax.training import trainer as trainers
from restore_jax.training.trainer import (
    Evaluation,
    Recipe,
    Trainer,
    TrainingState,
    recipe_for,
)
from restore_jax.types import JSON

Images = tuple[np.ndarray, np.ndarray]


Evaluate = Callable[[Params, Params], Evaluation]
"""Of a network's parameters and batch statistics."""


class Step(NamedTuple):
    """Where an epoch stands.

    Attributes:
      epoch: its number, from 1.
      epochs: how many there are.
      done, steps: steps behind, and in an epoch.
      loss: the mean so far.
      images_per_second: so far.
    """

    epoch: int
    epochs: int
    done: int
    steps: int
    loss: float
    images_per_second: float


class Epoch(NamedTuple):
    """What an epoch came to.

    Attributes:
      epoch: its number, from 1; 0 once training has ended and the network alone was measured.
      epochs: how many there are.
      loss: the mean; None at the end.
      images_per_second: None at the end.
      measured: ``clean_accuracy``, ``class_accuracy`` and ``asr``; empty where nothing was.
    """

    epoch: int
    epochs: int
    loss: float | None
    images_per_second: float | None
    measured: dict[str, JSON]


class Trained(NamedTuple):
    """What training came to.

    Attributes:
      folder: holds ``checkpoints/``, ``metrics.json`` and ``model/``, the network alone.
      metrics: what metrics.json says.
      measured: of the network alone.
    """

    folder: Path
    metrics: dict[str, JSON]
    measured: dict[str, JSON]


class _Prepared(NamedTuple):
    """What does not change while training goes on."""

    recipe: Recipe
    planted: list[Planted]
    network: Network
    trainer: Trainer
    evaluate: Evaluate
    evaluate_at_the_end: Callable[[], Evaluate]
    evaluate_every: int
    metadata: dict[str, JSON]
    class_names: tuple[str, ...]
    out: Path


def train(
    out: str | Path,
    *,
    dataset: str = "cifar10",
    architecture: str = "resnet8",
    planted: Sequence[Planted] = (),
    recipe: Recipe | None = None,
    start_from: Sequence[str | Path] = (),
    holdout: int = 0,
    evaluate_every: int = 1,
    seed: int = 0,
    data_dir: str | None = None,
    deterministic: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    command: str = "",
    on_step: Callable[[Step], None] = lambda step: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_resume: Callable[[int], None] = lambda epoch: None,
) -> Trained:
    """Trains a classifier, with or without backdoors, and saves it.

    Args:
      out: the folder to write to, made if need be.
      dataset: "cifar10", read from ``data_dir``, or "shapes", drawn here.
      architecture: a network's name.
      planted: the triggers to plant.
      recipe: how; None: `recipe_for` the architecture.
      start_from: checkpoints of the same architecture from the mean of whose weights to start.
      holdout: the last so many training images are kept out and measured on after each epoch.
      evaluate_every: how many epochs lie between measurements.
      seed: of everything drawn.
      data_dir: the TFDS folder that holds cifar10/.
      deterministic: whether a GPU shall end with the same weights bit for bit each time, for some
        of its speed; a CPU always does.
      overwrite: whether what ``out`` holds is removed.
      resume: go on from the last epoch saved in ``out``.
      command: what would train this again, written into the checkpoints; a run is resumed only
        with the same.
      on_step: told now and then within an epoch.
      on_epoch: told after each epoch, and of the network alone at the end.
      on_resume: told the number of the epoch after which training goes on.

    Raises:
      InputError: an argument out of range, or a loss that is not finite.
      KeyboardInterrupt: as it comes; epochs that are saved stay.

    >>> train("runs/clean", dataset="shapes", recipe=Recipe(epochs=8))  # doctest: +SKIP
    """
    out, recipe = Path(out), recipe or recipe_for(architecture)
    if overwrite and resume:
        raise InputError("`resume` and `overwrite` exclude each other.")
    last, saved = _resumable(out, command) if resume else (None, {})
    prepared, starts = _prepared(
        out, dataset, architecture, list(planted), recipe, start_from, holdout, evaluate_every,
        seed, data_dir, deterministic, command,
    )  # fmt: skip
    state = _first_state(prepared, starts, jax.random.key(seed), last)
    if last is None:
        make_folder(out, overwrite)
    else:
        on_resume(int(state.epoch))
    metrics = saved or prepared.metadata | {"epoch": 0, "history": []}
    with _manager(out) as manager:
        while int(state.epoch) < recipe.epochs:
            state, row = _one_epoch(prepared, state, on_step)
            metrics = _saved(prepared, state, row, metrics, manager)
            on_epoch(row)
    return _exported(prepared, state, metrics, on_epoch)


def _prepared(
    out: Path,
    dataset: str,
    architecture: str,
    planted: list[Planted],
    recipe: Recipe,
    start_from: Sequence[str | Path],
    holdout: int,
    evaluate_every: int,
    seed: int,
    data_dir: str | None,
    deterministic: bool,
    command: str,
) -> tuple[_Prepared, list[checkpoints.Checkpoint]]:
    """Data, network and trainer, and the checkpoints to start from."""
    training, judged_on, test, class_names = _data(dataset, data_dir, holdout)
    attacks = [planted_attack(plant, training[0].shape[1:], len(class_names)) for plant in planted]
    poisoning = poisoning_of(planted, training[0].shape[1:], len(class_names))
    starts = _starts(start_from, architecture, training[0].shape[1:], len(class_names))
    sample = training[0][:10_000].astype(np.float64) / 255.0
    metadata: dict[str, JSON] = {
        "architecture": architecture,
        "class_names": list(class_names),
        "image_shape": list(training[0].shape[1:]),
        "normalisation": {
            "mean": [round(float(m), 4) for m in sample.mean((0, 1, 2))],
            "std": [round(float(s), 4) for s in sample.std((0, 1, 2))],
        },
        "dataset": dataset,
        "train_images": len(training[0]),
        "holdout": holdout,
        "triggers": [plant.to_json() for plant in planted],
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "command": command,
        "started_from": [_made_by(checkpoint) for checkpoint in starts],
        "versions": versions(),
        "device": device_name(),
    }
    dtype = jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32
    network = checkpoints.network_from(metadata, dtype)
    evaluate = trainers.make_evaluation(network, attacks, *judged_on)
    return _Prepared(
        recipe=recipe,
        planted=planted,
        network=network,
        trainer=trainers.make_trainer(
            network, recipe, poisoning, *training, deterministic=deterministic
        ),
        evaluate=evaluate,
        # The test images are not looked at before the end, where some were held out.
        evaluate_at_the_end=lambda: (
            trainers.make_evaluation(network, attacks, *test) if holdout else evaluate
        ),
        evaluate_every=evaluate_every,
        metadata=metadata,
        class_names=class_names,
        out=out,
    ), starts


def _data(
    dataset: str, data_dir: str | None, holdout: int
) -> tuple[Images, Images, Images, tuple[str, ...]]:
    """Images and labels to train on, to measure on after each epoch and at the end."""
    if dataset not in DATASETS:
        raise InputError(f"unknown `dataset` {dataset!r}: it may be {', '.join(DATASETS)}.")
    if dataset == "cifar10":
        names = cifar10.CLASS_NAMES
        images, labels = cifar10.load("train", data_dir)
        test = cifar10.load("test", data_dir)
    else:
        names = shapes.CLASS_NAMES
        (images, labels), test = shapes.load("train"), shapes.load("test")
    if not holdout:
        return (images, labels), test, test, names
    if not 0 < holdout < len(images):
        raise InputError(
            f"`holdout` must leave some of the {len(images):,} training images, and be "
            f"at least 0, not {holdout}."
        )
    kept = images[:-holdout], labels[:-holdout]
    return kept, (images[-holdout:], labels[-holdout:]), test, names


def _made_by(start: checkpoints.Checkpoint) -> dict[str, JSON]:
    """The command that made it, and what that had started from in turn."""
    names = ("command", "started_from")
    return {name: start.metadata[name] for name in names if start.metadata.get(name)}


def _starts(
    folders: Sequence[str | Path], architecture: str, image_shape: tuple[int, ...], classes: int
) -> list[checkpoints.Checkpoint]:
    """The checkpoints whose weights to start from, if they fit."""
    loaded = []
    for folder in folders:
        start = checkpoints.load(folder)
        network = start.network
        found = (start.metadata["architecture"], network.image_shape, network.num_classes)
        wanted = (architecture, tuple(image_shape), classes)
        if found != wanted:
            raise InputError(
                f"`start_from` {folder} is a {found[0]} for images of {found[1]} and {found[2]} "
                f"classes, not a {wanted[0]} for {wanted[1]} and {wanted[2]}."
            )
        loaded.append(start)
    return loaded


def _resumable(out: Path, command: str) -> tuple[Path, dict[str, JSON]]:
    """The last checkpoint of the run in ``out`` and its metadata, if ``command`` made it."""
    last = checkpoints.resolve(out)
    if last.parent != out / "checkpoints":
        raise InputError(f"{out} is not a training run's folder: `resume` needs one.")
    saved = checkpoints.read_metadata(last)
    if saved.get("command") != command:
        raise InputError(
            f"{out} was trained by «{saved.get('command')}»: resume it with the same flags."
        )
    return last, saved


def _first_state(
    prepared: _Prepared, starts: list[checkpoints.Checkpoint], key: jax.Array, last: Path | None
) -> TrainingState:
    """The state after the last epoch that was saved, or before the first one."""
    trainer = prepared.trainer
    if last is not None:
        found: TrainingState = checkpoints.restore_tree(
            last / "training", jax.eval_shape(trainer.init, key)
        )
        return found
    state = trainer.init(key)
    if starts:
        params, batch_stats = jax.tree.map(
            lambda *leaves: sum(leaves) / len(leaves),
            *((checkpoint.params, checkpoint.batch_stats) for checkpoint in starts),
        )
        state = dataclasses.replace(state, params=params, batch_stats=batch_stats)
        if prepared.recipe.epochs == 0:
            state = trainer.settle(state)
    return state


@contextlib.contextmanager
def _manager(out: Path) -> Iterator[ocp.CheckpointManager]:
    """Orbax's manager of the checkpoints; folders that stay empty are taken away."""
    manager = checkpoints.open_manager(out / "checkpoints")
    try:
        yield manager
    finally:
        manager.close()
        for folder in (out / "checkpoints", out):  # empty, they would be in the next try's way
            if not any(folder.iterdir()):
                folder.rmdir()


def _one_epoch(
    prepared: _Prepared, state: TrainingState, on_step: Callable[[Step], None]
) -> tuple[TrainingState, Epoch]:
    """Trains for an epoch, and measures where it is time."""
    recipe, begun = prepared.recipe, time.perf_counter()
    epoch, loss, speed, after = int(state.epoch) + 1, math.nan, 0.0, state
    for done, steps, loss, after in prepared.trainer.epoch(state):  # noqa: B007
        speed = done * recipe.batch_size / (time.perf_counter() - begun)
        on_step(Step(epoch, recipe.epochs, done, steps, loss, speed))
    if not math.isfinite(loss):
        raise InputError(f"the loss is {loss} in epoch {epoch}: lower `learning_rate`.")
    measured: dict[str, JSON] = {}
    if epoch % prepared.evaluate_every == 0 or epoch == recipe.epochs:
        measured = _measured(prepared, prepared.evaluate(after.params, after.batch_stats))
    return after, Epoch(epoch, recipe.epochs, loss, speed, measured)


def _saved(
    prepared: _Prepared,
    state: TrainingState,
    row: Epoch,
    metrics: dict[str, JSON],
    manager: ocp.CheckpointManager,
) -> dict[str, JSON]:
    """Writes a checkpoint and metrics.json; the metrics."""
    line: dict[str, JSON] = {
        "epoch": row.epoch, "loss": row.loss, "images_per_second": row.images_per_second,
    }  # fmt: skip
    line |= {name: row.measured[name] for name in ("clean_accuracy", "asr") if row.measured}
    metrics = (
        prepared.metadata
        | row.measured
        | {"epoch": row.epoch, "history": [*metrics["history"], line]}
    )
    checkpoints.save(
        manager,
        row.epoch,
        params=state.params,
        batch_stats=state.batch_stats,
        training=state,
        metadata=metrics,
    )
    write_json(prepared.out / "metrics.json", metrics)
    return metrics


def _exported(
    prepared: _Prepared,
    state: TrainingState,
    metrics: dict[str, JSON],
    on_epoch: Callable[[Epoch], None],
) -> Trained:
    """Writes the network alone, in half precision, measured as it is."""
    out, recipe = prepared.out, prepared.recipe
    rounded = checkpoints.rounded_to_half(state.params)
    evaluate = prepared.evaluate_at_the_end()
    measured = _measured(prepared, evaluate(rounded, state.batch_stats))
    alone = metrics | measured
    checkpoints.export(
        checkpoints.Checkpoint(prepared.network, rounded, state.batch_stats, alone, out / "model"),
        out / "model",
    )
    if recipe.epochs == 0:
        metrics = alone
        write_json(out / "metrics.json", metrics)
    on_epoch(Epoch(0, recipe.epochs, None, None, measured))
    return Trained(out, metrics, measured)


def _measured(prepared: _Prepared, result: Evaluation) -> dict[str, JSON]:
    """An evaluation as a checkpoint's metadata says it."""
    names = prepared.class_names
    return {
        "clean_accuracy": result.clean_accuracy,
        "class_accuracy": dict(zip(names, result.class_accuracy, strict=True)),
        "asr": {p.name: asr for p, asr in zip(prepared.planted, result.asr, strict=True)},
    }
