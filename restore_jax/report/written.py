"""A recovery as files, and back.

| file | holds |
|---|---|
| recovery.json | see `docs/results.md` |
| trigger.npz | the trigger: see `restore_jax.report.triggers` |
| planted.npz | likewise, the trigger the model says was planted in it; only where it says so |
| particles.npz | the last population, one array per part of a particle, and scores f32[n] |
| probes.npz | images f32[m, H, W, C] that the search saw; ``--probes`` takes this file |
| support.npz | inclusion f32[H, W]: in what share of the triggers past the goal each pixel is |
| report.html | the result for a person: see `restore_jax.report.recovery_page` |
| trigger.png, support.png, overview.png | see `restore_jax.report.figures` |
"""

import functools
import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from restore_jax.backdoors import Attack, Trigger, towards_one
from restore_jax.errors import Note
from restore_jax.folders import put_files
from restore_jax.oracles import Asker, Oracle
from restore_jax.oracles.errors import cause
from restore_jax.reading import Unreadable, read_npz
from restore_jax.reading import read_json as parsed_json
from restore_jax.recovery import SCHEMA_VERSION, Recovery
from restore_jax.report.contents import recovery_content, recovery_from
from restore_jax.report.errors import ResultError
from restore_jax.report.figures import (
    NUM_SHOWN,
    Shown,
    inclusion_figure,
    overview_figure,
    png,
    stamped_rows,
    trigger_figure,
)
from restore_jax.report.recovery_page import recovery_page
from restore_jax.report.triggers import attack_from, trigger_arrays, trigger_from
from restore_jax.splitting.types import Particles
from restore_jax.types import JSON, Argument

Rows = Callable[[], Sequence[Shown]]
"""Gives the rows of probes to show."""


def write_recovery(recovery: Recovery, oracle: Oracle | None, folder: str | Path) -> list[Path]:
    """Writes a recovery to a folder, which is made if need be; each file whole or not at all.

    Args:
      recovery: what to write.
      oracle: the model, asked about the few probes that are shown (outside any budget);
        None, or one whose every image counts: no predictions are shown.
      folder: files of the same names are replaced, others left alone.

    Returns:
      The paths written.
    """
    return write_files(folder, render_recovery(recovery, oracle))


def render_recovery(
    recovery: Recovery, oracle: Oracle | None, command: str | None = None
) -> dict[str, bytes]:
    """The files of `write_recovery` by name, in memory: nothing is touched until all exist.

    Args:
      recovery, oracle: as for `write_recovery`.
      command: what was asked for, as one types it, for report.html; None: a call in Python.
    """
    return recovery_files(recovery, shown_rows(recovery, oracle), command)


def recovery_files(recovery: Recovery, rows: Rows, command: str | None) -> dict[str, bytes]:
    """`render_recovery`, with the probes to show."""
    content = json.dumps(recovery_content(recovery), indent=2, allow_nan=False) + "\n"
    files = {
        "recovery.json": content.encode(),
        **attempted({"report.html": lambda: recovery_page(recovery, rows(), command)}),
        "trigger.npz": _npz(
            trigger_arrays(recovery.trigger)
            | ({} if recovery.source is None else {"source": np.array(recovery.source, np.int32)})
        ),
        "particles.npz": _npz(_named(recovery.particles) | {"scores": recovery.scores}),
        "probes.npz": _npz({"images": recovery.probes}),
        "support.npz": _npz({"inclusion": recovery.inclusion}),
        **drawn(
            {
                "support.png": lambda: inclusion_figure(recovery),
                "trigger.png": lambda: trigger_figure(recovery.trigger, recovery.target_name),
                "overview.png": lambda: overview_figure(recovery, rows()),
            }
        ),
    }
    if recovery.planted_trigger is not None:
        files["planted.npz"] = _npz(trigger_arrays(recovery.planted_trigger))
    return files


def drawn(figures: Mapping[str, Callable[[], Figure]]) -> dict[str, bytes]:
    """Figures as PNG files, by name; see `attempted`."""

    def as_png(draw: Callable[[], Figure]) -> bytes:
        return png(draw())

    return attempted({name: functools.partial(as_png, draw) for name, draw in figures.items()})


def attempted(files: Mapping[str, Callable[[], bytes]]) -> dict[str, bytes]:
    """What a person looks at, by name. A file that cannot be drawn is left out, with a `Note`: the
    numbers are worth more than their picture."""
    found = {}
    for name, draw in files.items():
        try:
            found[name] = draw()
        except Exception as error:
            warnings.warn(f"{name} could not be drawn ({cause(error)})", Note, stacklevel=2)
    return found


def write_files(folder: str | Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes files, all or none; makes the folder, and those in it.

    Raises:
      OSError: as the file system says; what was there under a name is then still there.
    """
    put_files(Path(folder), files)
    return [Path(folder) / name for name in files]


def load_recovery(path: str | Path) -> Recovery:
    """Reads what `write_recovery` wrote.

    Args:
      path: the folder, or its recovery.json.

    Returns:
      A `Recovery`; its particles are a dict of arrays by name, whatever pytree they were.

    Raises:
      ResultError: a file is missing, damaged, or does not fit the others.
    """
    folder = Path(path).expanduser()
    if folder.name == "recovery.json" and not folder.is_dir():
        folder = folder.parent
    if not folder.is_dir():
        raise ResultError(f"there is no recovery folder {folder}.")
    content = read_json(
        folder / "recovery.json", {"found": bool, "status": str, "levels": list, "target": int}
    )
    trigger = load_trigger(folder / "trigger.npz")
    if content["target"] != int(trigger.target):
        raise ResultError(
            f"{folder} mixes two recoveries: recovery.json is about class {content['target']}, "
            f"trigger.npz about class {int(trigger.target)}."
        )
    particles = _read_npz(folder / "particles.npz", "scores")
    probes = _read_npz(folder / "probes.npz", "images")["images"]
    if probes.ndim != 4 or probes.shape[1:] != trigger.pattern.shape:
        raise ResultError(f"the probes of {folder} do not have the shape of its trigger.")
    scores = particles.pop("scores")
    for name, leaf in particles.items():
        if scores.ndim != 1 or leaf.shape[:1] != scores.shape:
            raise ResultError(f"{name} in {folder / 'particles.npz'} does not match its scores.")
    inclusion = _read_npz(folder / "support.npz", "inclusion")["inclusion"]
    if inclusion.shape != trigger.mask.shape[:2]:
        raise ResultError(f"support.npz in {folder} does not have the shape of its trigger.")
    planted_trigger = None
    if content.get("truth") is not None:
        planted_trigger = load_trigger(folder / "planted.npz")
    return _recovery(
        folder / "recovery.json",
        content,
        trigger=trigger,
        particles=particles,
        scores=scores,
        planted_trigger=planted_trigger,
        probes=probes,
        inclusion=inclusion,
    )


def _recovery(path: Path, content: Mapping[str, JSON], **arrays: Argument) -> Recovery:
    """The recovery that JSON and arrays make, if all that is said there can be shown."""
    try:
        recovery = recovery_from(content, **arrays)
        recovery.summary()
        repr(recovery)
        json.dumps(recovery_content(recovery), allow_nan=False)
    except Exception as error:  # what is of another type than it should be is found by using it
        raise ResultError(
            f"{path} does not say what a recovery's should ({cause(error)})."
        ) from error
    return recovery


def load_trigger(path: str | Path) -> Trigger:
    """Reads a trigger; its leaves are NumPy arrays.

    Args:
      path: a file as trigger.npz, or the folder of a recovery, or its recovery.json.

    Raises:
      ResultError: missing, damaged, or an array of the wrong shape, type or range.
    """
    path = _with_trigger(path)
    if path.is_dir():
        if not (path / "trigger.npz").is_file():
            raise ResultError(f"the folder {path} holds no trigger.npz.")
        path = path / "trigger.npz"
    return trigger_from(_read_npz(path, "mask", "pattern", "target"), path)


def load_attack(path: str | Path, num_classes: int) -> Attack:
    """Reads what leads which classes where: an attack, or a trigger that leads all to one, or the
    one class that its file names as its source.

    Args:
      path: a file as attack.npz (see `restore_jax.report.triggers`), or what `load_trigger` takes.
      num_classes: how many classes there are.

    Raises:
      ResultError: missing, damaged, or an array of the wrong shape, type or range.
    """
    path = _with_trigger(path)
    if path.is_file():
        arrays = _read_npz(path)
        if {"map", "source", "p"} <= arrays.keys():
            return attack_from(arrays, path)
    trigger = load_trigger(path)
    arrays = _read_npz(path / "trigger.npz" if path.is_dir() else path)
    source = arrays.get("source")
    if source is None:
        return towards_one(trigger, num_classes)
    whole = source.shape == () and np.issubdtype(source.dtype, np.integer)
    if not whole or not 0 <= int(source) < num_classes or int(source) == int(trigger.target):
        raise ResultError(f"source in {path} must be one class, and not the trigger's target.")
    return towards_one(trigger, num_classes, int(source))


def _with_trigger(path: str | Path) -> Path:
    """Where a trigger is: of the recovery.json that was named the folder."""
    found = Path(path).expanduser()
    return found.parent if found.name == "recovery.json" and found.is_file() else found


def shown_rows(recovery: Recovery, oracle: Oracle | None) -> Rows:
    """The probes to show, with what the model says where asking is free: asked once, when the
    first picture needs them."""
    return functools.cache(lambda: _shown(recovery, oracle))


def _shown(recovery: Recovery, oracle: Oracle | None) -> list[Shown]:
    """Rows of probes, with what the model says where asking is free."""
    rows = stamped_rows(recovery)
    if oracle is None or oracle.repeat_cost(NUM_SHOWN):
        return rows
    together = np.concatenate([row.images for row in rows])
    answers = Asker(oracle).labels(together).reshape(len(rows), -1)
    return [
        row._replace(predictions=[oracle.class_names[k] for k in predicted])
        for row, predicted in zip(rows, answers, strict=True)
    ]


def _named(particles: Particles) -> dict[str, np.ndarray]:
    """The leaves of a pytree by their place in it; a lone array is called "particles"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator=".") or "particles": np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(particles)
    }


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _read_npz(path: Path, *needed: str) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = _read(path, read_npz)
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ResultError(f"{path} lacks {', '.join(missing)}.")
    return arrays


def read_json(
    path: Path, kinds: Mapping[str, type], version: int = SCHEMA_VERSION
) -> dict[str, JSON]:
    """A result's JSON, checked to hold the ``kinds`` and to be of that schema version.

    Raises:
      ResultError: missing, damaged, of another version, or without one of them.
    """
    content = _read(path, parsed_json)
    if not isinstance(content, dict):
        raise ResultError(f"{path} holds no result.")
    if content.get("schema_version") != version:
        raise ResultError(
            f"{path} has schema version {content.get('schema_version')!r}; this release reads "
            f"version {version}."
        )
    for name, kind in kinds.items():
        if type(content.get(name)) is not kind:  # True is no number
            raise ResultError(f"{name} in {path} is missing or not what it should be.")
    return content


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    """What ``read`` gives; a missing or damaged file is told in a sentence."""
    if not path.is_file():
        raise ResultError(f"there is no file {path}.")
    try:
        return read(path)
    except (Unreadable, OSError) as error:
        raise ResultError(
            f"{path} is damaged or is not what it should be ({cause(error)})."
        ) from error
