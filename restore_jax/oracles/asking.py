"""Asking a model about images, outside the compiled search."""

import numpy as np
from jax.typing import ArrayLike

from restore_jax.oracles.types import NOBODY, Books, Images, Oracle


class Asker:
    """Asks an oracle about any number of images; what is asked is not counted here.

    >>> import jax.numpy as jnp
    >>> from restore_jax import open_model
    >>> bright = lambda images: jnp.stack([1 - images.mean((1, 2, 3)), images.mean((1, 2, 3))], -1)
    >>> Asker(open_model(bright)).labels(np.ones((2, 32, 32, 3), np.float32))
    array([1, 1], dtype=int32)
    """

    def __init__(self, oracle: Oracle, books: Books = NOBODY):
        """The books pay for images that must be sent again, and keep answers."""
        self._oracle, self._books = oracle, books

    def labels(self, images: Images) -> np.ndarray:
        """int32[b], the predicted classes of images f32[b, H, W, C] in [0, 1]."""
        return self._read(images, np.int32(0))[0]

    def margins(self, images: Images, target: ArrayLike) -> np.ndarray:
        """f32[b], the `margins` of images f32[b, H, W, C] for class target int32[]."""
        return self._read(images, target)[1]

    def _read(self, images: Images, target: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        images = np.asarray(images)
        if not len(images):
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        return self._oracle.read(images, target, self._books)
