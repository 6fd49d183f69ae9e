"""Fresh probes that a model does not take for the class in question already, or of one class."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.data.probes import ProbeSource
from restore_jax.errors import Inconclusive
from restore_jax.oracles.types import Images

Array = jax.Array
PATIENCE = 20
"""Images asked about for each probe wanted, at most."""
PATIENCE_FOR_ONE_CLASS = 300
"""Likewise of probes of one class, which may be rare."""
MANY = 64
"""Images asked about together then."""


class ProbeFeed:
    """Hands out fresh probes whose unstamped prediction is none of the excluded classes."""

    def __init__(
        self,
        source: ProbeSource,
        labels: Callable[[Images], np.ndarray],
        excluded: frozenset[int],
        only: int | None = None,
    ):
        """Takes images from the source in order.

        Args:
          source: where they come from.
          labels: asks the model, and books it.
          excluded: the classes that no probe handed out has.
          only: the class that every probe handed out has; None: any other.
        """
        self._source, self._labels = source, labels
        self._excluded, self._only = np.array(sorted(excluded), np.int32), only
        self._next = 0
        self._turned_away: list[tuple[np.ndarray, np.ndarray]] = []

    def take(self, wanted: int, most: int, enough: int | None = None) -> Array:
        """f32[wanted, H, W, C], having asked (and booked) about at most ``most`` images.

        Args:
          wanted: how many.
          most: images that may be asked about.
          enough: how many will do where there are not so many; None: all that are wanted.

        Raises:
          Inconclusive: too few of them can be used.
          DataError: the source has no more.
        """
        patience = PATIENCE if self._only is None else PATIENCE_FOR_ONE_CLASS
        kept: list[np.ndarray] = []
        have, asked = 0, 0
        while have < wanted:
            more = min(wanted - have if self._only is None else MANY, most - asked)
            if self._only is not None and self._source.available is not None:
                more = min(more, self._source.available - self._next)
            if more <= 0 or asked > patience * wanted:
                if enough is not None and have >= enough:
                    break
                raise Inconclusive(self._too_few(have, asked))
            images = np.asarray(self._source.draw(self._next, more))
            answers = self._labels(images)
            fit = np.all(answers[:, None] != self._excluded, -1)
            if self._only is not None:
                fit &= answers == self._only
            self._turned_away.append((images[~fit], answers[~fit]))
            images = images[fit]
            self._next, asked = self._next + more, asked + more
            kept, have = [*kept, images], have + images.shape[0]
        return jnp.asarray(np.concatenate(kept)[:wanted])

    def _too_few(self, have: int, asked: int) -> str:
        of = f"not already of class {', '.join(map(str, self._excluded))}"
        if self._only is not None:
            of = f"of class {self._only}"
        return (
            f"to this model only {have} of {asked} probes are {of}: give other `probes`, or a "
            "larger `budget`."
        )

    def turned_away(self, target: int) -> Array:
        """f32[k, H, W, C]: the images met so far that the model gives class ``target``."""
        met = [images[answers == target] for images, answers in self._turned_away]
        return jnp.asarray(np.concatenate(met)) if met else self._source.draw(0, 0)
