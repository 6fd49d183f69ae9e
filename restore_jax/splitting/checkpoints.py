"""Runs on disk: where one stands, written by Orbax, and a loop that goes on from there.

A folder holds the last two states that were saved, each whole or not there at all, with a checksum.
Whoever goes on from one gets, bit for bit, what the uninterrupted run would have given.
"""

import hashlib
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.splitting.types import (
    Args,
    Array,
    LevelInfo,
    SplittingAlgorithm,
    SplittingResult,
    SplittingState,
    Status,
    Tree,
)

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

GENERATIONS = 2
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunError(ValueError):
    """A saved run cannot be used; the message is one sentence that says why."""


def save(state: SplittingState, folder: str | Path, algorithm: SplittingAlgorithm) -> None:
    """Saves a state; of a folder's states the last two are kept.

    Args:
      state: of one run, not of a vmapped one.
      folder: is made if it is not there; each state in it appears whole, or not at all.
      algorithm: whose state it is.

    Raises:
      RunError: the state is of a vmapped run.

    >>> import tempfile
    >>> from restore_jax.splitting import importance_splitting, standard_normal
    >>> first = lambda x, args: x[..., 0]
    >>> algorithm = importance_splitting(first, standard_normal(1), threshold=3.0)
    >>> folder = tempfile.mkdtemp()
    >>> save(algorithm.init(jax.random.key(0), ()), folder, algorithm)
    >>> int(load(folder, algorithm).index)
    0
    """
    _save(state, Path(folder), algorithm, {})


def load(folder: str | Path, algorithm: SplittingAlgorithm) -> SplittingState:
    """The last state that was saved in a folder, or the one before it if that is damaged.

    Score, args and the space's law are the caller's to give again: what is checked is everything
    that a state and the sampler's own settings show.

    Raises:
      RunError: there is none, both are damaged, or they are of another algorithm.
    """
    state, _ = _load(Path(folder), algorithm)
    return state


def run_with_checkpoints(
    algorithm: SplittingAlgorithm,
    key: Array,
    args: Args,
    folder: str | Path,
    *,
    every_levels: int = 1,
    every_seconds: float = 0.0,
    on_level: Callable[[LevelInfo], None] | None = None,
) -> SplittingResult:
    """Runs level by level, saving where it stands, and goes on from what is in the folder.

    However often it is killed, what comes out is what one run would have given, bit for bit on
    the same backend. Ctrl-C or SIGTERM ends it after the level at hand, saved.

    Args:
      algorithm: of `importance_splitting` or `host_driven`.
      key, args: as for ``algorithm.run``.
      folder: where states are saved.
      every_levels: how many levels lie between two states, at least 1.
      every_seconds: how much time at least; with 0 the levels alone decide.
      on_level: called after every level that is made here.

    Raises:
      RunError: what is in the folder is damaged, or was begun with another algorithm, key or
        args.
      KeyboardInterrupt, SystemExit: after Ctrl-C, or SIGTERM, once the state is saved.

    >>> import tempfile
    >>> from restore_jax.splitting import importance_splitting, standard_normal
    >>> first = lambda x, args: x[..., 0]
    >>> algorithm = importance_splitting(first, standard_normal(1), threshold=3.0)
    >>> key, folder = jax.random.key(0), tempfile.mkdtemp()
    >>> result = run_with_checkpoints(algorithm, key, (), folder, every_levels=4)
    >>> bool(result.log_prob == jax.jit(algorithm.run)(key, ()).log_prob)
    True
    """
    if every_levels < 1 or not every_seconds >= 0.0:
        raise ValueError("every_levels must be at least 1, and every_seconds at least 0.")
    place, host = Path(folder), algorithm.settings["driven"] == "host"
    begun = {"key": _digest(jax.random.key_data(key)), "args": _digest(args)}
    compiled: Callable[..., Any] = (lambda function: function) if host else jax.jit
    step = compiled(algorithm.step)
    if _steps(place):
        state, said = _load(place, algorithm)
        for name, value in begun.items():
            if said.get(name) != value:
                raise RunError(
                    f"the run in {place} was begun with other {name}: give the same, or another "
                    "folder."
                )
    else:
        state = compiled(algorithm.init)(key, args)
    last, unsaved = time.monotonic(), 0
    with _signals_noted() as caught:
        while int(state.status) == Status.RUNNING and not caught:
            state, info = step(state, args)
            unsaved += 1
            if on_level is not None:
                on_level(info)
            due = unsaved >= every_levels and time.monotonic() - last >= every_seconds
            if due and int(state.status) == Status.RUNNING:
                _save(state, place, algorithm, begun)
                last, unsaved = time.monotonic(), 0
        if unsaved:
            _save(state, place, algorithm, begun)
    if int(state.status) == Status.RUNNING:
        if caught[0] == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + caught[0])
    return algorithm.result(state)


def _save(
    state: SplittingState, folder: Path, algorithm: SplittingAlgorithm, begun: dict[str, str]
) -> None:
    if np.ndim(state.index) != 0:
        raise RunError("a state of one run can be saved: take one lane of a vmapped one.")
    import orbax.checkpoint as ocp

    leaves = _leaves(state)
    said = {"algorithm": _identity(algorithm), "checksum": _digest(leaves), "begun": begun}
    with _manager(folder) as manager:
        made = [step for step in manager.all_steps() if step >= int(state.index)]
        for step in made:  # of a run that was begun again, or of this level
            manager.delete(step)
        manager.save(
            int(state.index),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(leaves), said=ocp.args.JsonSave(said)
            ),
        )


def _load(folder: Path, algorithm: SplittingAlgorithm) -> tuple[SplittingState, dict[str, str]]:
    """The newest state that is whole, and what it says of key and args."""
    steps = _steps(folder)
    if not steps:
        raise RunError(f"there is no saved run in {folder}.")
    for step in reversed(steps):
        read = _read(folder / str(step))
        if read is None:
            continue
        leaves, said = read
        differs = _differences(said["algorithm"], _identity(algorithm))
        if differs:
            raise RunError(
                f"the run in {folder} is of another algorithm ({', '.join(differs)} "
                f"{'differs' if len(differs) == 1 else 'differ'})."
            )
        shape = jax.tree.structure(algorithm.blank())
        return jax.tree.unflatten(shape, [jnp.asarray(leaves[name]) for name in sorted(leaves)]), (
            said["begun"]
        )
    raise RunError(f"all that was saved in {folder} is damaged: begin again in another folder.")


def _read(step: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """The arrays and the words of one saved state; None if it is damaged."""
    import orbax.checkpoint as ocp

    try:
        said = json.loads((step / "said" / "metadata").read_text("utf-8"))
        with ocp.StandardCheckpointer() as checkpointer:
            like = checkpointer.metadata((step / "state").absolute()).item_metadata.tree
            sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            abstract = {
                name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
                for name, leaf in like.items()
            }
            leaves = checkpointer.restore((step / "state").absolute(), abstract)
        if _digest(leaves) != said["checksum"] or not isinstance(said["begun"], dict):
            return None
    except Exception:  # Orbax and TensorStore raise many kinds
        return None
    return leaves, said


def _leaves(state: SplittingState) -> dict[str, Array]:
    """The arrays of a state, in the order of their names."""
    return {f"leaf{k:03d}": leaf for k, leaf in enumerate(jax.tree.leaves(state))}


def _identity(algorithm: SplittingAlgorithm) -> dict[str, Any]:
    """What tells an algorithm from others; JSON can hold it."""
    leaves = jax.tree_util.tree_leaves_with_path(algorithm.blank())
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="."): [str(leaf.dtype), *leaf.shape]
        for path, leaf in leaves
    }
    said: dict[str, Any] = json.loads(json.dumps({**algorithm.settings, "arrays": arrays}))
    return said


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of what differs, but for the arrays' where a setting explains it."""
    names = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    return [name for name in names if name != "arrays"] or names


def _digest(tree: Tree) -> str:
    """SHA-256 of the arrays of a pytree, their shapes, types and places."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        name = jax.tree_util.keystr(path)
        found.update(f"{name} {array.dtype} {array.shape};".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _steps(folder: Path) -> list[int]:
    """The numbers of levels at which something was saved, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(child.name) for child in folder.iterdir() if child.name.isdigit())


@contextmanager
def _manager(folder: Path) -> "Iterator[ocp.CheckpointManager]":
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=GENERATIONS, enable_async_checkpointing=False, create=True
    )
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        yield manager


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Notes signals instead of obeying them, in the main thread; elsewhere none arrive."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        caught.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
