"""``--help`` on one screen: the flags that most people need, an example, the exit codes.

``--help-all`` prints every flag, with all there is to say about it.
"""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from restore_jax.oracles.formats import examples

WIDTH = 80
_COLUMN = 20
"""Where the words about a flag begin."""
FAILURES = "2 wrong arguments or input, 130 interrupted"
MODEL = {
    "--access": "what it answers: logits, probabilities or labels",
    "--classes": "how many it has, or their names, if the model does not say",
    "--probes": "images to ask about: a folder, a file, or drawn here",
    "--data-dir": "with cifar10/ in it: its test images are looked at, too",
}
RESULT = {
    "--seed": "decides everything drawn",
    "--out": "the folder to write to",
    "--overwrite": "replace what it holds",
    "--resume": "go on with an interrupted run in --out",
    "--json": "print one JSON object",
}


class Screen(NamedTuple):
    """What ``--help`` says of a command.

    Attributes:
      groups: by title the flags, and what each is for in a few words. Where a flag has a default,
        that is added.
      examples: commands as one types them, without the program's name.
      codes: exit codes and what they mean, in one sentence.
    """

    groups: Mapping[str, Mapping[str, str]]
    examples: Sequence[str]
    codes: str


def about_model(others: Mapping[str, str] = MODEL) -> dict[str, str]:
    """The group about the model, of a command that looks at one."""
    *some, last = examples()
    return {"--model": f"what train wrote, {', '.join(some)} or {last}", **others}


def shown(parser: argparse.ArgumentParser, screen: Screen) -> str:
    """The screen as text, at most `WIDTH` wide."""
    known = {name: action for action in parser._actions for name in names(action)}
    width = min(WIDTH, shutil.get_terminal_size().columns) - 1
    needed = [
        " ".join((*action.option_strings[:1], str(action.metavar)))
        for action in parser._actions
        if action.required
    ]
    usage = " ".join(("usage:", parser.prog, *needed, "[FLAGS]"))
    lines = [usage, "", *_wrapped(parser.description or "", width)]
    for title, flags in screen.groups.items():
        lines += ["", f"{title}:"]
        for flag, words in flags.items():
            lines += _flag(known[flag], flag, words, width)
    lines += ["", "examples:", *(f"  restore-jax {line}" for line in screen.examples), ""]
    lines += _wrapped(f"exit codes: {screen.codes}, {FAILURES}", width, "  ")
    lines += [f"all flags:  {parser.prog} --help-all"]
    return "\n".join(lines) + "\n"


def names(action: argparse.Action) -> Sequence[str]:
    """What a flag is called; of a word without a flag, what stands for it."""
    return action.option_strings or [str(action.metavar)]


def _flag(action: argparse.Action, flag: str, words: str, width: int) -> list[str]:
    value = action.metavar if isinstance(action.metavar, str) else None
    if value is None and action.nargs != 0:
        value = "NAME"
    if not action.option_strings:
        value = None
    left = f"  {flag} {value}" if value else f"  {flag}"
    default = action.default
    if default is not None and action.nargs != 0:
        listed = default if isinstance(default, list) else [default]
        words += f" ({' '.join(map(str, listed))})"
    right = _wrapped(words, width - _COLUMN)
    if len(left) >= _COLUMN:
        return [left, *(f"{'':{_COLUMN}}{line}" for line in right)]
    return [f"{left:{_COLUMN}}{right[0]}", *(f"{'':{_COLUMN}}{line}" for line in right[1:])]


def _wrapped(words: str, width: int, later: str = "") -> list[str]:
    return textwrap.wrap(
        words, max(width, 30), subsequent_indent=later, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


class Help(argparse.Action):
    """``--help``: prints the screen and ends."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, screen: Screen, help: str | None = None
    ):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self._screen = screen

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Prints it."""
        parser._print_message(shown(parser, self._screen), sys.stdout)
        parser.exit()


def add_help(parser: argparse.ArgumentParser, screen: Screen) -> None:
    """Declares ``--help`` and ``--help-all``."""
    parser.add_argument("-h", "--help", action=Help, screen=screen, dest="help",
                        help="the flags that most people need")  # fmt: skip
    parser.add_argument("--help-all", action="help", help="this text")
