"""Fresh probes that a model does not take for the class in question already."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.data.probes import ProbeSource
from restore_jax.errors import Inconclusive
from restore_jax.oracles.types import Images

Array = jax.Array


class ProbeFeed:
    """Hands out fresh probes whose unstamped prediction is none of the excluded classes."""

    def __init__(
        self, source: ProbeSource, labels: Callable[[Images], np.ndarray], excluded: frozenset[int]
    ):
        """Takes images from the source in order.

        Args:
          source: where they come from.
          labels: asks the model, and books it.
          excluded: the classes that no probe handed out has.
        """
        self._source, self._labels = source, labels
        self._excluded = np.array(sorted(excluded), np.int32)
        self._next = 0
        self._turned_away: list[tuple[np.ndarray, np.ndarray]] = []

    def take(self, wanted: int, most: int) -> Array:
        """f32[wanted, H, W, C], having asked (and booked) about at most ``most`` images.

        Raises:
          Inconclusive: too many of them are of an excluded class already.
          DataError: the source has no more.
        """
        kept: list[np.ndarray] = []
        have, asked = 0, 0
        while have < wanted:
            more = min(wanted - have, most - asked)
            if more <= 0 or asked > 20 * wanted:
                raise Inconclusive(
                    f"to this model only {have} of {asked} probes are not already of class "
                    f"{', '.join(map(str, self._excluded))}: give other `probes`, or a larger "
                    "`budget`."
                )
            images = np.asarray(self._source.draw(self._next, more))
            answers = self._labels(images)
            fit = np.all(answers[:, None] != self._excluded, -1)
            self._turned_away.append((images[~fit], answers[~fit]))
            images = images[fit]
            self._next, asked = self._next + more, asked + more
            kept, have = [*kept, images], have + images.shape[0]
        return jnp.asarray(np.concatenate(kept))

    def turned_away(self, target: int) -> Array:
        """f32[k, H, W, C]: the images met so far that the model gives class ``target``."""
        met = [images[answers == target] for images, answers in self._turned_away]
        return jnp.asarray(np.concatenate(met)) if met else self._source.draw(0, 0)
