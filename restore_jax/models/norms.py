"""Batch norm that trains fast on a CPU (Ioffe & Szegedy 2015, arXiv 1502.03167).

XLA sums over all axes but the last number by number there, and derives such sums once more for the
gradient. Here the gradient is written out: it takes two sums, as the norm itself does, and each is
a product with a row of ones, over so few images that they stay in the cache.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from restore_jax.models import winograd

Array = jax.Array
AT_ONCE = 5 * 2**14
"""Numbers that are summed at a time, about."""


class TrainedNorm(nnx.BatchNorm):
    """Batch norm over the last axis of images [b, H, W, channels], made as its base class is."""

    def __call__(
        self, x: Array, use_running_average: bool | None = False, *, mask: Array | None = None
    ) -> Array:
        """By the running statistics, or by the batch's, which then move the running ones."""
        assert self.scale is not None
        assert self.bias is not None
        assert mask is None
        scale, bias = self.scale[...], self.bias[...]
        dtype = self.dtype or x.dtype
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # sums of fewer bits would be none
        if use_running_average:
            factor = lax.rsqrt(self.var[...] + self.epsilon) * scale
            return ((x - self.mean[...]) * factor + bias).astype(dtype)
        normed, mean, var = normalise(x, scale, bias, self.epsilon)
        kept = self.momentum
        self.mean[...] = kept * self.mean[...] + (1 - kept) * lax.stop_gradient(mean)
        self.var[...] = kept * self.var[...] + (1 - kept) * lax.stop_gradient(var)
        return normed.astype(dtype)


def normalise(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """Images [b, H, W, c] with mean ``bias`` and standard deviation ``scale``, both [c].

    Returns:
      what they become, and their mean and variance before, [c], which have no gradient.

    >>> import jax
    >>> images = jax.random.normal(jax.random.key(0), (4, 8, 8, 2)) * 3 + 1
    >>> normed, mean, var = normalise(images, jnp.ones(2), jnp.zeros(2), 1e-5)
    >>> bool(jnp.allclose(normed.mean((0, 1, 2)), 0, atol=1e-5))
    True
    """
    mean, var = _moments(lax.stop_gradient(x))
    return _normalised(x, scale, bias, mean, lax.rsqrt(var + epsilon)), mean, var


@jax.custom_vjp
def _normalised(x: Array, scale: Array, bias: Array, mean: Array, inverse: Array) -> Array:
    """``(x - mean) * inverse * scale + bias``; mean and inverse are the batch's own."""
    factor = inverse * scale
    return x * factor + (bias - mean * factor)


def _forward(
    x: Array, scale: Array, bias: Array, mean: Array, inverse: Array
) -> tuple[Array, tuple[Array, ...]]:
    return _normalised(x, scale, bias, mean, inverse), (x, scale, mean, inverse)


def _backward(
    residuals: tuple[Array, ...], gradient: Array
) -> tuple[Array, Array, Array, None, None]:
    x, scale, mean, inverse = residuals
    number = x.size // x.shape[-1]
    of_bias, product = _sums(lambda gradient, x: (gradient, gradient * x), gradient, x)
    of_scale = inverse * (product - mean * of_bias)
    # Mean and variance move with the images: what is left has no mean and no share along them.
    factor = inverse * scale
    along = -factor * inverse * of_scale / number
    of_images = gradient * factor + x * along - (factor * of_bias / number + mean * along)
    return of_images, of_scale, of_bias, None, None


_normalised.defvjp(_forward, _backward)


def _moments(x: Array) -> tuple[Array, Array]:
    """Mean and variance [c] of [b, H, W, c]."""
    number = x.size // x.shape[-1]
    total, squares = _sums(lambda x: (x, x * x), x)
    mean = total / number
    return mean, jnp.maximum(squares / number - mean * mean, 0.0)


def _sums(parts: Callable[..., tuple[Array, Array]], *images: Array) -> tuple[Array, Array]:
    """The sums [c] of what ``parts`` makes of images [b, H, W, c], zero where they are."""
    channels = images[0].shape[-1]
    most = max(2, AT_ONCE // images[0][0].size)

    def total(numbers: Array) -> Array:
        wide = numbers.reshape(-1, numbers.shape[-2] * channels)
        columns = jnp.ones((1, len(wide)), wide.dtype) @ wide
        return jnp.sum(columns.reshape(-1, channels), 0)

    def add(sums: tuple[Array, Array], some: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        one, other = parts(*some)
        return (sums[0] + total(one), sums[1] + total(other)), None

    chunks = tuple(winograd.chunks(each, most) for each in images)
    nothing = jnp.zeros(channels, images[0].dtype)
    sums, _ = lax.scan(add, (nothing, nothing), chunks)
    return sums
