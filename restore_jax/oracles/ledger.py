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
    """

    budget: int
    spent: int = 0
    resent: int = 0
    payer: "Ledger | None" = None

    @property
    def left(self) -> int:
        """Images that may still be sent."""
        return self.budget - self.spent

    def charge(self, images: int) -> None:
        """Books images about to be sent (or just sent by a loop that keeps to `left`).

        Raises:
          OutOfQueries: there are more of them than are left; nothing is booked.
        """
        if images > self.left:
            raise OutOfQueries(f"{images} more images would exceed the budget of {self.budget}.")
        if self.payer is not None:
            self.payer.charge(images)
        self.spent += images

    def charge_again(self, images: int) -> None:
        """Books images about to be sent once more; see `charge`."""
        self.charge(images)
        ledger: Ledger | None = self
        while ledger is not None:
            ledger.resent += images
            ledger = ledger.payer
