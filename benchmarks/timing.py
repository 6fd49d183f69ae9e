"""Contestants that take turns, so that whatever else the machine does meets all alike."""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from restore_jax.environment import device_name


@dataclasses.dataclass
class Contestant:
    """Something that works through images.

    Attributes:
      name: as the results call it.
      images: how many it takes in one go.
      go: takes them, and returns once the answers are there.
      seconds: one per repeat.
    """

    name: str
    images: int
    go: Callable[[], Any]
    seconds: list[float] = dataclasses.field(default_factory=list)

    def rates(self) -> list[float]:
        """Images per second, per repeat."""
        return [self.images / seconds for seconds in self.seconds]

    def rate(self) -> float:
        """Their median."""
        return statistics.median(self.rates())

    def spread(self) -> dict[str, float]:
        """Median, least and most images per second."""
        return {"median": self.rate(), "min": min(self.rates()), "max": max(self.rates())}


def take_turns(contestants: Sequence[Contestant], repeats: int) -> None:
    """Lets each go once, for compilation and caches, then all of them ``repeats`` times."""
    for contestant in contestants:
        contestant.go()
    for repeat in range(repeats):
        for contestant in contestants:
            start = time.perf_counter()
            contestant.go()
            contestant.seconds.append(time.perf_counter() - start)
        print(f"repeat {repeat + 1} of {repeats} done", file=sys.stderr, flush=True)


def ratio(one: Contestant, other: Contestant) -> dict[str, float]:
    """How many times faster one is than another: median, least and most over the repeats.

    Neighbours in time are compared, so that a slow minute slows both.
    """
    pairs = zip(one.rates(), other.rates(), strict=True)
    each = [a / b for a, b in pairs]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return device_name()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else device_name()
