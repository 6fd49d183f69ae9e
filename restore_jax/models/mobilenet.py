"""A small network of inverted residuals (Sandler et al. 2018, MobileNetV2) as Flax NNX modules."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from restore_jax.models.layers import ConvNorm, Form

Array = jax.Array


class Stage(NamedTuple):
    """Blocks of one width.

    Attributes:
      expansion: how many times as many channels a block has inside.
      width: channels between blocks.
      blocks: how many; at least 1.
      stride: of the first, 1 or 2.
    """

    expansion: int
    width: int
    blocks: int
    stride: int

    @property
    def strides(self) -> list[int]:
        """Of each block."""
        return [self.stride] + [1] * (self.blocks - 1)


STAGES = (Stage(1, 16, 1, 1), Stage(4, 24, 2, 2), Stage(4, 40, 2, 2), Stage(4, 80, 2, 2))
"""Those of the network "mobilenet"."""


class InvertedResidual(nnx.Module):
    """A 1x1 convolution to many channels, a 3x3 one of each by itself, a 1x1 one back to few.

    There is no relu6 after the last, and a shortcut where input and output are alike.
    """

    def __init__(self, cin: int, cout: int, *, expansion: int, stride: int, **shared: Unpack[Form]):
        inner = expansion * cin
        self.widen = nnx.data(None if expansion == 1 else ConvNorm(cin, inner, 1, **shared))
        self.each = ConvNorm(inner, inner, 3, stride=stride, depthwise=True, **shared)
        self.narrow = ConvNorm(inner, cout, 1, **shared)
        self.residual = stride == 1 and cin == cout

    def __call__(self, x: Array, train: bool) -> Array:
        """[b, H, W, cin] to [b, H/stride, W/stride, cout]."""
        inner = x if self.widen is None else nnx.relu6(self.widen(x, train))
        inner = self.narrow(nnx.relu6(self.each(inner, train)), train)
        return x + inner if self.residual else inner


class MobileNet(nnx.Module):
    """A 3x3 stem, stages of inverted residuals, a last 1x1 convolution, mean, linear."""

    def __init__(
        self,
        stem: int,
        stages: Sequence[Stage],
        last: int,
        *,
        channels: int,
        num_classes: int,
        folded: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        shared: Form = {"folded": folded, "dtype": dtype, "rngs": rngs}
        self.stem = ConvNorm(channels, stem, 3, **shared)
        blocks, cin = [], stem
        for stage in stages:
            for stride in stage.strides:
                blocks.append(
                    InvertedResidual(
                        cin, stage.width, expansion=stage.expansion, stride=stride, **shared
                    )
                )
                cin = stage.width
        self.blocks = nnx.List(blocks)
        self.last = ConvNorm(cin, last, 1, **shared)
        self.head = nnx.Linear(last, num_classes, rngs=rngs)

    def __call__(self, x: Array, train: bool) -> Array:
        """Normalised images [b, H, W, channels] to logits f32[b, num_classes]."""
        x = nnx.relu6(self.stem(x, train))
        for block in self.blocks:
            x = block(x, train)
        x = nnx.relu6(self.last(x, train))
        return self.head(jnp.mean(x, (1, 2)).astype(jnp.float32))
