"""Where searches in this process stand, on disk, so that one that was ended goes on from there.

What a model in this process is asked costs nothing but time, so its answers are not kept. A run
that is resumed begins again, with the same draws, and takes the last level that was saved for the
levels up to it.
"""

import io
import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.errors import InputError, Note
from restore_jax.reading import Unreadable, parse_json, read_npz
from restore_jax.splitting.types import Tree
from restore_jax.types import JSON

PREFIX, SUFFIX = "saved-", ".npz"
"""What the files are called, with what they are of in between."""
PAUSE = 5.0
"""Seconds between two writings of one search: short searches write nothing."""
BEGUN = "begun"
"""The name of what is saved where a run was ended before any search."""
SAMPLED, ALIKE = 64, 0.02
"""Numbers of each array that a search begins with which are kept to tell it from others, and the
share of the largest by which those of the same search may differ."""


class SavingError(InputError):
    """A search cannot be gone on with; the message is one sentence that says why."""


class Stand(NamedTuple):
    """Where something stood.

    Attributes:
      tree: arrays, as they were given.
      said: what JSON holds.
    """

    tree: Tree
    said: dict[str, JSON]


class Saved:
    """The searches of one run, by name.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> saved = Saved(folder, {"seed": 0}, resume=False)
    >>> saved.get("search", np.zeros(3, int))  # how it begins; there is nothing yet
    >>> saved.put("search", np.arange(3), {"level": 2}, True)
    >>> Saved(folder, {"seed": 0}, resume=True).get("search", np.zeros(3, int)).said
    {'level': 2}
    """

    def __init__(self, folder: Path, run: Mapping[str, JSON], resume: bool):
        """Opens a folder's.

        Args:
          folder: where the result will be.
          run: what decides the run; JSON can hold it.
          resume: whether what is there is gone on with.

        Raises:
          SavingError: it is of another run.
        """
        self._folder, self._resume = folder, resume
        self._run: dict[str, JSON] = json.loads(json.dumps(run))
        self._last: dict[str, float] = {}
        self._begun: dict[str, list[list[float]]] = {}
        self._unwritten: dict[str, Stand] = {}
        if resume:
            for path in self.paths():
                was = self._read(path)[1]["run"]
                differs = [k for k in sorted({*self._run, *was}) if self._run.get(k) != was.get(k)]
                if differs:
                    raise SavingError(
                        f"{folder} was begun with another {', '.join(differs)}: resume it with "
                        "the same arguments."
                    )

    def paths(self) -> list[Path]:
        """The files that are there."""
        return sorted(self._folder.glob(f"{PREFIX}*{SUFFIX}"))

    def get(self, name: str, like: Tree) -> Stand | None:
        """Where a search stood, if that was saved and the run is resumed.

        Args:
          name: of the search.
          like: a pytree of arrays, as it begins. What the model answers to the first probes is
            in it, so that a run with another model or with other probes is noticed.

        Raises:
          SavingError: the file is damaged, or of other arrays, or the search began otherwise.
        """
        path = self._path(name)
        self._begun[name] = _sample(like)
        if not self._resume or not path.exists():
            return None
        arrays, content = self._read(path)
        leaves, shape = jax.tree.flatten(like)
        found = [arrays.get(f"leaf{k}") for k in range(len(leaves))]
        for leaf, one in zip(leaves, found, strict=True):
            if one is None or one.shape != np.shape(leaf) or one.dtype != np.asarray(leaf).dtype:
                raise SavingError(f"{path} does not fit this search: begin again with `overwrite`.")
        if not _alike(content["begun"], self._begun[name]):
            raise SavingError(
                f"{self._folder} was begun with another model or with other probes, whatever they "
                "are called: give the same, or begin again with `overwrite`."
            )
        return Stand(jax.tree.unflatten(shape, map(jnp.asarray, found)), content["said"])

    def put(self, name: str, tree: Tree, said: Mapping[str, JSON], now: bool = False) -> None:
        """Saves where a search stands, at most every few seconds.

        Args:
          name: of the search.
          tree: a pytree of arrays.
          said: what else; JSON can hold it.
          now: whatever was written lately.
        """
        if not self._resume and not self._last:
            self.remove()  # of an earlier run
        begun = self._last.setdefault(name, time.monotonic())
        if not now and time.monotonic() - begun < PAUSE:
            self._unwritten[name] = Stand(tree, dict(said))
            return
        self._write(name, tree, said)

    def write_all(self, mark: bool = False) -> None:
        """Writes where searches stand that were not written yet: the run was ended.

        Args:
          mark: whether there is something to resume even if no search had begun.
        """
        for name, stand in tuple(self._unwritten.items()):
            self._write(name, *stand)
        if mark and not self.paths():
            self.put(BEGUN, (), {}, now=True)

    def _write(self, name: str, tree: Tree, said: Mapping[str, JSON]) -> None:
        self._last[name] = time.monotonic()
        self._unwritten.pop(name, None)
        begun = self._begun.get(name, [])
        content = json.dumps({"run": self._run, "said": dict(said), "begun": begun}).encode()
        arrays = {f"leaf{k}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(tree))}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, said=np.frombuffer(content, np.uint8), **arrays)
        path = self._path(name)
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(buffer.getvalue())
            os.replace(beside, path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            # The search is worth more than the means to go on with it.
            words = (
                f"{path} cannot be written ({error.strerror}): `resume` will not go on from here"
            )
            warnings.warn(words, Note, stacklevel=2)

    def remove(self) -> None:
        """Removes all of it: the result is there."""
        self._unwritten.clear()
        for path in (*self.paths(), *self._folder.glob(f".{PREFIX}*")):
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{PREFIX}{name}{SUFFIX}"

    def _read(self, path: Path) -> tuple[dict[str, np.ndarray], dict[str, JSON]]:
        try:
            arrays = read_npz(path)
            content = parse_json(arrays["said"].tobytes())
            kinds = {"run": dict, "said": dict, "begun": list}
            if not all(isinstance(content[name], kind) for name, kind in kinds.items()):
                raise Unreadable
        except (OSError, Unreadable, KeyError, TypeError) as error:
            raise SavingError(f"{path} is damaged: begin again with `overwrite`.") from error
        return arrays, content


def _sample(tree: Tree) -> list[list[float]]:
    """Some numbers of each array of a pytree, as JSON holds them; 0 for those that are not finite.

    >>> _sample((np.arange(3.0), np.array([-np.inf, 1])))
    [[0.0, 1.0, 2.0], [0.0, 1.0]]
    """
    found = []
    for leaf in jax.tree.leaves(tree):
        flat = np.ravel(np.asarray(leaf))
        some = flat[:: -(-len(flat) // SAMPLED) or 1].astype(np.float64)
        found.append(np.where(np.isfinite(some), some, 0.0).tolist())
    return found


def _alike(one: JSON, other: list[list[float]]) -> bool:
    """Whether two searches began alike, but for rounding, which depends on the machine."""
    try:
        return len(one) == len(other) and all(
            np.allclose(a, b, rtol=0.0, atol=ALIKE * max(map(abs, b), default=0.0))
            for a, b in zip(one, other, strict=True)
        )
    except (ValueError, TypeError):
        return False
