"""A small vision transformer as Flax NNX modules.

The plain form of Beyer, Zhai and Kolesnikov 2022 (arXiv 2205.01580): fixed sines and cosines say
where a patch lies, norms come before attention and before the two-layer network, and the mean over
patches is classified. No parameter depends on the size of images.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

Array = jax.Array
NORM_EPSILON = 1e-6
HEADS = 4
"""Of each attention of a `small_vit`."""


class Attention(nnx.Module):
    """Attention of every patch to all, in several heads: f32[b, T, width] to the same."""

    def __init__(self, width: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.ask = nnx.Linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.tell = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.heads = heads

    def __call__(self, x: Array) -> Array:
        """See the class."""
        batch, patches, width = x.shape
        shape = (batch, patches, 3, self.heads, width // self.heads)
        query, key, value = jnp.moveaxis(self.ask(x).reshape(shape), 2, 0)
        return self.tell(jax.nn.dot_product_attention(query, key, value).reshape(x.shape))


class Encoder(nnx.Module):
    """Attention, then two layers on each patch by itself, each added to what there was."""

    def __init__(self, width: int, heads: int, inner: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        def norm() -> nnx.LayerNorm:
            return nnx.LayerNorm(width, epsilon=NORM_EPSILON, dtype=dtype, rngs=rngs)

        self.before_attention = norm()
        self.attention = Attention(width, heads, dtype=dtype, rngs=rngs)
        self.before_layers = norm()
        self.first = nnx.Linear(width, inner, dtype=dtype, rngs=rngs)
        self.second = nnx.Linear(inner, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """f32[b, T, width] to the same."""
        x = x + self.attention(self.before_attention(x))
        inner = nnx.gelu(self.first(self.before_layers(x)), approximate=False)
        return x + self.second(inner)


class ViT(nnx.Module):
    """Square patches as vectors, encoders, the mean over patches, linear.

    Args:
      patch: pixels a side of a patch; images' sides are multiples of it.
      width: length of a patch's vector, a multiple of 4 and of ``heads``.
      depth: how many encoders.
      heads: of each attention.
      inner: width between the two layers.
    """

    def __init__(
        self,
        patch: int,
        *,
        width: int,
        depth: int,
        heads: int,
        inner: int,
        channels: int,
        num_classes: int,
        folded: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        del folded  # there is no batch norm to fold
        self.patch = patch
        self.embed = nnx.Linear(patch * patch * channels, width, dtype=dtype, rngs=rngs)
        self.encoders = nnx.List(
            [Encoder(width, heads, inner, dtype=dtype, rngs=rngs) for _ in range(depth)]
        )
        self.before_head = nnx.LayerNorm(width, epsilon=NORM_EPSILON, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x: Array, train: bool) -> Array:
        """Normalised images [b, H, W, channels] to logits f32[b, num_classes]."""
        del train  # nothing here is otherwise in training
        batch, height, width, channels = x.shape
        rows, cols, side = height // self.patch, width // self.patch, self.patch
        x = x.reshape(batch, rows, side, cols, side, channels).swapaxes(2, 3)
        x = self.embed(x.reshape(batch, rows * cols, side * side * channels))
        x = x + jnp.asarray(positions(rows, cols, x.shape[-1]), x.dtype)
        for encoder in self.encoders:
            x = encoder(x)
        return self.head(jnp.mean(self.before_head(x), 1).astype(jnp.float32))


def small_vit(patch: int, **shared: Any) -> ViT:
    """The networks "vit_patch4" and "vit_patch16"."""
    return ViT(patch, width=64, depth=6, heads=HEADS, inner=128, **shared)


def positions(rows: int, cols: int, width: int) -> np.ndarray:
    """Where each patch lies, f32[rows * cols, width]: sines and cosines of its row and column.

    Their wavelengths go from 2 pi to 20,000 pi patches, a quarter of the width each.

    >>> positions(2, 3, 8).shape
    (6, 8)
    """
    frequencies = 10_000.0 ** -(np.arange(width // 4) / max(1, width // 4 - 1))
    row, col = (place.reshape(-1, 1) * frequencies for place in np.mgrid[:rows, :cols])
    waves = [np.sin(col), np.cos(col), np.sin(row), np.cos(row)]
    return np.concatenate(waves, 1).astype(np.float32)
