"""``restore-jax``, ``python -m restore_jax``, ``train.py`` and ``recover.py``."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from restore_jax.cli import exits

COMMANDS = {
    "train": "train a classifier, with or without backdoors",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="restore-jax", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        child = subparsers.add_parser(name, help=text, description=text.capitalize() + ".")
        import_module(f"restore_jax.cli.{name}").add_arguments(child)
    args = parser.parse_args(argv)
    try:
        return import_module(f"restore_jax.cli.{args.command}").run(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return exits.INTERRUPTED
