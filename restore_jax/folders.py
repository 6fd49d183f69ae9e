"""Folders and files, made whole or not at all."""

import json
import os
import shutil
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
