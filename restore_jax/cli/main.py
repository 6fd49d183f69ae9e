"""``restore-jax``, ``python -m restore_jax``, ``train.py`` and ``recover.py``."""

import argparse
import contextlib
import errno
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, NoReturn

import restore_jax
from restore_jax.cli import exits, screens
from restore_jax.errors import Inconclusive, Note, OutOfQueries, RestoreError

COMMANDS = {
    "train": "train a classifier, with or without backdoors",
    "recover": "search a model for the trigger of one class",
    "scan": "look for backdoors in all classes of a model",
    "purify": "ask a model about images, without the triggers recovered from it",
    "serve": "put a model's answers, without the triggers recovered from it, behind a URL",
    "verify": "measure how often a given trigger works on a model",
    "completion": "print a script with which a shell completes commands and flags",
}
REPORT = (
    "This is a mistake in restore-jax, not in what it was given: please report it, with the lines "
    "above, the command, and what restore-jax --version says."
)
_NOT_AGAIN = ("out", "overwrite", "resume", "json", "dry_run")
"""Flags that say nothing of what is looked for."""
DESCRIPTION = "Finds the backdoor of an image classifier by asking it questions."


class Parser(argparse.ArgumentParser):
    """A parser that refuses with one line, as everything else here does.

    A value may begin with a minus, as that of ``--range -1,1``.
    """

    def __init__(self, *args: Any, **keywords: Any):
        super().__init__(*args, **keywords)
        # To argparse a word with one minus is a flag unless it is a number; here unless it is one.
        self._negative_number_matcher = re.compile("-[^-]")

    def error(self, message: str) -> NoReturn:
        """Prints the line and ends with exit code 2."""
        self.exit(exits.BAD_INPUT, f"error: {message} (see {self.prog} --help)\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """See `argparse.ArgumentParser`; a flag that takes one value takes the next word."""
        words = list(sys.argv[1:] if args is None else args)
        joined: list[str] = []
        while words:
            word = words.pop(0)
            takes = self._flag(word)
            if takes is not None and takes.nargs is None and words:
                value = words[0]
                if value.startswith("-") and self._flag(value) is None and value != "--":
                    word = f"{word}={words.pop(0)}"
            joined.append(word)
        return super().parse_known_args(joined, namespace)

    def again(self, words: Sequence[str]) -> list[str]:
        """The words without those that say where a result goes, for whoever repeats a command."""
        left, kept = list(words), []
        while left:
            word = left.pop(0)
            found = self._flag(word)
            if found is None or found.dest not in _NOT_AGAIN:
                kept.append(word)
            elif found.nargs is None and "=" not in word:
                del left[:1]
        return kept

    def _flag(self, word: str) -> argparse.Action | None:
        """The flag that a word is, or begins as no other does."""
        known = self._option_string_actions
        name = word.partition("=")[0]
        if name in known:
            return known[name]
        if not name.startswith("--"):
            return None
        alike = {id(known[flag]): known[flag] for flag in known if flag.startswith(name)}
        return next(iter(alike.values())) if len(alike) == 1 and len(name) > 2 else None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code.

    Args:
      argv: the words after the program's name; None: those of the process.

    Raises:
      SystemExit: after --help and --version (0) and for unusable flags (2).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Only the chosen command is imported: some take seconds. No flag before it takes a value.
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser = Parser(prog="restore-jax", description=DESCRIPTION)
    parser.add_argument(
        "--version", action="version", version=f"restore-jax {restore_jax.__version__}"
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    again = words
    for name, text in COMMANDS.items():
        child = subparsers.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", add_help=False
        )
        if name == chosen:
            module = import_module(f"restore_jax.cli.{name}")
            screens.add_help(child, module.screen())
            module.add_arguments(child)
            again = child.again(words)
    args = parser.parse_args(words)
    args.again = again
    with quiet(), exits.ended_by_signals():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    try:
        return import_module(f"restore_jax.cli.{args.command}").run(args)
    except RestoreError as error:
        complain(f"error: {exits.sentence(error)}")
        inconclusive = isinstance(error, Inconclusive | OutOfQueries)
        return exits.INCONCLUSIVE if inconclusive else exits.BAD_INPUT
    except KeyboardInterrupt:
        complain("interrupted")
        return exits.INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            complain(
                f"error: no file can have the name {str(error.filename)[:40]}...: it is too long."
            )
            return exits.BAD_INPUT
        complain(f"{traceback.format_exc()}{REPORT}")
        return exits.CRASHED


def complain(text: str) -> None:
    """Prints to stderr, whatever can be shown there."""
    with contextlib.suppress(OSError):
        known = sys.stderr.encoding or "utf-8"
        print(text.encode(known, "replace").decode(known), file=sys.stderr, flush=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What libraries say besides does not land among the lines of progress.

    Warnings of this package are notes; errors that libraries log are shown.
    """
    # XLA reads it when it is loaded: 2 leaves errors, among which is how slowly it compiles.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    level = logging.lastResort.level if logging.lastResort else logging.WARNING
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=Note)
        warnings.showwarning = _note
        try:
            if logging.lastResort:
                logging.lastResort.setLevel(logging.ERROR)
            yield
        finally:
            if logging.lastResort:
                logging.lastResort.setLevel(level)


def _note(message: Warning | str, *_: object, **__: object) -> None:
    complain(f"note: {exits.sentence(str(message))}")
