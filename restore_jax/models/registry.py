"""Networks by name, each as a handful of pure functions."""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from restore_jax.errors import InputError
from restore_jax.models import winograd
from restore_jax.models.layers import Params, fold_norms, whitening_kernel
from restore_jax.models.mobilenet import STAGES, MobileNet
from restore_jax.models.resnet import PooledResNet, ResNet
from restore_jax.models.vit import small_vit
from restore_jax.splitting.types import Tree

Array = jax.Array
Made = TypeVar("Made")

_BUILDERS: dict[str, Callable[..., nnx.Module]] = {
    "resnet8": lambda **kw: PooledResNet((48, 160, 240), **kw),
    "resnet8_narrow": lambda **kw: PooledResNet((16, 32, 48), mean=True, **kw),
    "resnet8_mean": lambda **kw: PooledResNet((24, 48, 64), mean=True, **kw),
    "resnet8_wide_mean": lambda **kw: PooledResNet((48, 160, 240), mean=True, **kw),
    "resnet8_small": lambda **kw: PooledResNet((24, 48, 64), **kw),
    "resnet20": lambda **kw: ResNet((16, 32, 64), 3, **kw),
    "resnet18": lambda **kw: ResNet((64, 128, 256, 512), 2, **kw),
    "mobilenet": lambda **kw: MobileNet(16, STAGES, 320, **kw),
    "vit_patch4": lambda **kw: small_vit(4, **kw),
    "vit_patch16": lambda **kw: small_vit(16, **kw),
}
_SIDES = {"vit_patch4": 4, "vit_patch16": 16}
"""What the sides of images must be multiples of."""
NETWORKS = tuple(_BUILDERS)


class Network(NamedTuple):
    """One architecture as pure functions over nested dicts of arrays.

    Images are f32[b, H, W, C] in [0, 1]; normalisation is part of the network. Logits
    are f32[b, K] whatever the dtype of the arithmetic inside.

    Attributes:
      name: the architecture.
      image_shape: (H, W, C).
      num_classes: K.
      init: ``(key) -> (params, batch_stats)``.
      fit_stem: ``(batch_stats, images) -> batch_stats``: sets what the network takes from
        the training images before training (a whitened stem); else the identity.
      apply: ``(params, batch_stats, images) -> logits`` with the running statistics.
      apply_train: ``(params, batch_stats, images) -> (logits, batch_stats)`` with the
        batch's statistics, and the running ones updated.
      fold: ``(params, batch_stats) -> (params, batch_stats)`` for `apply_folded`: batch
        norm folded into the convolutions.
      apply_folded: ``(folded, images) -> logits``; equals `apply` up to rounding.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    init: Callable[[Array], tuple[Params, Params]]
    fit_stem: Callable[[Params, Array], Params]
    apply: Callable[[Params, Params, Array], Array]
    apply_train: Callable[[Params, Params, Array], tuple[Array, Params]]
    fold: Callable[[Params, Params], tuple[Params, Params]]
    apply_folded: Callable[[tuple[Params, Params], Array], Array]


def make_network(
    name: str,
    *,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    mean: tuple[float, ...] = (0.5,),
    std: tuple[float, ...] = (0.25,),
    dtype: DTypeLike = jnp.float32,
) -> Network:
    """Builds a network.

    Args:
      name: one of `NETWORKS`.
      num_classes: K >= 2.
      image_shape: (H, W, C), H and W at least 8, and multiples of the patch of a ``vit_``.
      mean, std: per channel (or one for all), in units of the [0, 1] pixel.
      dtype: of the arithmetic; parameters and logits stay f32. Products of float32 are float32
        on every device.

    Raises:
      InputError: an unknown name or an unusable shape.

    >>> make_network("resnet8_small", num_classes=5).image_shape
    (32, 32, 3)
    """
    if name not in _BUILDERS:
        raise InputError(f"unknown architecture {name!r}: it may be {', '.join(NETWORKS)}.")
    height, width, channels = image_shape
    if min(height, width) < 8 or num_classes < 2:
        raise InputError(
            f"{name} needs images of at least 8x8 and 2 classes, not {image_shape} and "
            f"{num_classes}."
        )
    side = _SIDES.get(name, 1)
    if height % side or width % side:
        raise InputError(
            f"{name} needs images whose sides are multiples of {side}, not {height}x{width}."
        )
    return _made(
        name, num_classes, (height, width, channels), tuple(mean), tuple(std), jnp.dtype(dtype)
    )


@functools.lru_cache(maxsize=32)
def _made(
    name: str,
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: np.dtype,
) -> Network:
    """See `make_network`; the same each time, so that programs made of it serve again."""
    channels = image_shape[2]
    # One number for each channel, or for all of them.
    shift, scale = (np.asarray(each, np.float32).reshape(1, 1, 1, -1) for each in (mean, std))

    def normalise(images: Array) -> Array:
        return ((images - shift) / scale).astype(dtype)

    def build(folded: bool, key: Array) -> nnx.Module:
        return _BUILDERS[name](
            channels=channels,
            num_classes=num_classes,
            folded=folded,
            dtype=dtype,
            rngs=nnx.Rngs(key),
        )

    def split(module: object) -> tuple[nnx.GraphDef, Params, Params]:
        graph, *states = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
        return graph, nnx.to_pure_dict(states[0]), nnx.to_pure_dict(states[1])

    @functools.cache
    def built(folded: bool, *here: str | float) -> tuple[nnx.GraphDef, *tuple[nnx.State, ...]]:
        del here
        module = nnx.eval_shape(lambda: build(folded, jax.random.key(0)))
        graph, *states = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
        return graph, *states

    def structure(folded: bool) -> tuple[nnx.GraphDef, nnx.State, nnx.State, nnx.State]:
        # Building takes longer than tracing; which layers there are depends on where they run.
        graph, *states = built(folded, jax.default_backend(), winograd.FEWEST)
        params, stats, rest = (jax.tree.map(lambda leaf: leaf, state) for state in states)
        return graph, params, stats, rest

    def merge(folded: bool, params: Params, stats: Params) -> Callable[[Array, bool], Array]:
        graph, params_state, stats_state, rest = structure(folded)
        nnx.replace_by_pure_dict(params_state, params)
        nnx.replace_by_pure_dict(stats_state, stats)
        return nnx.merge(graph, params_state, stats_state, rest)

    def exact(function: Callable[..., Made]) -> Callable[..., Made]:
        """Of a network in float32, whose products a GPU would otherwise round to 10 bits (TF32)."""

        @functools.wraps(function)
        def called(*args: Tree) -> Made:
            if dtype != jnp.float32 or jax.default_backend() == "cpu":
                return function(*args)
            with jax.default_matmul_precision("highest"):
                return function(*args)

        return called

    def init(key: Array) -> tuple[Params, Params]:
        _, params, stats = split(build(False, key))
        return params, stats

    def fit_stem(batch_stats: Params, images: Array) -> Params:
        if "kernel" not in batch_stats.get("stem", {}):
            return batch_stats
        kernel = whitening_kernel(normalise(images).astype(jnp.float32))
        return batch_stats | {"stem": {"kernel": kernel}}

    @exact
    def apply(params: Params, batch_stats: Params, images: Array) -> Array:
        return merge(False, params, batch_stats)(normalise(images), False)

    @exact
    def apply_train(params: Params, batch_stats: Params, images: Array) -> tuple[Array, Params]:
        module = merge(False, params, batch_stats)
        logits = module(normalise(images), True)
        return logits, split(module)[2]

    def fold(params: Params, batch_stats: Params) -> tuple[Params, Params]:
        stem = batch_stats.get("stem", {})
        kept = {"stem": stem} if "kernel" in stem else {}
        like = nnx.to_pure_dict(structure(True)[1])
        return fold_norms(params, batch_stats, like), kept

    @exact
    def apply_folded(folded: tuple[Params, Params], images: Array) -> Array:
        return merge(True, *folded)(normalise(images), False)

    return Network(
        name, image_shape, num_classes, init, fit_stem, apply, apply_train, fold, apply_folded
    )
