"""What a piece of work will send, how long that takes and what it costs, said beforehand."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from restore_jax.oracles import ledger as clock
from restore_jax.types import JSON, Argument

if TYPE_CHECKING:
    from restore_jax.run.run import Run

SHARE, SHARE_OF_EXPECTED = 100, 20
"""No more is measured with than one in so many of the images allowed, and of those expected."""


class Expected(NamedTuple):
    """How many images a piece of work is expected to send, by what such work sent.

    Attributes:
      images: so many; of a range, half of the networks measured took no more.
      low, high: the fewest and the most that were measured; None where ``images`` is about right.
      recoveries: how many were measured; None: that is not how it is known.
    """

    images: float
    low: float | None = None
    high: float | None = None
    recoveries: int | None = None

    def times(self, number: float) -> "Expected":
        """Of work that is done so often.

        >>> Expected(3.0, 1.0, 5.0).times(2)
        Expected(images=6.0, low=2.0, high=10.0, recoveries=None)
        """
        return Expected(
            number * self.images,
            None if self.low is None else number * self.low,
            None if self.high is None else number * self.high,
            self.recoveries,
        )


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What is expected of a piece of work, before it begins.

    Attributes:
      images: that it will send, where what is looked for is there; see `estimate`. Where there is
        a range, half of the networks that were measured took no more.
      most: images that it may send: the budget.
      pace: seconds that an image takes, as measured, without what compiling takes; None where
        nothing was measured.
      price: dollars for 1,000 images; None: nobody said.
      measured: images that the speed was measured with.
      low, high: the fewest and the most images that recoveries sent, where they were measured and
        it depends on what is planted; None elsewhere.
      recoveries: how many were measured; 0: none of this kind, ``images`` is then ``most``; None:
        what it will send is known otherwise.
      sent: images sent already.

    >>> print(Estimate(images=7400, most=40_000, pace=0.002, price=1.5, measured=64))
    about 7,400 images (at most 40,000), about 15 s (at most 80 s), cost about $11.10 (at most \
$60.00) at a price of $1.50 per 1,000 images
    >>> print(Estimate(1400, 40_000, pace=0.002, low=420, high=36_000, recoveries=7))
    420 to 36,000 images, by what 7 recoveries with a trigger took, in half of the networks up to \
1,400 (at most 40,000), 1 s to 72 s (at most 80 s)
    """

    images: int
    most: int
    pace: float | None
    price: float | None = None
    measured: int = 0
    low: int | None = None
    high: int | None = None
    recoveries: int | None = None
    sent: int = 0

    @property
    def seconds(self) -> float | None:
        """That sending ``images`` takes."""
        return self._seconds(self.images)

    @property
    def most_seconds(self) -> float | None:
        """That sending ``most`` images takes."""
        return self._seconds(self.most)

    @property
    def dollars(self) -> float | None:
        """What ``images`` cost."""
        return self._dollars(self.images)

    @property
    def most_dollars(self) -> float | None:
        """What ``most`` images cost."""
        return self._dollars(self.most)

    def _seconds(self, images: int) -> float | None:
        return None if self.pace is None else (images - self.sent) * self.pace

    def _dollars(self, images: int) -> float | None:
        return None if self.price is None else images * self.price / 1000

    def to_json(self) -> dict[str, JSON]:
        """A dict that JSON can hold."""
        content: dict[str, JSON] = {"images": self.images}
        if self.low is not None:
            content |= {"low_images": self.low, "high_images": self.high}
        content |= {"most_images": self.most}
        if self.recoveries is not None:
            content["recoveries"] = self.recoveries
        content |= {"seconds": self.seconds, "most_seconds": self.most_seconds}
        if self.price is not None:
            content |= {
                "cost": self.dollars, "most_cost": self.most_dollars, "price": self.price
            }  # fmt: skip
        return content

    def __str__(self) -> str:
        """The estimate in one line."""
        parts = [self._images_in_words()]
        if self.pace is not None:
            parts.append(self._range(lambda images: duration(self._seconds(images) or 0.0)))
        if self.price is not None:
            costs = self._range(lambda images: f"${self._dollars(images) or 0.0:,.2f}")
            parts.append(f"cost {costs} at a price of ${self.price:,.2f} per 1,000 images")
        return ", ".join(parts)

    def _images_in_words(self) -> str:
        if self.recoveries == 0:
            return f"at most {self.most:,} images (no recovery of this kind was measured)"
        number = self._range("{:,}".format, " images")
        if self.recoveries is None:
            return number
        took = "1 recovery" if self.recoveries == 1 else f"{self.recoveries} recoveries"
        half = "" if self.low is None else f", in half of the networks up to {self.images:,}"
        images, end = number.split(" (at most")
        return f"{images}, by what {took} with a trigger took{half} (at most{end}"

    def _range(self, words: Callable[[int], str], unit: str = "") -> str:
        """What is expected, and what is the most, of something that images take."""
        most = words(self.most)
        if self.recoveries == 0:
            return f"at most {most}{unit}"
        if self.low is None or self.high is None:
            return f"about {words(self.images)}{unit} (at most {most})"
        return f"{words(self.low)} to {words(self.high)}{unit} (at most {most})"


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

    How many images a recovery takes depends on how rare its trigger is, which is known only
    afterwards. The estimate is the range of what recoveries of measured models with a trigger
    took. Where there is none, a search goes on to its end or to its budget.

    Args:
      verb: `recover`, `scan` or `verify`.
      *args: its arguments.
      **how: those with names.

    Raises:
      RestoreError: whatever the run itself would refuse before it searches.

    >>> import restore_jax
    >>> said = restore_jax.estimate(restore_jax.recover, "shipped", "cat", price=2.0)
    >>> said.low, said.high, said.most, said.most_dollars
    (2700, 40000, 40000, 80.0)
    """

    def stop(found: Estimate) -> NoReturn:
        raise _Told(found)

    try:
        verb(*args, on_estimate=stop, **how)
    except _Told as told:
        return told.estimate
    raise AssertionError("nothing was said")


def announce(
    run: "Run", images: float | Expected, least: int, tell: OnEstimate, most: int | None = None
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
    known = images if isinstance(images, Expected) else Expected(images)
    free = run.model.repeat_cost(1) == 0
    number = run.model.together
    if not free:
        spare = run.ledger.left - least
        share = run.ledger.budget // run.model.each // SHARE
        number = min(number, spare, share, int(known.images / SHARE_OF_EXPECTED))
    if number > 0:
        _measure(run, number, free)
    if tell is None:
        return
    each, spent = run.model.each, run.ledger.spent
    limit = run.ledger.budget if most is None else min(run.ledger.budget, spent + each * most)

    def sent(images: float) -> int:
        return min(limit, rounded(spent + each * images))

    tell(
        Estimate(
            limit if known.recoveries == 0 else sent(known.images),
            limit,
            None if run.pace is None else run.pace / each,
            run.ledger.price,
            max(number, 0),
            None if known.low is None else sent(known.low),
            None if known.high is None else sent(known.high),
            known.recoveries,
            spent,
        )
    )


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
