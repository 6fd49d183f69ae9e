"""Folders and files, made whole or not at all."""

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path


def make_folder(folder: Path, overwrite: bool) -> None:
    """Creates the folder; with ``overwrite`` what it held is removed first."""
    if overwrite and folder.is_dir():
        for child in folder.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()
    folder.mkdir(parents=True, exist_ok=True)


def write_json(path: Path, content: object) -> None:
    """Writes JSON beside its place and renames it: whoever reads meanwhile finds a whole file."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    os.replace(beside, path)


def put_files(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    replace: bool = False,
    keep: Collection[str] = (),
    spare: Collection[Path] = (),
) -> None:
    """Writes files into a folder, which is made if need be: all of them, or none.

    They are built beside what is there, and take their places when they are whole. Whatever says
    that a result is there (JSON) goes first and comes last: what a process leaves that is killed in
    between is no result, and not a mixture of two.

    Args:
      folder: where.
      files: their contents, by name; a name may hold one slash.
      replace: whether what else is in the folder goes then.
      keep: names in the folder that stay.
      spare: paths that stay, with all folders above them.

    Raises:
      OSError: as the file system says; what was there is then still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".new-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    beside = folder / f".new-{os.getpid()}"
    names = sorted(files, key=lambda name: (name.endswith(".json"), name.count("/") == 0))
    try:
        for name in names:
            path = beside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(files[name])
        for name in names:
            if name.endswith(".json") and (folder / name).is_file():
                (folder / name).unlink()
        for name in names:
            place = folder / name
            if place.parent != folder and not place.parent.is_dir():
                place.parent.unlink(missing_ok=True)
                place.parent.mkdir()
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            os.replace(beside / name, place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    if replace:
        _remove_others(folder, folder, {*files, *keep}, [_places(path) for path in spare])


def lies_in(path: Path, folder: Path) -> bool:
    """Whether removing a folder would remove a path, or the file that it is a link to."""
    homes = _places(folder)
    return any(place.is_relative_to(home) for place in _places(path) for home in homes)


def _places(path: Path) -> tuple[Path, Path]:
    """A path as it is written, and where it leads."""
    return Path(os.path.abspath(path)), path.resolve()


def _remove_others(
    root: Path, folder: Path, names: Collection[str], spare: list[tuple[Path, Path]]
) -> None:
    """Removes what is in a folder and is not named; a folder that holds something spared stays."""
    for child in folder.iterdir():
        name = child.relative_to(root).as_posix()
        here = Path(os.path.abspath(child))
        if name in names or any(here in places for places in spare):
            continue
        holds = any(place.is_relative_to(here) for places in spare for place in places)
        if child.is_dir() and not child.is_symlink():
            if holds or any(other.startswith(f"{name}/") for other in names):
                _remove_others(root, child, names, spare)
            else:
                shutil.rmtree(child)
        else:
            child.unlink()
