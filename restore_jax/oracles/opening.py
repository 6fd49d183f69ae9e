"""Opens a model by its spec. One line here per kind of model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from restore_jax import checkpoints
from restore_jax.oracles.types import ACCESSES, ModelError, Oracle

Array = jax.Array


def open_model(
    spec: str | Path | Callable[[Array], Array] | Oracle,
    access: str = "logits",
    *,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    class_names: Sequence[str] | None = None,
) -> Oracle:
    """Opens a model as a black box.

    Args:
      spec: "shipped" (the model in the package), a checkpoint folder, or a JAX function
        ``images f32[b, H, W, C] in [0, 1] -> outputs`` that already gives what ``access``
        says. An `Oracle` is given back as it is.
      access: "logits", "probabilities" or "labels": what the model is asked for.
      image_shape, class_names: of a function; a checkpoint knows its own.

    Raises:
      ModelError: unknown access, or a function that JAX cannot trace or that answers in
        another shape.
      CheckpointError: the folder is not a usable checkpoint.
    """
    if isinstance(spec, Oracle):
        return spec
    if access not in ACCESSES:
        raise ModelError(f"unknown access {access!r}: it may be {', '.join(ACCESSES)}.")
    if callable(spec):
        return _function(spec, access, image_shape, class_names)
    if str(spec) == "shipped":
        return _checkpoint("shipped", checkpoints.SHIPPED, access)
    scheme = str(spec).split(":", 1)[0]
    if ":" in str(spec) and scheme.isalpha() and len(scheme) > 1 and not Path(spec).exists():
        raise ModelError(
            f'this release does not open {scheme}: models; give "shipped" or a checkpoint folder.'
        )
    return _checkpoint(str(spec), Path(spec), access)


def _checkpoint(name: str, folder: Path, access: str) -> Oracle:
    dtype = jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32
    checkpoint = checkpoints.load(folder, dtype)
    apply_folded = checkpoint.network.apply_folded

    def answer(weights: Any, images: Array) -> Array:
        logits = apply_folded(weights, images)
        if access == "probabilities":
            return jax.nn.softmax(logits, -1)
        return logits if access == "logits" else jnp.argmax(logits, -1).astype(jnp.int32)

    return Oracle(
        name=name,
        access=access,
        image_shape=checkpoint.network.image_shape,
        class_names=tuple(checkpoint.metadata["class_names"]),
        weights=checkpoint.network.fold(checkpoint.params, checkpoint.batch_stats),
        answer=answer,
        metadata=checkpoint.metadata,
    )


def _function(
    function: Callable[[Array], Array],
    access: str,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str] | None,
) -> Oracle:
    name = getattr(function, "__name__", type(function).__name__)
    try:
        out = jax.eval_shape(function, jax.ShapeDtypeStruct((2, *image_shape), jnp.float32))
    except Exception as error:
        raise ModelError(
            f"{name} cannot be traced by JAX on images of shape (2, "
            f"{', '.join(map(str, image_shape))}): {str(error).splitlines()[0]}"
        ) from error
    wanted = "(b,) of integers" if access == "labels" else "(b, K >= 2) of floats"
    shape: tuple[int, ...] = tuple(getattr(out, "shape", ()))
    dtype: Any = getattr(out, "dtype", None)
    if access == "labels":
        right = shape == (2,) and jnp.issubdtype(dtype, jnp.integer)
    else:
        right = len(shape) == 2 and shape[0] == 2 and shape[1] >= 2
        right = right and jnp.issubdtype(dtype, jnp.floating)
    if not right:
        raise ModelError(f"{name} must return {access} of shape {wanted}, not {shape} of {dtype}.")
    if access == "labels" and class_names is None:
        raise ModelError("a function that returns labels does not say how many: give class_names.")
    names = tuple(class_names or [str(k) for k in range(shape[1])])
    if access != "labels" and len(names) != shape[1]:
        raise ModelError(f"{name} has {shape[1]} classes, but class_names holds {len(names)}.")

    def answer(weights: Any, images: Array) -> Array:
        del weights
        outputs = function(images)
        return outputs.astype(jnp.int32 if access == "labels" else jnp.float32)

    return Oracle(name, access, image_shape, names, (), answer, {})


def class_index(oracle: Oracle, target: str | int) -> int:
    """The class that a user named, by name or by number.

    Raises:
      ModelError: there is no such class.
    """
    names = [name.lower() for name in oracle.class_names]
    if str(target).lower() in names:
        return names.index(str(target).lower())
    try:
        index = int(target)
    except ValueError:
        index = -1
    if not 0 <= index < len(names):
        shown = ", ".join(f"{k} {name}" for k, name in enumerate(oracle.class_names[:20]))
        more = ", ..." if len(names) > 20 else ""
        raise ModelError(f"{oracle.name} has no class {target!r}: it may be {shown}{more}.")
    return index
