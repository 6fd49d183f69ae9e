"""What a piece of work will send, how long that takes and what it costs, said beforehand."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from restore_jax.oracles import ledger as clock
from restore_jax.types import JSON, Argument

if TYPE_CHECKING:
    from restore_jax.run.run import Run

SHARE, SHARE_OF_EXPECTED = 100, 20
"""No more is measured with than one in so many of the images allowed, and of those expected."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What is expected of a piece of work, before it begins.

    Attributes:
      images: that it will send, where what is looked for is there; see `estimate`.
      most: images that it may send: the budget.
      seconds: that sending ``images`` takes, at the speed measured, without what compiling takes;
        None where nothing was measured.
      price: dollars for 1,000 images; None: nobody said.
      measured: images that the speed was measured with.

    >>> print(Estimate(images=7400, most=40_000, seconds=14.2, price=1.5, measured=64))
    about 7,400 images (at most 40,000), about 14 s, cost about $11.10 at a price of $1.50 per \
1,000 images
    """

    images: int
    most: int
    seconds: float | None
    price: float | None = None
    measured: int = 0

    @property
    def dollars(self) -> float | None:
        """What ``images`` cost."""
        return None if self.price is None else self.images * self.price / 1000

    @property
    def most_dollars(self) -> float | None:
        """What ``most`` images cost."""
        return None if self.price is None else self.most * self.price / 1000

    def to_json(self) -> dict[str, JSON]:
        """A dict that JSON can hold."""
        content: dict[str, JSON] = {
            "images": self.images,
            "most_images": self.most,
            "seconds": self.seconds,
        }
        if self.price is not None:
            content |= {
                "cost": self.dollars, "most_cost": self.most_dollars, "price": self.price
            }  # fmt: skip
        return content

    def __str__(self) -> str:
        """The estimate in one line."""
        parts = [f"about {self.images:,} images (at most {self.most:,})"]
        if self.seconds is not None:
            parts.append(f"about {duration(self.seconds)}")
        if self.price is not None:
            parts.append(
                f"cost about ${self.dollars:,.2f} at a price of ${self.price:,.2f} per 1,000 images"
            )
        return ", ".join(parts)


OnEstimate = Callable[[Estimate], None] | None


def duration(seconds: float) -> str:
    """A time in words, to two digits or so.

    >>> duration(0.4), duration(75), duration(1000), duration(20_000)
    ('1 s', '75 s', '17 min', '5.6 h')
    """
    if seconds < 120:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class _Told(Exception):
    """Ends what was only to be estimated."""

    def __init__(self, estimate: Estimate):
        super().__init__()
        self.estimate = estimate


def estimate(verb: Callable[..., object], *args: Argument, **how: Argument) -> Estimate:
    """What `recover` or `scan` would send with these arguments; nothing is searched.

    The model is opened and looked at, and its speed measured with a few images, as in the run
    itself: at most a hundredth of the budget, of a model in this process none that count.

    How many images a search takes is known only afterwards. The estimate is what was typical
    of models with a trigger. Where there is none, a search goes on to its end or to its budget.

    Args:
      verb: `recover`, `scan` or `verify`.
      *args: its arguments.
      **how: those with names.

    Raises:
      RestoreError: whatever the run itself would refuse before it searches.

    >>> import restore_jax
    >>> said = restore_jax.estimate(restore_jax.recover, "shipped", "cat", price=2.0)
    >>> said.images, said.most, said.dollars
    (26000, 40000, 52.0)
    """

    def stop(found: Estimate) -> NoReturn:
        raise _Told(found)

    try:
        verb(*args, on_estimate=stop, **how)
    except _Told as told:
        return told.estimate
    raise AssertionError("nothing was said")


def announce(
    run: "Run", images: float, least: int, tell: OnEstimate, most: int | None = None
) -> None:
    """Measures a model's speed, for the run and for whoever is to be told what is expected.

    What the model is shown counts as a stage of its own, where asking it again costs anything.
    Nothing drawn depends on what is measured.

    Args:
      run: whose model is asked.
      images: that are expected to be asked about from here on.
      least: images that the work cannot do without, so that none of them goes into measuring.
      tell: is told what is expected of the whole run; may end it.
      most: that may be asked about from here on; None: what the budget pays for.
    """
    if tell is None and run.ledger.seconds_left == np.inf:
        return  # nobody wants to know
    free = run.model.repeat_cost(1) == 0
    number = run.model.together
    if not free:
        spare = run.ledger.left - least
        share = run.ledger.budget // run.model.each // SHARE
        number = min(number, spare, share, int(images / SHARE_OF_EXPECTED))
    if number > 0:
        _measure(run, number, free)
    if tell is None:
        return
    each, spent = run.model.each, run.ledger.spent
    limit = run.ledger.budget if most is None else min(run.ledger.budget, spent + each * most)
    expected = min(limit, rounded(spent + each * images))
    seconds = None if run.pace is None else (expected - spent) / each * run.pace
    tell(Estimate(expected, limit, seconds, run.ledger.price, max(number, 0)))


def rounded(images: float) -> int:
    """To two digits: more are not known.

    >>> rounded(7588.2), rounded(12.7)
    (7600, 13)
    """
    digits = max(0, len(str(int(images))) - 2)
    return int(round(images, -digits))


def _measure(run: "Run", number: int, free: bool) -> None:
    """Times an answer to so many images; leaves the pace unknown where nobody was asked."""
    available = run.source.available
    some = min(8, number) if available is None else min(8, number, available)
    if not some:
        return
    drawn = np.asarray(run.source.draw(0, some))
    images = np.resize(drawn, (number, *drawn.shape[1:]))
    before = _asked(run)
    if free:
        began = clock.now()
        run.look(images)
    else:
        with run.stage("estimate"):
            began = clock.now()
            run.look(images)
    seconds = clock.now() - began
    if free or _asked(run) != before:  # otherwise a journal knew
        run.pace = seconds / number


def _asked(run: "Run") -> JSON:
    spending = run.model.spending(run.ledger)
    return None if spending is None else spending["images"]
