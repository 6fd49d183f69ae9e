"""``restore-jax``, ``python -m restore_jax``, ``train.py`` and ``recover.py``."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import restore_jax
from restore_jax.cli import exits
from restore_jax.errors import Inconclusive, OutOfQueries, RestoreError

COMMANDS = {
    "train": "train a classifier, with or without backdoors",
    "recover": "search a model for the trigger of one class",
    "scan": "look for backdoors in all classes of a model",
    "purify": "ask a model about images, without the triggers recovered from it",
    "verify": "measure how often a given trigger works on a model",
}
REPORT = (
    "This is a mistake in restore-jax, not in what it was given: please report it, with the lines "
    "above, the command, and what restore-jax --version says."
)
DESCRIPTION = "Finds the backdoor of an image classifier by asking it questions."


class Parser(argparse.ArgumentParser):
    """A parser that refuses with one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        """Prints the line and ends with exit code 2."""
        self.exit(exits.BAD_INPUT, f"error: {message} (see {self.prog} --help)\n")


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
    for name, text in COMMANDS.items():
        child = subparsers.add_parser(name, help=text, description=text.capitalize() + ".")
        if name == chosen:
            import_module(f"restore_jax.cli.{name}").add_arguments(child)
    args = parser.parse_args(words)
    try:
        return import_module(f"restore_jax.cli.{args.command}").run(args)
    except RestoreError as error:
        print(f"error: {exits.sentence(error)}", file=sys.stderr)
        inconclusive = isinstance(error, Inconclusive | OutOfQueries)
        return exits.INCONCLUSIVE if inconclusive else exits.BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return exits.INTERRUPTED
    except Exception:
        traceback.print_exc()
        print(REPORT, file=sys.stderr)
        return exits.CRASHED
