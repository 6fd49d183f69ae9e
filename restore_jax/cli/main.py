"""``restore-jax``, ``python -m restore_jax``, ``train.py`` and ``recover.py``."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import restore_jax
from restore_jax.cli import exits

COMMANDS = {
    "train": "train a classifier, with or without backdoors",
    "recover": "search a model for the trigger of one class",
    "scan": "look for backdoors in all classes of a model",
    "purify": "ask a model about images, without the triggers recovered from it",
    "verify": "measure how often a given trigger works on a model",
}
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
    except ValueError as error:
        return _refuse(error, exits.BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return exits.INTERRUPTED
    except RuntimeError as error:
        from restore_jax.oracles import Inconclusive, OutOfQueries  # here: it is slow to import

        if isinstance(error, Inconclusive | OutOfQueries):
            return _refuse(error, exits.INCONCLUSIVE)
        raise


def _refuse(error: Exception, code: int) -> int:
    # One sentence is one line, whatever a library put into its message.
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code
