"""Exit codes, and how a command ends with one sentence."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from restore_jax.errors import InputError, RestoreError
from restore_jax.folders import make_folder as make_folder

DONE = 0
CRASHED = 1
BAD_INPUT = 2
VERDICT = 3
INCONCLUSIVE = 4
INTERRUPTED = 130


class UsageError(InputError):
    """Wrong arguments or input: one sentence for the user, exit code 2."""


_FLAGS = {"value_range": "--range"}
"""Of arguments whose flags have other names."""


def flag(argument: str) -> str:
    """The flag that gives an argument of the library."""
    return _FLAGS.get(argument, f"--{argument.replace('_', '-')}")


def sentence(error: RestoreError) -> str:
    """What an error says, in one line and with flags where it names arguments."""
    text = " ".join(str(error).split())
    return re.sub(r"`(\w+)`", lambda found: flag(found[1]), text)


def out_folder(out: str | None, default: str, overwrite: bool) -> Path:
    """Decides where a command will write; creates nothing yet.

    Args:
      out: the folder the user named, or None.
      default: the name under ``runs/`` otherwise; "-2", "-3", ... is added if taken.
      overwrite: whether a named folder that is not empty may be replaced.

    Raises:
      UsageError: the named folder is a file, or not empty.
    """
    if out is None:
        folder, number = Path("runs") / default, 1
        while folder.exists():
            number += 1
            folder = Path("runs") / f"{default}-{number}"
        return folder
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UsageError(
            f"--out {out} is not empty: name another folder, or add --overwrite to replace it."
        )
    return folder


def print_json(content: Any) -> None:
    """One JSON object on stdout, NaN refused."""
    json.dump(content, sys.stdout, allow_nan=False)
    sys.stdout.write("\n")
