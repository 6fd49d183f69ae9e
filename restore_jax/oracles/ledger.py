"""Counts every image sent to a model, and refuses to send one more than was allowed."""

import dataclasses
import math
import time
from collections.abc import Callable

from restore_jax.errors import OutOfQueries, OutOfTime

now = time.monotonic
"""The clock of all limits, in seconds."""


@dataclasses.dataclass
class Ledger:
    """The queries of one run.

    Attributes:
      budget: images that may be sent, >= 1.
      spent: images sent so far.
      resent: those of them that were sent again, because a request had failed or a run was
        interrupted.
      payer: a ledger of which this one is a part: everything is booked there, too.
      each: how often the model is sent an image that it is asked about.
      price: dollars for 1,000 images; None: nobody said.
      end: when the time is over, on the clock `now`; infinity: never.
      kept: seconds before the end that are kept back for what comes later.
      at_end: called when the time is found to be over.
    """

    budget: int
    spent: int = 0
    resent: int = 0
    payer: "Ledger | None" = None
    each: int = 1
    price: float | None = None
    end: float = math.inf
    kept: float = 0.0
    at_end: Callable[[], None] = lambda: None

    @property
    def left(self) -> int:
        """Images that the model may still be asked about."""
        return (self.budget - self.spent) // self.each

    @property
    def seconds_left(self) -> float:
        """Until the time is over, less what is kept back; infinity without such a limit."""
        mine = self.end if math.isinf(self.end) else self.end - now()
        theirs = math.inf if self.payer is None else self.payer.seconds_left
        return min(mine, theirs) - self.kept

    @property
    def dollars(self) -> float | None:
        """What was spent; None where nobody said the price."""
        return None if self.price is None else self.spent * self.price / 1000

    def time_is_over(self) -> bool:
        """Whether the time is over; whoever waits for that is told."""
        over = self.seconds_left <= 0
        if over:
            ledger: Ledger | None = self
            while ledger is not None:
                ledger.at_end()
                ledger = ledger.payer
        return over

    def go_on(self) -> None:
        """Refuses to go on when the time is over.

        Raises:
          OutOfTime: it is.
        """
        if self.time_is_over():
            raise OutOfTime(
                "the time was over before there was anything to report: give more `seconds`."
            )

    def charge(self, images: int) -> None:
        """Books images about to be asked about.

        Raises:
          OutOfQueries: there are more of them than are left; nothing is booked.
          OutOfTime: the time is over; nothing is booked.
        """
        if images:
            self.go_on()
        self.book(images)

    def book(self, images: int) -> None:
        """Books images just asked about, by a loop that keeps to `left`; whatever the clock says.

        Raises:
          OutOfQueries: there are more of them than are left; nothing is booked.
        """
        self._book(images * self.each)

    def give_back(self, images: int) -> None:
        """Takes back what was booked of images that were not sent after all."""
        self._book(-images * self.each)

    def _book(self, images: int) -> None:
        if images > self.budget - self.spent:
            raise OutOfQueries(f"{images} more images would exceed the budget of {self.budget}.")
        if self.payer is not None:
            self.payer._book(images)
        self.spent += images

    def charge_again(self, images: int) -> None:
        """Books images about to be sent once more; see `charge`."""
        if images:
            self.go_on()
        self._book(images)
        ledger: Ledger | None = self
        while ledger is not None:
            ledger.resent += images
            ledger = ledger.payer
