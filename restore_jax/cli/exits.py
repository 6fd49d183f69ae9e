"""Exit codes, and how a command ends with one sentence."""

import contextlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
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


_FLAGS = {"value_range": "--range", "class_names": "--classes"}
"""Of arguments whose flags have other names."""


def flag(argument: str) -> str:
    """The flag that gives an argument of the library."""
    return _FLAGS.get(argument, f"--{argument.replace('_', '-')}")


def sentence(error: RestoreError | str) -> str:
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


def print_json(content: object) -> None:
    """One JSON object on stdout, NaN refused."""
    show(json.dumps(content, allow_nan=False))


def show(text: str) -> None:
    """Prints to stdout. Whoever reads there may have gone: that is no mistake of anybody's."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain then.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UnicodeEncodeError:
        # A terminal that knows few characters is shown what it knows.
        known = sys.stdout.encoding or "ascii"
        print(text.encode(known, "replace").decode(known), flush=True)


SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What ends a command early, with what there is by then."""


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM ends what goes on inside as Ctrl-C does."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handling({signal.SIGTERM: end}):
        yield


@contextlib.contextmanager
def told_of_signals(tell: Callable[[], None]) -> Iterator[None]:
    """A signal ends what goes on inside, but not before somebody was told."""

    def end(signum: int, frame: FrameType | None) -> None:
        tell()
        raise KeyboardInterrupt

    with _handling(dict.fromkeys(SIGNALS, end)):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[list[int]]:
    """A context that a signal does not end: the list says which came meanwhile.

    What was found is being written or shown: that takes seconds, and would be lost otherwise. A
    second signal ends it all the same.
    """
    came: list[int] = []

    def wait(signum: int, frame: FrameType | None) -> None:
        came.append(signum)
        if len(came) > 1:
            raise KeyboardInterrupt

    with _handling(dict.fromkeys(SIGNALS, wait)):
        yield came


@contextlib.contextmanager
def _handling(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    """Handles signals, those that are not ignored, in the main thread, where they come."""
    before: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
