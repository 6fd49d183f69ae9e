"""CIFAR residual networks (He et al. 2016) as Flax NNX modules."""

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from restore_jax.models.layers import ConvNorm, Form, WhitenedStem

Array = jax.Array


class Block(nnx.Module):
    """The basic block: two 3x3 convolutions beside a shortcut."""

    def __init__(self, cin: int, cout: int, *, stride: int, **shared: Unpack[Form]):
        self.first = ConvNorm(cin, cout, 3, stride=stride, **shared)
        self.second = ConvNorm(cout, cout, 3, **shared)
        plain = stride == 1 and cin == cout
        self.shortcut = nnx.data(None if plain else ConvNorm(cin, cout, 1, stride=stride, **shared))

    def __call__(self, x: Array, train: bool) -> Array:
        """[b, H, W, cin] to [b, H/stride, W/stride, cout]."""
        shortcut = x if self.shortcut is None else self.shortcut(x, train)
        x = nnx.relu(self.first(x, train))
        return nnx.relu(self.second(x, train) + shortcut)


class ResNet(nnx.Module):
    """A 3x3 stem, stages of basic blocks with a stride of 2 between them, mean, linear."""

    def __init__(
        self,
        widths: Sequence[int],
        blocks: int,
        *,
        channels: int,
        num_classes: int,
        folded: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        shared: Form = {"folded": folded, "dtype": dtype, "rngs": rngs}
        self.stem = ConvNorm(channels, widths[0], 3, **shared)
        stages, cin = [], widths[0]
        for stage, width in enumerate(widths):
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                stages.append(Block(cin, width, stride=stride, **shared))
                cin = width
        self.stages = nnx.List(stages)
        self.head = nnx.Linear(cin, num_classes, rngs=rngs)

    def __call__(self, x: Array, train: bool) -> Array:
        """Normalised images [b, H, W, channels] to logits f32[b, num_classes]."""
        x = nnx.relu(self.stem(x, train))
        for block in self.stages:
            x = block(x, train)
        return self.head(jnp.mean(x, (1, 2)).astype(jnp.float32))


class PooledStage(nnx.Module):
    """A 3x3 convolution with a 2x2 max-pool, then a residual 3x3 convolution."""

    def __init__(self, cin: int, cout: int, **shared: Unpack[Form]):
        self.first = ConvNorm(cin, cout, 3, pool=True, **shared)
        self.second = ConvNorm(cout, cout, 3, **shared)

    def __call__(self, x: Array, train: bool) -> Array:
        """[b, H, W, cin] to [b, H//2, W//2, cout]."""
        x = nnx.relu(self.first(x, train))
        return x + nnx.relu(self.second(x, train))


class PooledResNet(nnx.Module):
    """A whitened stem, three pooled stages, the maximum (or mean) over places, linear.

    Made for short training on few cores: it spends its arithmetic where channels are
    many and the grid is small, which is where a CPU's convolutions are fast, and it has
    no strided convolution, whose gradients are slow there.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        mean: bool = False,
        channels: int,
        num_classes: int,
        folded: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.mean = mean
        shared: Form = {"folded": folded, "dtype": dtype, "rngs": rngs}
        self.stem = WhitenedStem(channels, dtype=dtype, rngs=rngs)
        stages, cin = [], 8 * channels
        for width in widths:
            stages.append(PooledStage(cin, width, **shared))
            cin = width
        self.stages = nnx.List(stages)
        self.head = nnx.Linear(cin, num_classes, use_bias=False, rngs=rngs)

    def __call__(self, x: Array, train: bool) -> Array:
        """Normalised images [b, H, W, channels] to logits f32[b, num_classes]."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x, train)
        if self.mean:
            return self.head(jnp.mean(x, (1, 2)).astype(jnp.float32))
        # The maximum over places of a residual sum is large: unscaled, the first logits
        # are tens, and a short training spends its first epochs on unlearning them.
        return self.head(0.125 * jnp.max(x, (1, 2)).astype(jnp.float32))
