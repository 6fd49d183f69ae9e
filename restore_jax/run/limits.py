"""What a run may take: images, dollars, seconds. The smallest limit counts."""

import dataclasses
import math

from restore_jax.errors import BudgetError, InputError

IMAGES, DOLLARS, SECONDS = "images", "dollars", "seconds"
"""What may end a run before it is through."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a run may take, beside a budget in images.

    Attributes:
      seconds: of the clock, > 0; None: as long as it takes.
      dollars: > 0, goes with a price; None: no such limit.
      price: dollars for 1,000 images, >= 0; None: not known.

    Raises:
      InputError: one of them is out of range, or `dollars` have no price.

    >>> Limits(dollars=3.0, price=1.5).images(40_000)
    2000
    """

    seconds: float | None = None
    dollars: float | None = None
    price: float | None = None

    def __post_init__(self) -> None:
        """Checks them."""
        for name in ("seconds", "dollars"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"`{name}` must be above 0, not {value:g}.")
        if self.price is not None and not 0 <= self.price < math.inf:
            raise InputError(f"`price` must be at least 0, not {self.price:g}.")
        if self.dollars is not None and not self.price:
            raise InputError("`dollars` needs a `price`, in dollars for 1,000 images.")

    def images(self, budget: int) -> int:
        """The images that may be sent, of so many that somebody allows.

        Raises:
          BudgetError: the dollars do not pay for one.
        """
        if self.dollars is None or not self.price:
            return budget
        paid = math.floor(1000 * self.dollars / self.price + 1e-9)
        if paid < 1:
            raise BudgetError(
                f"`dollars` {self.dollars:g} do not pay for one image at a `price` of "
                f"{self.price:g} for 1,000: give more."
            )
        return min(budget, paid)

    def ends_by(self, budget: int) -> str:
        """Which limit it is that a run meets that has no images left."""
        return DOLLARS if self.images(budget) < budget else IMAGES

    def said(self, budget: int) -> str:
        """The limit on images as a sentence names it, of so many that somebody allows."""
        if self.ends_by(budget) == IMAGES:
            return f"`budget` {budget} is"
        return f"`dollars` {self.dollars:g}, which pay for {self.images(budget)} images, are"


NO_LIMITS = Limits()
