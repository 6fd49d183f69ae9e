"""Counts every image sent to a model, and refuses to send one more than was allowed."""

import dataclasses


class OutOfQueries(RuntimeError):
    """The budget does not pay for the next request."""


@dataclasses.dataclass
class Ledger:
    """The queries of one run.

    Attributes:
      budget: images that may be sent, >= 1.
      spent: images sent so far.
    """

    budget: int
    spent: int = 0

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
        self.spent += images
