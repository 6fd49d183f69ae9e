"""The layers that the networks are made of, as Flax NNX modules.

A convolution and its batch norm are one module, `ConvNorm`, in one of two forms: as
trained (kernel, scale, bias, running mean and variance), or *folded* for inference
(kernel and bias only; Jacob et al. 2018, section 3.2).
"""

from typing import TypedDict

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from restore_jax.models import winograd
from restore_jax.models.depthwise import DepthwiseConv
from restore_jax.models.norms import TrainedNorm
from restore_jax.splitting.types import Tree

Array = jax.Array
Params = dict[str, Tree]
"""Arrays by name, in dicts of dicts."""
Conv = nnx.Conv | winograd.WinogradConv | winograd.TrainedConv | DepthwiseConv
NORM_EPSILON = 1e-5
NORM_MOMENTUM = 0.9


class Form(TypedDict):
    """What all layers of a network share; see `ConvNorm`."""

    folded: bool
    dtype: DTypeLike
    rngs: nnx.Rngs


class ConvNorm(nnx.Module):
    """Convolution without bias, then batch norm: f32[b, H, W, cin] to [b, H/s, W/s, cout].

    ``depthwise=True`` is a 3x3 convolution of each channel by itself; cin and cout are the same
    then. ``pool=True`` puts a 2x2 max-pool between the two. Folded, the norm's scale goes through
    that pool without its sign, which follows after it: a negative factor would make a
    minimum of the maximum.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel_size: int,
        *,
        stride: int = 1,
        pool: bool = False,
        depthwise: bool = False,
        folded: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if depthwise:
            self.conv: Conv = DepthwiseConv(
                cout, stride=stride, bias=folded, dtype=dtype, rngs=rngs
            )
        elif folded and (kernel_size, stride) == (3, 1) and winograd.pays(cin, cout):
            self.conv = winograd.WinogradConv(cin, cout, dtype=dtype)
        elif not folded and jax.default_backend() == "cpu":
            self.conv = winograd.TrainedConv(
                cin, cout, kernel_size, stride=stride, dtype=dtype, rngs=rngs
            )
        else:
            self.conv = nnx.Conv(
                cin,
                cout,
                (kernel_size, kernel_size),
                strides=stride,
                padding="SAME" if stride == 1 else (kernel_size - 1) // 2,
                use_bias=folded,
                kernel_init=nnx.initializers.he_normal(),
                dtype=dtype,
                rngs=rngs,
            )
        self.pool = pool
        self.sign = nnx.data(nnx.Param(jnp.ones(cout)) if folded and pool else None)
        kind = TrainedNorm if jax.default_backend() == "cpu" else nnx.BatchNorm
        self.norm = nnx.data(
            None
            if folded
            else kind(cout, momentum=NORM_MOMENTUM, epsilon=NORM_EPSILON, dtype=dtype, rngs=rngs)
        )

    def __call__(self, x: Array, train: bool) -> Array:
        """See the class."""
        x = self.conv(x)
        if self.pool:
            x = max_pool(x)
        if self.sign is not None:
            x = x * self.sign[...].astype(x.dtype)
        return x if self.norm is None else self.norm(x, use_running_average=not train)


class WhitenedStem(nnx.Module):
    """A fixed 2x2 convolution that whitens image patches, with a trained bias, then ReLU.

    Its 24 filters (for RGB) are the eigenvectors of the training patches' covariance,
    scaled to unit variance, and their negatives. They are statistics of the data and
    live beside batch norm's (Page 2018, "How to train your ResNet"; Jordan 2024,
    arXiv 2404.00498, section 3.2). Output f32[b, H, W, 8 * channels].
    """

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        patch = 4 * channels
        kernel = nnx.initializers.orthogonal()(rngs.params(), (patch, patch), jnp.float32)
        kernel = jnp.concatenate([kernel, -kernel], 1).reshape(2, 2, channels, 2 * patch)
        self.kernel = nnx.BatchStat(kernel)
        self.bias = nnx.Param(jnp.zeros(2 * patch))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        """See the class."""
        x = lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            (1, 1),
            ((0, 1), (0, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return nnx.relu(x + self.bias[...].astype(self.dtype))


def whitening_kernel(images: Array) -> Array:
    """The stem's kernel f32[2, 2, C, 8 C] for (normalised) images f32[b, H, W, C]."""
    channels = images.shape[-1]
    corners = [images[:, i : i - 1 or None, j : j - 1 or None] for i in (0, 1) for j in (0, 1)]
    corners = [corner[:, : images.shape[1] - 1, : images.shape[2] - 1] for corner in corners]
    patches = jnp.stack(corners, -2).reshape(-1, 4 * channels)
    patches = patches - jnp.mean(patches, 0)
    values, vectors = jnp.linalg.eigh(patches.T @ patches / patches.shape[0])
    vectors = vectors / jnp.sqrt(values + 5e-4)
    return jnp.concatenate([vectors, -vectors], 1).reshape(2, 2, channels, 8 * channels)


@jax.custom_vjp
def max_pool(x: Array) -> Array:
    """2x2 max-pooling of [b, H, W, C]; an odd last row or column is dropped."""
    # XLA's own window is computed number by number on a CPU, two to three times slower.
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = jnp.maximum(x[:, 0:height:2], x[:, 1:height:2])
    return jnp.maximum(x[:, :, 0:width:2], x[:, :, 1:width:2])


def _max_pool_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    y = max_pool(x)
    return y, (x, y)


def _max_pool_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    # XLA's own gradient (select-and-scatter) is several times slower on a CPU. Where two
    # of the four are equal, both receive the gradient.
    x, y = residuals
    height, width = 2 * y.shape[1], 2 * y.shape[2]
    spread = lambda a: jnp.repeat(jnp.repeat(a, 2, 1), 2, 2)  # noqa: E731
    inner = jnp.where(x[:, :height, :width] == spread(y), spread(gradient), 0)
    return (jnp.pad(inner, ((0, 0), (0, x.shape[1] - height), (0, x.shape[2] - width), (0, 0))),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def fold_norms(params: Params, batch_stats: Params, like: Params) -> Params:
    """Folds every batch norm into the convolution before it.

    Args:
      params, batch_stats: nested dicts as trained; a dict with ``conv`` and ``norm`` is a
        `ConvNorm`.
      like: the folded network's parameters, whose values do not matter; a `ConvNorm` with a
        ``sign`` has a pool inside, and a kernel of three axes is that of a `WinogradConv`.

    Returns:
      The nested dict of the folded network's parameters.
    """
    folded: Params = {}
    for name, value in params.items():
        if not isinstance(value, dict):
            folded[name] = value
        elif "norm" in value:
            norm, stats = value["norm"], batch_stats[name]["norm"]
            scale = norm["scale"] / jnp.sqrt(stats["var"] + NORM_EPSILON)
            bias = norm["bias"] - stats["mean"] * scale
            folded[name] = {}
            if "sign" in like[name]:
                sign = jnp.where(scale < 0, -1.0, 1.0)
                folded[name] = {"sign": sign}
                scale, bias = scale * sign, bias * sign
            kernel = value["conv"]["kernel"] * scale
            if len(like[name]["conv"]["kernel"].shape) == 3:
                kernel = winograd.transformed(kernel)
            folded[name]["conv"] = {"kernel": kernel, "bias": bias}
        else:
            folded[name] = fold_norms(value, batch_stats.get(name, {}), like[name])
    return folded
