"""``completion``: prints a script with which a shell completes commands, flags and their values."""

import argparse
import sys
from collections.abc import Callable, Mapping
from importlib import import_module

from restore_jax.cli import exits, screens
from restore_jax.cli.shells import SHELLS, Command, Flag

_PATHS = ("DIR", "FILE", "SPEC")
"""What a flag takes a file or a folder for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("shell", choices=tuple(SHELLS), metavar="SHELL",
                        help=f"the shell: {', '.join(SHELLS)}")  # fmt: skip


def screen() -> screens.Screen:
    """What --help says."""
    return screens.Screen(
        groups={"the shell": {"SHELL": ", ".join(SHELLS)}},
        examples=("completion bash", "completion zsh"),
        codes="0 done",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    sys.stdout.write(SHELLS[args.shell](declared()))
    return exits.DONE


def declared() -> list[Command]:
    """Every command with its flags, as it declares them."""
    # Here, since `main` imports this file.
    from restore_jax.cli.main import COMMANDS, Parser

    found = []
    for name, text in COMMANDS.items():
        module = import_module(f"restore_jax.cli.{name}")
        parser = Parser(prog=name, add_help=False)
        screen = module.screen()
        screens.add_help(parser, screen)
        module.add_arguments(parser)
        few = {flag: said for group in screen.groups.values() for flag, said in group.items()}
        flags, words = [], ()
        for action in parser._actions:
            if action.option_strings:
                flags.append(_flag(action, few))
            else:
                words = tuple(action.choices or ())
        found.append(Command(name, text, tuple(flags), words))
    return found


def _flag(action: argparse.Action, few: Mapping[str, str]) -> Flag:
    """A flag as argparse has it, explained in a few words where there are some."""
    name = action.option_strings[-1]
    number = "1" if action.nargs is None else "0" if action.nargs == 0 else "+"
    known = _WORDS.get(name)
    return Flag(
        names=tuple(action.option_strings),
        help=few.get(name) or _first_words(action.help or ""),
        number=number,
        words=tuple(action.choices or (known() if known else ())),
        paths=action.metavar in _PATHS and name != "--plant",
    )


def _first_words(text: str) -> str:
    """The beginning of a help text, which a shell shows beside a flag."""
    return text.replace("%%", "%").split(";")[0].split(" (%(")[0]


def _models() -> tuple[str, ...]:
    from restore_jax.oracles.formats import FORMATS

    return ("shipped", *(f"{scheme}:" for scheme in FORMATS))


def _networks() -> tuple[str, ...]:
    from restore_jax.models import NETWORKS

    return tuple(NETWORKS)


def _attacks() -> tuple[str, ...]:
    from restore_jax.backdoors import KINDS

    return tuple(KINDS)


_WORDS: dict[str, Callable[[], tuple[str, ...]]] = {
    "--model": _models,
    "--arch": _networks,
    "--plant": _attacks,
    "--probes": lambda: ("dead_leaves", "shapes", "cifar10"),
}
"""What may stand behind flags that take more than a few choices."""
