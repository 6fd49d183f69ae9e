"""3x3 convolutions of each channel by itself, with their gradients.

XLA has them as convolutions in groups, which a CPU works through number by number: a hundred times
slower than nine shifted images, each times its weights, added up. Its own gradients of those sums
are slow as well, so they are written out.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from restore_jax.models.winograd import chunks

Array = jax.Array


class DepthwiseConv(nnx.Module):
    """A 3x3 convolution of each channel, zeros around: f32[b, H, W, c] to [b, H/s, W/s, c].

    Its kernel is f32[3, 3, 1, c], its bias, if any, f32[c]; s is 1 or 2, and sizes are rounded up.
    """

    def __init__(self, channels: int, *, stride: int, bias: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        init = nnx.initializers.he_normal()
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, 1, channels)))
        self.bias = nnx.data(nnx.Param(jnp.zeros(channels)) if bias else None)
        self.stride = stride
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        """See the class."""
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if jax.default_backend() == "cpu":
            x = convolve(x, kernel, self.stride)
        else:
            x = in_groups(x, kernel, self.stride)
        return x if self.bias is None else x + self.bias[...].astype(self.dtype)


def in_groups(x: Array, kernel: Array, stride: int) -> Array:
    """What `convolve` gives, as XLA's own convolution."""
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1],
    )  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: Array, kernel: Array, stride: int) -> Array:
    """Images [b, H, W, c] with a kernel [3, 3, 1, c], zeros around.

    Returns:
      [b, ceil(H / stride), ceil(W / stride), c], stride 1 or 2.
    """
    shifted = _shifted(x, stride)
    return sum((image * kernel[n // 3, n % 3, 0] for n, image in enumerate(shifted[1:], 1)),
               shifted[0] * kernel[0, 0, 0])  # fmt: skip


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    if stride == 1:
        of_images = convolve(gradient, jnp.flip(kernel, (0, 1)), 1)
    else:
        of_images = _strided_image_gradient(gradient, kernel, x.shape[1:3])
    return of_images, _kernel_gradient(x, gradient, stride)


convolve.defvjp(_forward, _backward)


def _shifted(x: Array, stride: int) -> list[Array]:
    """The nine [b, H/s, W/s, c] that the nine weights are multiplied with, row by row."""
    rows, cols = (-(-side // stride) for side in x.shape[1:3])
    down, right = stride * (rows - 1) + 1, stride * (cols - 1) + 1
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [x[:, i : i + down : stride, j : j + right : stride] for i in range(3) for j in range(3)]


def _strided_image_gradient(gradient: Array, kernel: Array, size: tuple[int, ...]) -> Array:
    """What images [b, H, W, c] of that size get, at stride 2."""
    b, rows, cols, channels = gradient.shape
    gradient = jnp.pad(gradient, ((0, 0), (0, 1), (0, 1), (0, 0)))
    # An even row is the middle of one output; an odd one lies below one and above the next.
    shares = (((0, 1),), ((0, 2), (1, 0)))

    def quarter(down: int, right: int) -> Array:
        terms = [
            gradient[:, r : r + rows, c : c + cols] * kernel[i, j, 0]
            for r, i in shares[down]
            for c, j in shares[right]
        ]
        return sum(terms[1:], terms[0])

    both = [jnp.stack([quarter(down, right) for right in (0, 1)], 3) for down in (0, 1)]
    whole = jnp.stack(both, 2).reshape(b, 2 * rows, 2 * cols, channels)
    return whole[:, : size[0], : size[1]]


def _kernel_gradient(x: Array, gradient: Array, stride: int) -> Array:
    """What [3, 3, 1, c] gets, from images [b, H, W, c] and [b, H/s, W/s, c]."""
    channels = x.shape[-1]

    def add(total: Array, some: tuple[Array, Array]) -> tuple[Array, None]:
        x, gradient = some
        products = [(image * gradient).reshape(-1, channels) for image in _shifted(x, stride)]
        # A product with ones is a sum that a CPU does fast.
        ones = jnp.ones((1, len(products[0])), x.dtype)
        return total + jnp.concatenate([ones @ product for product in products]), None

    total, _ = lax.scan(add, jnp.zeros((9, channels), x.dtype), (chunks(x), chunks(gradient)))
    return total.reshape(3, 3, 1, channels)
