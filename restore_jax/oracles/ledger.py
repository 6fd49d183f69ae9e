"""Counts every image sent to a model, and refuses to send one more than was allowed."""

import dataclasses

from restore_jax.errors import OutOfQueries


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
    """

    budget: int
    spent: int = 0
    resent: int = 0
    payer: "Ledger | None" = None
    each: int = 1

    @property
    def left(self) -> int:
        """Images that the model may still be asked about."""
        return (self.budget - self.spent) // self.each

    def charge(self, images: int) -> None:
        """Books images about to be asked about (or just asked by a loop that keeps to `left`).

        Raises:
          OutOfQueries: there are more of them than are left; nothing is booked.
        """
        self._book(images * self.each)

    def _book(self, images: int) -> None:
        if images > self.budget - self.spent:
            raise OutOfQueries(f"{images} more images would exceed the budget of {self.budget}.")
        if self.payer is not None:
            self.payer._book(images)
        self.spent += images

    def charge_again(self, images: int) -> None:
        """Books images about to be sent once more; see `charge`."""
        self._book(images)
        ledger: Ledger | None = self
        while ledger is not None:
            ledger.resent += images
            ledger = ledger.payer
