"""Checkpoints: Orbax folders that say themselves what they hold.

A checkpoint folder holds ``model/`` (parameters and batch statistics), ``metadata/``
(JSON: architecture, classes, normalisation, data, triggers, accuracy, ASR, command) and,
where training may go on, ``training/`` (optimizer state, key, epoch). ``checksums.json``
has the SHA-256 of every file of ``model/`` and ``training/``. A training run keeps them as
``checkpoints/<epoch>/``, and at its end exports one to ``model/`` with its parameters in half
precision; whatever opens a model takes any of these folders.
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.typing import DTypeLike

from restore_jax.backdoors import planted_from_json
from restore_jax.errors import InputError
from restore_jax.models import NETWORKS, Network, make_network
from restore_jax.models.layers import Params
from restore_jax.names import checked_names
from restore_jax.reading import Unreadable, read_json
from restore_jax.splitting.types import Tree
from restore_jax.types import JSON

SCHEMA_VERSION = 1
PACKAGED = {
    "shipped": Path(__file__).parent / "models" / "shipped",
    "shipped-clean": Path(__file__).parent / "models" / "shipped_clean",
}
"""The networks in the package, by name: one with two planted triggers, and its clean twin."""
CHECKSUMS = "checksums.json"
MOST_SIDE, MOST_CLASSES = 4096, 100_000
"""Of what a checkpoint's metadata may ask for."""
logging.getLogger("absl").setLevel(logging.ERROR)


class CheckpointError(InputError):
    """A checkpoint cannot be used; the message is one sentence that says why."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A trained network.

    Attributes:
      network: its pure functions.
      params, batch_stats: f32 arrays.
      metadata: what the checkpoint says of itself.
      path: where it lies.
    """

    network: Network
    params: Params
    batch_stats: Params
    metadata: dict[str, JSON]
    path: Path


def network_from(metadata: dict[str, JSON], dtype: DTypeLike = jnp.float32) -> Network:
    """The network that a checkpoint's metadata describes."""
    return make_network(
        metadata["architecture"],
        num_classes=len(metadata["class_names"]),
        image_shape=tuple(metadata["image_shape"]),
        mean=tuple(metadata["normalisation"]["mean"]),
        std=tuple(metadata["normalisation"]["std"]),
        dtype=dtype,
    )


def open_manager(folder: Path, keep: int = 2) -> ocp.CheckpointManager:
    """Orbax's manager of a run's checkpoints: each appears whole or not at all."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=False, create=True
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save(
    manager: ocp.CheckpointManager,
    epoch: int,
    *,
    params: Params,
    batch_stats: Params,
    training: Tree,
    metadata: dict[str, JSON],
) -> None:
    """Saves one epoch's checkpoint; ``training`` is any pytree of arrays."""
    manager.save(
        epoch,
        args=ocp.args.Composite(
            model=ocp.args.StandardSave({"params": params, "batch_stats": batch_stats}),
            training=ocp.args.StandardSave(training),
            metadata=ocp.args.JsonSave({"schema_version": SCHEMA_VERSION} | metadata),
        ),
    )
    _write_checksums(Path(manager.directory) / str(epoch))


def rounded_to_half(params: Params) -> Params:
    """Parameters f32[...] rounded to what half precision (IEEE 754 binary16) can say."""
    return jax.tree.map(lambda p: p.astype(jnp.float16).astype(jnp.float32), params)


def export(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a checkpoint without its training state to ``folder``, in place of what is there.

    Parameters that `rounded_to_half` leaves as they are take two bytes each; `load` gives them
    back as f32, the same bits.
    """
    params, rounded = checkpoint.params, rounded_to_half(checkpoint.params)
    if all(map(np.array_equal, jax.tree.leaves(params), jax.tree.leaves(rounded))):
        params = jax.tree.map(lambda p: p.astype(jnp.float16), params)
    shutil.rmtree(folder, ignore_errors=True)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        model = {"params": params, "batch_stats": checkpoint.batch_stats}
        checkpointer.save(
            folder.absolute(),
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(model),
                metadata=ocp.args.JsonSave(
                    {"schema_version": SCHEMA_VERSION} | checkpoint.metadata
                ),
            ),
        )
    # Orbax's marks of a finished save name the folder where it was made; none reads them back.
    for mark in folder.rglob("commit_success.txt"):
        mark.unlink()
    _write_checksums(folder)


def resolve(folder: Path) -> Path:
    """The checkpoint folder itself, given it or the run that made it.

    Raises:
      CheckpointError: there is none.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint folder {folder}.")
    if (folder / "metadata" / "metadata").is_file():
        return folder
    run = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    steps = [int(child.name) for child in run.iterdir() if child.name.isdigit()]
    if not steps:
        alone = folder / "model"  # of averaged weights there is nothing else
        if (alone / "metadata" / "metadata").is_file():
            return alone
        what = "is empty" if not any(folder.iterdir()) else "is not a checkpoint"
        raise CheckpointError(f"{folder} {what}: give a folder that train.py wrote.")
    return run / str(max(steps))


def read_metadata(folder: Path) -> dict[str, JSON]:
    """The metadata of a checkpoint folder (as `resolve` returns it).

    Raises:
      CheckpointError: missing, unreadable, or of another schema or architecture.
    """
    try:
        metadata = read_json(folder / "metadata" / "metadata")
        needed = {"architecture", "class_names", "image_shape", "normalisation"}
        missing = needed - metadata.keys()
    except (OSError, Unreadable, AttributeError) as error:
        raise CheckpointError(
            f"{folder} is not a checkpoint of this project: its metadata cannot be read."
        ) from error
    if missing:
        raise CheckpointError(f"the metadata of {folder} lacks {', '.join(sorted(missing))}.")
    if metadata.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointError(
            f"{folder} has schema version {metadata.get('schema_version')}; this release "
            f"reads version {SCHEMA_VERSION}."
        )
    if not isinstance(metadata["architecture"], str) or metadata["architecture"] not in NETWORKS:
        raise CheckpointError(
            f"{folder} holds the unknown architecture {metadata['architecture']!r}: this "
            f"release knows {', '.join(NETWORKS)}."
        )
    if not _describes_a_network(metadata):
        raise CheckpointError(
            f"the metadata of {folder} has no usable class_names, image_shape and normalisation."
        )
    try:
        checked_names(str(folder), metadata["class_names"])
        for fields in metadata.get("triggers", []):
            planted = planted_from_json(fields)
            if not 0 <= planted.target < len(metadata["class_names"]):
                raise InputError(f"it leads to class {planted.target}")
            planted.trigger(tuple(metadata["image_shape"]))
    except Exception as error:  # fields of any type make anything of themselves
        raise CheckpointError(
            f"the metadata of {folder} describes no classes and triggers ({error})."
        ) from error
    return metadata


def _describes_a_network(metadata: dict[str, JSON]) -> bool:
    names, shape = metadata["class_names"], metadata["image_shape"]
    if not isinstance(names, list) or len(names) < 2:
        return False
    if not isinstance(shape, list) or len(shape) != 3:
        return False
    if not all(type(side) is int for side in shape) or min(shape) < 1 or min(shape[:2]) < 8:
        return False
    if max(shape) > MOST_SIDE or math.prod(shape) > MOST_SIDE**2 or len(names) > MOST_CLASSES:
        return False
    if not all(isinstance(name, str) for name in names):
        return False
    normalisation = metadata["normalisation"]
    if not isinstance(normalisation, dict):
        return False
    for values in (normalisation.get("mean"), normalisation.get("std")):
        if not isinstance(values, list) or len(values) not in (1, shape[2]):
            return False
        if not all(type(value) in (int, float) and abs(value) < 1e9 for value in values):
            return False
    return min(normalisation["std"]) > 0


def restore_tree(folder: Path, like: Tree) -> Tree:
    """Restores the pytree saved in ``folder``, which must match ``like`` in shape, in its dtypes.

    Raises:
      CheckpointError: it is missing or damaged, or does not match.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder.parent} has no folder {folder.name}/.")
    _verify(folder)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), like
    )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            # Shapes first: Orbax drops its other reads when one fails, and they complain.
            saved = checkpointer.metadata(folder.absolute()).item_metadata
            _check_shapes(folder, _shapes(saved.tree), _shapes(like))
            restored = checkpointer.restore(folder.absolute(), abstract)
        # Orbax binds arrays to a device, and what is made of them; JAX compiles a program anew
        # for the first arguments of that kind.
        return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), restored)
    except CheckpointError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds
        raise CheckpointError(
            f"the arrays in {folder} are damaged or belong to another architecture than "
            "its metadata says."
        ) from error


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _check_shapes(
    folder: Path, found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]
) -> None:
    for name, shape in wanted.items():
        if found.get(name) != shape:
            what = f"has shape {found[name]}" if name in found else "is missing"
            raise CheckpointError(
                f"{name} in {folder} {what}, where {shape} is needed: the arrays belong to "
                "another architecture than the metadata says."
            )


def load(folder: str | Path, dtype: DTypeLike = jnp.float32) -> Checkpoint:
    """Opens a checkpoint.

    Args:
      folder: a checkpoint folder, or the run that wrote it (its last epoch is taken).
      dtype: of the network's arithmetic.

    Raises:
      CheckpointError: it is not there, not whole, not a checkpoint, or holds NaN.
    """
    path = resolve(Path(folder))
    metadata = read_metadata(path)
    try:
        network = network_from(metadata, dtype)
    except InputError as error:
        raise CheckpointError(f"the metadata of {path} describes no network: {error}") from error
    params, batch_stats = jax.eval_shape(network.init, jax.random.key(0))
    tree = restore_tree(path / "model", {"params": params, "batch_stats": batch_stats})
    for leaf_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not math.isfinite(float(np.sum(np.abs(np.asarray(leaf, np.float64))))):
            raise CheckpointError(
                f"{jax.tree_util.keystr(leaf_path)} in {path} holds NaN or infinity: train it "
                "again."
            )
    return Checkpoint(network, tree["params"], tree["batch_stats"], metadata, path)


def _write_checksums(checkpoint: Path) -> None:
    """Writes down what the arrays' files hold, once Orbax has finished with them."""
    files = [p for name in ("model", "training") for p in (checkpoint / name).rglob("*")]
    sums = {p.relative_to(checkpoint).as_posix(): _sha256(p) for p in sorted(files) if p.is_file()}
    beside = checkpoint / f"{CHECKSUMS}.tmp"
    beside.write_text(json.dumps(sums, indent=1) + "\n")
    os.replace(beside, checkpoint / CHECKSUMS)


def _verify(folder: Path) -> None:
    """Compares the files in ``folder`` with their checksums, where there are any.

    A flipped bit in an array passes Orbax unseen, and a file cut short makes it print a
    thousand lines beside its exception; so damage is found before Orbax is asked.
    """
    checkpoint = folder.parent
    if not (checkpoint / CHECKSUMS).exists():
        return
    try:
        sums = dict(read_json(checkpoint / CHECKSUMS))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint / CHECKSUMS} cannot be read.") from error
    for name, wanted in sums.items():
        if not name.startswith(f"{folder.name}/"):
            continue
        if ".." in Path(name).parts or not (checkpoint / name).is_file():
            raise CheckpointError(f"{checkpoint} is not whole: its file {name} is missing.")
        if _sha256(checkpoint / name) != wanted:
            raise CheckpointError(f"{checkpoint} is damaged: {name} is not what was saved.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
