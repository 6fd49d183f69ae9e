"""What a command may take, what it is expected to take, and what it has cost so far."""

import argparse
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console

from restore_jax.cli import exits

if TYPE_CHECKING:
    from restore_jax.run import Estimate

SCREEN = {
    "--dry-run": "say what it would send, take and cost, and end",
    "--seconds": "most seconds to take; of money, see --price and --dollars",
}
"""What --help says; the other flags stand in --help-all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags, in a group of their own."""
    add = parser.add_argument_group(
        "time and money", "the smallest limit counts, --budget among them"
    ).add_argument
    add("--dry-run", action="store_true",
        help="measure the model's speed, say how many images the command is expected to send, how "
             "long that takes and what it costs, and end; nothing is written")  # fmt: skip
    add("--price", type=float, metavar="P", help="dollars for 1,000 images: the cost is then said")
    add("--dollars", type=float, metavar="D",
        help="most dollars to spend, at --price: a budget in images")  # fmt: skip
    add("--seconds", type=float, metavar="S",
        help="most seconds to take, from the start of the command: what there is by then is "
             "written, and --resume goes on; over by one level, request or compilation at "
             "most")  # fmt: skip


def check(args: argparse.Namespace) -> None:
    """Checks the flags; touches nothing. The command's time begins here.

    Raises:
      UsageError: a flag out of range.
    """
    args.began = time.monotonic()
    for name in ("seconds", "dollars"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise exits.UsageError(f"--{name} must be above 0, not {value:g}.")
    if args.price is not None and not 0 <= args.price < math.inf:
        raise exits.UsageError(f"--price must be at least 0, not {args.price:g}.")
    if args.dollars is not None and not args.price:
        raise exits.UsageError("--dollars needs --price, in dollars for 1,000 images.")


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The limits as `recover` and `scan` take them: of the seconds what is left of them."""
    seconds = args.seconds
    if seconds is not None:
        seconds = max(1e-3, seconds - (time.monotonic() - args.began))
    return {"seconds": seconds, "dollars": args.dollars, "price": args.price}


class Announced:
    """Says what is expected before a command searches, and goes on saying what is left of it.

    Called with an estimate, it prints it on stderr.
    """

    def __init__(self, args: argparse.Namespace, console: Console):
        self._label, self._json, self._console = args.command, args.json, console
        self._price = args.price
        self._expected: tuple[int, ...] = ()

    def __call__(self, estimate: "Estimate") -> None:
        """Prints it."""
        self._expected = (estimate.images, estimate.high or 0)
        self._console.print(
            f"{self._label}: {estimate}", markup=False, highlight=False, emoji=False, soft_wrap=True
        )

    def only(self, run: Callable[[Callable[["Estimate"], None]], object]) -> int:
        """Prints what is expected as the result; ``run`` is what would have to be told."""
        from restore_jax.run import estimate

        def verb(*, on_estimate: Callable[["Estimate"], None]) -> object:
            return run(on_estimate)

        found = estimate(verb)
        if self._json:
            exits.print_json(found.to_json())
        else:
            exits.show(str(found))
        return exits.DONE

    def total(self, done: int, budget: int) -> int:
        """What ``done`` images are a part of: of what is expected, and of the budget, the first
        that they have not gone beyond."""
        return next((images for images in self._expected if done < images), budget)

    def cost(self, images: int) -> str:
        """What so many images cost, to end a line with; nothing where nobody said the price."""
        return "" if self._price is None else f", ${images * self._price / 1000:,.2f}"
