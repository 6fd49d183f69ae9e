"""Opens a model by its spec."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax import checkpoints
from restore_jax.compilation import in_chunks
from restore_jax.oracles import python
from restore_jax.oracles.answers import HostAnswers, preprocessing
from restore_jax.oracles.formats import FORMATS, Format
from restore_jax.oracles.hosted import HostedOracle
from restore_jax.oracles.options import Description, ModelOptions
from restore_jax.oracles.traced import TracedOracle
from restore_jax.oracles.types import ACCESSES, Model, ModelError, Oracle

Array = jax.Array


def open_model(
    spec: Model,
    access: str | None = None,
    *,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    class_names: Sequence[str] | None = None,
    options: ModelOptions | None = None,
) -> Oracle:
    """Opens a model as a black box.

    Args:
      spec: "shipped" (the model in the package), a checkpoint folder, ``onnx:FILE``,
        ``torch:FILE``, ``keras:FILE``, ``python:MODULE:FUNCTION``, a URL, or a function
        ``images f32[b, H, W, C] in [0, 1] -> outputs`` that already gives what ``access``
        says: of JAX arrays, or if JAX cannot trace it, of NumPy arrays. An `Oracle` is given
        back as it is.
      access: "logits", "probabilities" or "labels": what the model is asked for; None: logits,
        or what a model that is open already is asked for.
      image_shape: of a function; any other model knows its own, or is told in ``options``.
      class_names: of a function, or of a model that was opened before, which then need not be
        asked how many there are.
      options: how a model that is not ours is to be asked.

    Raises:
      ModelError: unknown access, or another than that of a model that is open already; a model
        that cannot be opened, or one that answers in another shape.
      CheckpointError: the folder is not a usable checkpoint.

    >>> import jax.numpy as jnp
    >>> bright = lambda images: jnp.stack([1 - images.mean((1, 2, 3)), images.mean((1, 2, 3))], -1)
    >>> open_model(bright, class_names=("dark", "bright")).num_classes
    2
    """
    if access is not None and access not in ACCESSES:
        raise ModelError(f"unknown access {access!r}: it may be {', '.join(ACCESSES)}.")
    if isinstance(spec, TracedOracle | HostedOracle):
        if access not in (None, spec.access):
            raise ModelError(
                f"{spec.name} was opened for {spec.access}, so it cannot be asked for {access}: "
                "leave out `access`, or open it anew."
            )
        return spec
    access = access or "logits"
    if callable(spec):
        return _function(spec, access, image_shape, class_names)
    if str(spec) == "shipped":
        return _checkpoint("shipped", checkpoints.SHIPPED, access)
    scheme, _, place = str(spec).partition(":")
    if scheme in FORMATS:
        return _open(str(spec), FORMATS[scheme], access, options or ModelOptions(), class_names)
    if place and scheme.isalpha() and len(scheme) > 1 and not Path(str(spec)).exists():
        raise ModelError(
            f'{scheme}: models cannot be opened: give "shipped", a checkpoint folder, or one of '
            f"{', '.join(f'{kind}:' for kind in FORMATS)}."
        )
    if options is not None and options != ModelOptions():
        raise ModelError(
            f"{spec} is a checkpoint and knows itself how it is asked: leave out "
            f"{', '.join(f'`{name}`' for name in options.to_json())}."
        )
    return _checkpoint(str(spec), Path(str(spec)), access)


def _open(
    spec: str,
    entry: Format,
    access: str,
    options: ModelOptions,
    class_names: Sequence[str] | None,
) -> Oracle:
    """Opens a model with the functions of its format's file."""
    module: Any = import_module(entry.module)
    model = module.load(spec if entry.whole_spec else spec.partition(":")[2], options)
    says: Description = module.describe(model, options)
    spec = module.shown(model) if hasattr(module, "shown") else spec
    own_shape = says.image_shape or options.image_shape
    if own_shape is None:
        raise ModelError(
            f"{spec} does not say what images it takes: give `image_shape`, as 32x32x3."
        )
    if options.image_shape not in (None, own_shape):
        raise ModelError(
            f"{spec} takes images of {'x'.join(map(str, own_shape))}: leave out `image_shape`, or "
            "say that."
        )
    prepare = preprocessing(options, own_shape, says.value_range)
    image_shape = (*(options.resize or own_shape[:2]), own_shape[2])
    traced = module.traced(model, options) if hasattr(module, "traced") else None
    if traced is not None:
        weights, function = traced
        like = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
        try:
            shape = jax.eval_shape(lambda w, x: function(w, prepare(x)), weights, like).shape
        except Exception as error:
            raise _cannot_be_asked(spec, image_shape, str(error).splitlines()[0]) from error
        if len(shape) != 2 or shape[0] != 2:
            raise ModelError(f"{spec} must answer with an array of shape (b, K), not {shape}.")
        names = _names(spec, options, says._replace(num_classes=shape[1]))

        def answer(weights: Any, images: Array) -> Array:
            outputs = function(weights, prepare(images)).astype(jnp.float32)
            return jnp.argmax(outputs, -1).astype(jnp.int32) if access == "labels" else outputs

        return TracedOracle(spec, access, image_shape, names or (), weights, answer, {},
                            options=options.to_json())  # fmt: skip
    most = module.most(model, options) if hasattr(module, "most") else options.batch
    return _hosted(
        spec,
        lambda images, sending: module.ask(model, images, sending),
        access,
        image_shape,
        options,
        says,
        prepare,
        class_names,
        most=most,
        statistics=getattr(model, "stats", None),
    )


def _hosted(
    name: str,
    ask: Any,
    access: str,
    image_shape: tuple[int, int, int],
    options: ModelOptions,
    says: Description,
    prepare: Callable[[Any], Any],
    class_names: Sequence[str] | None = None,
    most: int | None = None,
    statistics: Any = None,
) -> HostedOracle:
    """A model that is asked from the host; where it says of itself what it may."""
    names, asked = _names(name, options, says), 0
    if names is None and class_names is not None:
        names = tuple(class_names)

    def sending(images: int) -> None:
        nonlocal asked
        asked += images

    how: dict[str, Any] = {
        "batch": says.batch, "most": most, "statistics": statistics,
    }  # fmt: skip
    if names is None:
        if access == "labels":
            raise ModelError(f"{name} does not say how many classes it has: give `classes`.")
        # One image tells.
        shown = np.full((says.batch or 1, *image_shape), 0.5, np.float32)
        try:
            sending(1)
            outputs = np.asarray(ask(prepare(shown), sending))
        except ModelError:
            raise
        except Exception as error:
            what = " ".join(str(error).split())[:200]
            what = f"{type(error).__name__}: {what}"
            raise _cannot_be_asked(name, image_shape, what) from error
        if outputs.ndim != 2 or outputs.shape[0] != len(shown) or outputs.shape[1] < 2:
            raise ModelError(
                f"{name} must answer b images with an array of shape (b, K), not {outputs.shape}."
            )
        names = tuple(map(str, range(outputs.shape[1])))
    answers = HostAnswers(name, ask, access, len(names), prepare, **how)
    return HostedOracle(
        name, access, image_shape, names, answers, asked=asked, options=options.to_json()
    )


def _cannot_be_asked(name: str, image_shape: tuple[int, ...], why: str) -> ModelError:
    sides = "x".join(map(str, image_shape))
    return ModelError(f"{name} cannot be asked about images of {sides}: {why.rstrip('.')}.")


def _names(name: str, options: ModelOptions, says: Description) -> tuple[str, ...] | None:
    """The classes' names, or their numbers; None where nothing says how many there are."""
    given, known = options.classes, says.class_names
    number = len(known) if known is not None else says.num_classes
    count = given if isinstance(given, int) else None if given is None else len(given)
    if count is not None and number is not None and count != number:
        raise ModelError(
            f"{name} has {number} classes, not {count}: leave out `classes`, or say so."
        )
    if isinstance(given, tuple):
        return given
    if known is not None:
        return known
    number = number if number is not None else count
    return None if number is None else tuple(map(str, range(number)))


def _checkpoint(name: str, folder: Path, access: str) -> Oracle:
    dtype = jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32
    checkpoint = checkpoints.load(folder, dtype)
    apply_folded = checkpoint.network.apply_folded

    def answer(weights: Any, images: Array) -> Array:
        logits = in_chunks(lambda some: apply_folded(weights, some), images)
        if access == "probabilities":
            return jax.nn.softmax(logits, -1)
        return logits if access == "logits" else jnp.argmax(logits, -1).astype(jnp.int32)

    return TracedOracle(
        name=name,
        access=access,
        image_shape=checkpoint.network.image_shape,
        class_names=tuple(checkpoint.metadata["class_names"]),
        weights=jax.jit(checkpoint.network.fold)(checkpoint.params, checkpoint.batch_stats),
        function=answer,
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
    except Exception:  # it is not a function of JAX arrays: of NumPy arrays, then
        classes = None if class_names is None else tuple(class_names)
        own, plain = ModelOptions(classes=classes), preprocessing(ModelOptions(), image_shape, None)
        return _hosted(
            name,
            lambda images, sending: python.ask(function, images, sending),
            access,
            image_shape,
            own,
            Description(),
            plain,
        )
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

    return TracedOracle(name, access, image_shape, names, (), answer, {})


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
