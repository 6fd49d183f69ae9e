"""3x3 convolutions with fewer multiplications (Lavin & Gray 2016, arXiv 1509.09308).

Two by two outputs of one filter take 36 multiplications; transformed first, 16. The transforms are
sums, and what is left in between are sixteen matrix products. That pays where channels are many, on
processors whose convolutions are limited by arithmetic: a CPU.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

Array = jax.Array
FEWEST: float = 48
"""Channels, in and out, from which on it is faster than XLA's own convolution."""
_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)


def pays(cin: int, cout: int, kernel_size: int, stride: int) -> bool:
    """Whether a convolution is better done in this way, here."""
    return (
        jax.default_backend() == "cpu"
        and (kernel_size, stride) == (3, 1)
        and min(cin, cout) >= FEWEST
    )


class WinogradConv(nnx.Module):
    """A 3x3 convolution of stride 1 with zeros around: f32[b, H, W, cin] to [b, H, W, cout].

    Its kernel is `transformed`: f32[16, cin, cout].
    """

    def __init__(self, cin: int, cout: int, *, dtype: Any):
        self.kernel = nnx.Param(jnp.zeros((16, cin, cout)))
        self.bias = nnx.Param(jnp.zeros(cout))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        """See the class."""
        kernel = self.kernel[...].astype(self.dtype)
        return convolve(x.astype(self.dtype), kernel) + self.bias[...].astype(self.dtype)


def transformed(kernel: Array) -> Array:
    """A kernel f32[3, 3, cin, cout] as f32[16, cin, cout]."""
    spread = jnp.einsum("ai,bj,ijkl->abkl", _KERNEL, _KERNEL, kernel)
    return spread.reshape(16, *kernel.shape[2:])


def plain(kernel: Array) -> Array:
    """The inverse of `transformed`, up to rounding."""
    back = np.linalg.pinv(_KERNEL)
    spread = kernel.reshape(4, 4, *kernel.shape[1:])
    return jnp.einsum("ia,jb,abkl->ijkl", back, back, spread)


def convolve(x: Array, kernel: Array) -> Array:
    """Images [b, H, W, cin] with a `transformed` kernel [16, cin, cout]: [b, H, W, cout]."""
    b, height, width, cin = x.shape
    rows, cols = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (1, 2 * rows - height + 1), (1, 2 * cols - width + 1), (0, 0)))
    pixels = [
        [x[:, i : i + 2 * rows : 2, j : j + 2 * cols : 2] for j in range(4)] for i in range(4)
    ]
    across = [_spread([pixels[i][j] for i in range(4)]) for j in range(4)]
    tiles = [tile for i in range(4) for tile in _spread([across[j][i] for j in range(4)])]
    stacked = jnp.stack(tiles).reshape(16, b * rows * cols, cin)
    products = lax.dot_general(stacked, kernel, (((2,), (1,)), ((0,), (0,))))
    products = products.reshape(4, 4, b, rows, cols, -1)
    down = [_gather([products[i, j] for i in range(4)]) for j in range(4)]
    both = [_gather([down[j][p] for j in range(4)]) for p in range(2)]
    out = jnp.stack([jnp.stack(pair, 3) for pair in both], 2)
    return out.reshape(b, 2 * rows, 2 * cols, -1)[:, :height, :width]


def _spread(four: list[Array]) -> list[Array]:
    """What four neighbours contribute, on the way in."""
    a, b, c, d = four
    return [a - c, b + c, c - b, b - d]


def _gather(four: list[Array]) -> list[Array]:
    """Two outputs of four products, on the way out."""
    a, b, c, d = four
    return [a + b + c, b - c - d]
