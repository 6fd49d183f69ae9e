"""What recoveries sent, beside what is said before they begin.

    python benchmarks/announced.py

Nothing is run: the rows are those of the other benchmarks' results. Writes
``benchmarks/results/announced.md``, and prints what `restore_jax.spaces.catalogue` says of each
space (`Space.typical`), which a test compares with it.
"""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from restore_jax.run.estimates import rounded
from restore_jax.spaces import catalogue
from restore_jax.spaces.catalogue import Typical

RESULTS = Path(__file__).parent / "results"
PARTS = ("first", "estimate", "literature", "twin")
"""Of the recoveries in ``recovery.json``: those in the space of what is planted, and of networks
where nothing is, with the budget that they have unless told otherwise."""
SHARE = 0.25
TOLD_BUDGET = 40_000
"""Of the recoveries in ``coverage.json``; see `coverage.py`."""


class Sent(NamedTuple):
    """A recovery: the space, the stopping rule, the network, whether something is planted in it,
    whether it was found, and the images sent and allowed."""

    space: str
    stop: str
    network: str
    planted: bool
    found: bool
    images: int
    most: int


def main() -> None:
    """Writes the page."""
    every = rows()
    for (space, stop), some in by_search(every).items():
        print(space, stop, typical(some))
    (RESULTS / "announced.md").write_text(page(every))


def rows() -> list[Sent]:
    """All recoveries."""
    found = []
    for row in json.loads((RESULTS / "recovery.json").read_text())["rows"]:
        if row["part"] in PARTS:
            found.append(
                Sent(
                    row["space"], row["stop"], row["model"], row["part"] != "twin", row["found"],
                    row["queries"], row["budget"],
                )
            )  # fmt: skip
    for name, row in json.loads((RESULTS / "coverage.json").read_text()).items():
        network, space, _ = name.split("/")
        planted = "clean" not in network
        most = catalogue.find(space).budget
        found.append(Sent(space, "first_hit", network, planted, row["found"], row["queries"], most))
    for name, row in json.loads((RESULTS / "architectures.json").read_text()).items():
        most = catalogue.find("patch").budget
        found.append(Sent("patch", "estimate", name, True, row["found"], row["images"], most))
    row = json.loads((RESULTS / "large_images.json").read_text())["recover planted"]
    there = row["outcome"] == "found"
    found.append(Sent("patch", "first_hit", "224x224", True, there, row["images"], row["budget"]))
    return found


def by_search(some: Iterable[Sent]) -> dict[tuple[str, str], list[Sent]]:
    """By space and stopping rule, those that found what is planted."""
    sorted_: dict[tuple[str, str], list[Sent]] = {}
    for row in some:
        if row.planted and row.found:
            sorted_.setdefault((row.space, row.stop), []).append(row)
    return sorted_


def typical(some: list[Sent]) -> Typical:
    """What these took, to two digits."""
    images = [row.images for row in some]
    medians = [
        statistics.median(row.images for row in some if row.network == network)
        for network in sorted({row.network for row in some})
    ]
    middle = sorted(medians)[(len(medians) - 1) // 2]
    return Typical(rounded(min(images)), rounded(middle), rounded(max(images)), len(some))


def said(row: Sent, said_of: Typical) -> bool:
    """Whether what a recovery sent lies within a quarter of what would have been said."""
    low, high = (1 - SHARE) * said_of.low, (1 + SHARE) * said_of.high
    return low <= row.images <= high or row.images >= (1 - SHARE) * row.most


def page(every: list[Sent]) -> str:
    """The results as a page."""
    lines = [
        "# What is announced, and what is sent",
        "",
        "Made by `python benchmarks/announced.py` from the rows of [recovery](recovery.md), "
        "[told the class](coverage.md), [two architectures](architectures.md) and "
        "[large images](large_images.md), with the budgets there. Before a recovery the fewest "
        "and the most images are said that recoveries with a trigger took, and the budget. "
        "*By the others* is a stricter question: if the range were that of the other networks "
        "alone, which recoveries of this one would lie within 25 % of the range or of the budget? "
        "*Nothing planted*: recoveries of clean networks, by the range of all.",
        "",
        "| space | stop | network | found what is planted | images | by the others |",
        "|---|---|---|---|---|---|",
    ]
    searches = by_search(every)
    for (space, stop), some in sorted(searches.items()):
        for network in sorted({row.network for row in some}):
            mine = [row for row in some if row.network == network]
            others = [row for row in some if row.network != network]
            held = "-"
            if others:
                held = f"{sum(said(row, typical(others)) for row in mine)} of {len(mine)}"
            lines.append(
                f"| {space} | {stop} | {network} | {len(mine)} | {between(mine)} | {held} |"
            )
    lines += [
        "", "| space | stop | said: fewest | half of the networks up to | most | recoveries |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for (space, stop), some in sorted(searches.items()):
        low, middle, high, number = typical(some)
        lines.append(f"| {space} | {stop} | {low:,} | {middle:,} | {high:,} | {number} |")
    lines += [
        "", "| nothing planted: space | stop | recoveries | images | within 25 % |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    clean: dict[tuple[str, str], list[Sent]] = {}
    for row in every:
        if not row.planted:
            clean.setdefault((row.space, row.stop), []).append(row)
    for (space, stop), some in sorted(clean.items()):
        held = "-"
        if (space, stop) in searches:
            here = typical(searches[space, stop])
            held = f"{sum(said(row, here) for row in some)} of {len(some)}"
        lines.append(f"| {space} | {stop} | {len(some)} | {between(some)} | {held} |")
    return "\n".join(lines) + "\n"


def between(some: list[Sent]) -> str:
    """The fewest and the most images."""
    images = [row.images for row in some]
    low, high = min(images), max(images)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


if __name__ == "__main__":
    main()
