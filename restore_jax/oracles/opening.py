"""Opens a model by its spec."""

import dataclasses
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax import checkpoints
from restore_jax.compilation import in_chunks
from restore_jax.names import checked_names
from restore_jax.oracles import python
from restore_jax.oracles.answers import NOISY, HostAnswers, advice, preprocessing
from restore_jax.oracles.binary import paired
from restore_jax.oracles.checking import NONE
from restore_jax.oracles.errors import cause
from restore_jax.oracles.foreign import foreign, guarded, told
from restore_jax.oracles.formats import FORMATS, Format
from restore_jax.oracles.hosted import HostedOracle
from restore_jax.oracles.options import Description, ModelOptions
from restore_jax.oracles.traced import TracedOracle
from restore_jax.oracles.types import ACCESSES, Model, ModelError, Oracle

Array = jax.Array
IMAGE_SHAPE = (32, 32, 3)
"""What a function takes that does not say it."""
SUFFIXES = {
    ".onnx": "onnx", ".ts": "torch", ".pt2": "torch", ".pt": "torch", ".pth": "torch",
    ".keras": "keras", ".h5": "keras",
}  # fmt: skip
"""What files of these names are opened with."""


class Opening(TypedDict, total=False):
    """How a model is opened; see `open_model`."""

    image_shape: tuple[int, int, int] | None
    class_names: Sequence[str] | None
    value_range: tuple[float, float] | None
    mean: float | Sequence[float] | None
    std: float | Sequence[float] | None
    resize: tuple[int, int] | None
    layout: str | None
    binary: bool
    output: str | None
    noisy: bool
    options: ModelOptions | None


def open_model(
    spec: Model,
    access: str | None = None,
    *,
    image_shape: tuple[int, int, int] | None = None,
    class_names: Sequence[str] | None = None,
    value_range: tuple[float, float] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    resize: tuple[int, int] | None = None,
    layout: str | None = None,
    binary: bool = False,
    output: str | None = None,
    noisy: bool = False,
    options: ModelOptions | None = None,
) -> Oracle:
    """Opens a model as a black box.

    Args:
      spec: "shipped" or "shipped-clean" (the network in the package, and its clean twin), a
        checkpoint folder, ``onnx:FILE``, ``torch:FILE``, ``keras:FILE``, ``hf:FOLDER``,
        ``python:MODULE:FUNCTION``, a URL, or a function ``images f32[b, H, W, C] -> outputs``
        that gives what ``access`` says: of JAX arrays, or if JAX cannot trace it, of NumPy
        arrays. An `Oracle` is given back as it is.
      access: "logits", "probabilities" or "labels": what the model is asked for; None: logits,
        or what a model that is open already is asked for.
      image_shape: (H, W, C) of what the model takes, where it does not say it; of a function
        32 x 32 x 3, if nothing is said.
      class_names: of a function, or of a file or URL that does not name its classes itself; it
        then need not be asked how many there are.
      value_range, mean, std, resize, layout: how images are prepared for a model that is not
        ours, from [0, 1]: see `ModelOptions`.
      binary, output, noisy: see `ModelOptions`.
      options: these and more, all at once; what is said above goes before.

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
    said = _said(
        options, image_shape=image_shape, value_range=value_range, mean=_numbers(mean),
        std=_numbers(std), resize=resize, layout=layout, binary=binary or None, output=output,
        noisy=noisy or None,
    )  # fmt: skip
    if isinstance(spec, TracedOracle | HostedOracle):
        if access not in (None, spec.access):
            raise ModelError(
                f"{spec.name} was opened for {spec.access}, so it cannot be asked for {access}: "
                "leave out `access`, or open it anew."
            )
        if said != ModelOptions():
            raise ModelError(
                f"{spec.name} is open already: give {_arguments(said)} where it is opened."
            )
        return spec
    access = access or "logits"
    names = None if class_names is None else tuple(class_names)
    if callable(spec):
        return _function(spec, access, said, names)
    if str(spec) in checkpoints.PACKAGED:
        _knows_itself(str(spec), said)
        return _checkpoint(str(spec), checkpoints.PACKAGED[str(spec)], access)
    scheme, _, place = str(spec).partition(":")
    if scheme in FORMATS:
        return _open(str(spec), FORMATS[scheme], access, said, names)
    path = Path(str(spec)).expanduser()
    if place and scheme.isalpha() and len(scheme) > 1 and not path.exists():
        raise ModelError(
            f"{scheme}: models cannot be opened: give {' or '.join(checkpoints.PACKAGED)}, a "
            f"checkpoint folder, or one of {', '.join(f'{kind}:' for kind in FORMATS)}."
        )
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        raise ModelError(
            f"{spec} is not a checkpoint folder: write {SUFFIXES[path.suffix.lower()]}:{spec}."
        )
    if path.suffix == ".safetensors" or _of_hugging_face(path):
        folder = path if path.is_dir() else path.parent
        raise ModelError(f"{spec} is not a checkpoint folder: write hf:{folder}.")
    if path.suffix == ".py":
        raise ModelError(
            f"{spec} is not a checkpoint folder: write python:{path.stem}:FUNCTION, from its "
            "folder."
        )
    _knows_itself(str(spec), said)
    return _checkpoint(str(spec), path, access)


def _of_hugging_face(folder: Path) -> bool:
    """Whether a folder holds a model in the layout of ``hf:``, and no checkpoint."""
    return (folder / "config.json").is_file() and not (folder / "metadata").exists()


def _said(options: ModelOptions | None, **given: Any) -> ModelOptions:
    """The options, with what was given besides."""
    more = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(options or ModelOptions(), **more)


def _numbers(given: float | Sequence[float] | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    return (float(given),) if isinstance(given, int | float) else tuple(map(float, given))


def _arguments(options: ModelOptions) -> str:
    return ", ".join(f"`{name}`" for name in options.to_json())


def _knows_itself(name: str, options: ModelOptions) -> None:
    """Refuses to be told how a checkpoint is asked."""
    if options != ModelOptions():
        raise ModelError(
            f"{name} is a checkpoint and knows itself how it is asked: leave out "
            f"{_arguments(options)}."
        )


def _open(
    spec: str,
    entry: Format,
    access: str,
    options: ModelOptions,
    class_names: tuple[str, ...] | None,
) -> Oracle:
    """Opens a model with the functions of its format's file."""
    module: Any = import_module(entry.module)
    place = spec if entry.whole_spec else spec.partition(":")[2]
    model = module.load(str(Path(place).expanduser()) if place[:1] == "~" else place, options)
    says: Description = module.describe(model, options)
    outputs: tuple[str, ...] = module.outputs(model) if hasattr(module, "outputs") else ()
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
    says = _of_one_number(spec, options, says, outputs)
    prepare = preprocessing(options, own_shape, says)
    image_shape = (*(options.resize or own_shape[:2]), own_shape[2])
    traced = module.traced(model, options) if hasattr(module, "traced") else None
    if traced is not None:
        weights, function = traced
        return _traced(
            spec, access, image_shape, options, says, weights,
            lambda weights, images: function(weights, prepare(images)), class_names,
        )  # fmt: skip
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
        outputs=outputs,
    )


def _of_one_number(
    spec: str, options: ModelOptions, says: Description, outputs: tuple[str, ...]
) -> Description:
    """What a model says of itself, where a single number an image may be two classes.

    Raises:
      ModelError: it gives one number, and nobody said that these are two classes.
    """
    if says.num_classes == 1 and not options.binary:
        raise ModelError(
            f"{spec} answers with one number an image{_among(outputs)}: say `binary` if that is "
            f"the probability of the second of two classes{_other(outputs)}."
        )
    if options.binary and says.num_classes in (1, None) and options.classes is None:
        return says._replace(num_classes=2)
    if options.binary and says.num_classes == 1:
        return says._replace(num_classes=None)
    return says


def _among(outputs: tuple[str, ...]) -> str:
    return f" (its outputs are {', '.join(outputs)})" if outputs else ""


def _other(outputs: tuple[str, ...]) -> str:
    return ", or pick another with `output`" if len(outputs) > 1 else ""


def _traced(
    spec: str,
    access: str,
    image_shape: tuple[int, int, int],
    options: ModelOptions,
    says: Description,
    weights: Any,
    function: Callable[[Any, Any], Any],
    class_names: tuple[str, ...] | None = None,
) -> TracedOracle:
    """A model of which JAX makes a part of its programs."""
    like = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    with foreign(lambda error: _cannot_be_asked(spec, image_shape, cause(error))):
        out = jax.eval_shape(function, weights, like)
    shape = tuple(getattr(out, "shape", ()))
    if options.binary:
        if shape not in ((2,), (2, 1)):
            raise ModelError(
                f"{spec} must answer with one number an image, not with shape {shape}: leave out "
                "`binary`."
            )
        shape = (2, 2)
    if len(shape) != 2 or shape[0] != 2:
        raise ModelError(f"{spec} must answer with an array of shape (b, K), not {shape}.")
    if shape[1] < 2:
        raise ModelError(
            f"{spec} answers with one number an image: say `binary` if that is the probability of "
            "the second of two classes."
        )
    names = _names(spec, options, says._replace(num_classes=shape[1]), class_names)

    def read_as(access: str) -> Callable[[Any, Any], Any]:
        def answer(weights: Any, images: Array) -> Array:
            outputs = function(weights, images).astype(jnp.float32)
            if options.binary:
                # Read as labels it is a probability: one half parts the classes.
                outputs = paired(access, outputs.reshape(-1), jnp)
            if access != "labels":
                return outputs
            right = jnp.isfinite(outputs).all(-1)
            return jnp.where(right, jnp.argmax(outputs, -1), NONE).astype(jnp.int32)

        return guarded(spec, answer)

    return TracedOracle(
        spec, access, image_shape, names or (), weights, read_as(access), {},
        options=options.to_json(), readings=read_as,
    )  # fmt: skip


def _hosted(
    name: str,
    ask: Any,
    access: str,
    image_shape: tuple[int, int, int],
    options: ModelOptions,
    says: Description,
    prepare: Callable[[Any], Any],
    class_names: tuple[str, ...] | None = None,
    most: int | None = None,
    statistics: Any = None,
    outputs: tuple[str, ...] = (),
) -> HostedOracle:
    """A model that is asked from the host; where it says of itself what it may."""
    names, asked = _names(name, options, says, class_names), 0
    hint = f"{_among(outputs)}{_other(outputs)}"

    def sending(images: int) -> None:
        nonlocal asked
        asked += images

    if names is None:
        # One image tells.
        shown = np.full((says.batch or 1, *image_shape), 0.5, np.float32)
        with foreign(lambda error: _cannot_be_asked(name, image_shape, told(error))):
            sending(1)
            found = np.asarray(ask(prepare(shown), sending))
        if found.ndim == 1 and access == "labels" and np.issubdtype(found.dtype, np.integer):
            raise ModelError(f"{name} does not say how many classes it has: give `classes`.")
        if found.shape in ((len(shown),), (len(shown), 1)) and found.dtype.kind == "f":
            raise ModelError(
                f"{name} answers with one number an image{_among(outputs)}: say `binary` if that "
                f"is the probability of the second of two classes{_other(outputs)}."
            )
        if found.ndim != 2 or found.shape[0] != len(shown) or found.shape[1] < 2:
            raise ModelError(
                f"{name} must answer b images with an array of shape (b, K), not {found.shape}"
                f"{advice(found, access)}{hint}."
            )
        names = tuple(map(str, range(found.shape[1])))
    answers = HostAnswers(
        name, ask, access, len(names), prepare,
        batch=says.batch, most=most, statistics=statistics, binary=options.binary,
        times=NOISY if options.noisy else 1, hint=hint,
    )  # fmt: skip
    return HostedOracle(
        name, access, image_shape, names, answers, asked=asked, options=options.to_json()
    )


def _cannot_be_asked(name: str, image_shape: tuple[int, ...], why: str) -> ModelError:
    sides = "x".join(map(str, image_shape))
    return ModelError(f"{name} cannot be asked about images of {sides}: {why.rstrip('.')}.")


def _names(
    name: str,
    options: ModelOptions,
    says: Description,
    class_names: tuple[str, ...] | None = None,
) -> tuple[str, ...] | None:
    """The classes' names, or their numbers; None where nothing says how many there are."""
    given, known = options.classes, says.class_names
    if given is None and known is None:
        given = class_names
    number = len(known) if known is not None else says.num_classes
    if options.binary and number is None:
        number = 2
    count = given if isinstance(given, int) else None if given is None else len(given)
    if count is not None and number is not None and count != number:
        raise ModelError(
            f"{name} has {number} classes, not {count}: leave out "
            f"`{'classes' if options.classes is not None else 'class_names'}`, or say so."
        )
    if given is not None and not isinstance(given, int):
        return checked_names(name, given)
    if known is not None:
        return checked_names(name, known)
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
    options: ModelOptions,
    class_names: tuple[str, ...] | None,
) -> Oracle:
    name = str(getattr(function, "__name__", type(function).__name__))
    own_shape = options.image_shape or IMAGE_SHAPE
    image_shape = (*(options.resize or own_shape[:2]), own_shape[2])
    if class_names is not None:
        options = dataclasses.replace(options, classes=checked_names(name, class_names))
    prepare = preprocessing(options, own_shape, Description())
    like = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    try:
        out: Any = jax.eval_shape(lambda images: function(prepare(images)), like)
    except (SystemExit, KeyboardInterrupt) as error:
        raise _cannot_be_asked(name, image_shape, told(error)) from error
    except Exception:  # it is not a function of JAX arrays: of NumPy arrays, then
        model = python.PythonModel(name, function, options.output)
        return dataclasses.replace(
            _hosted(
                name,
                lambda images, sending: python.ask(model, images, sending),
                access,
                image_shape,
                options,
                Description(),
                prepare,
            ),
            options=_of_function(options),
        )
    known = () if options.classes is None else options.classes
    if access != "labels":
        traced = _traced(
            name, access, image_shape, options, Description(), (),
            lambda weights, images: function(prepare(images)),
        )  # fmt: skip
        return dataclasses.replace(traced, options=_of_function(options))
    shape: tuple[int, ...] = tuple(getattr(out, "shape", ()))
    dtype: Any = getattr(out, "dtype", None)
    if shape != (2,) or not jnp.issubdtype(dtype, jnp.integer):
        raise ModelError(
            f"{name} must return labels of shape (b,) of integers, not {shape} of {dtype}."
        )
    if not known:
        raise ModelError(
            "a function that returns labels does not say how many: give `class_names`."
        )
    assert not isinstance(known, int)

    def answer(weights: Any, images: Array) -> Array:
        del weights
        found = function(prepare(images)).astype(jnp.int32)
        return jnp.where((found >= 0) & (found < len(known)), found, NONE)

    return TracedOracle(
        name, access, image_shape, known, (), guarded(name, answer), {},
        options=_of_function(options),
    )  # fmt: skip


def _of_function(options: ModelOptions) -> dict[str, Any]:
    """What was said of how a function is asked; its images and classes are its own."""
    return dataclasses.replace(options, classes=None, image_shape=None).to_json()


def class_index(oracle: Oracle, target: str | int) -> int:
    """The class that a user named, by name or by number.

    Raises:
      ModelError: there is no such class.

    >>> import jax.numpy as jnp
    >>> bright = lambda images: jnp.stack([1 - images.mean((1, 2, 3)), images.mean((1, 2, 3))], -1)
    >>> class_index(open_model(bright, class_names=("dark", "bright")), "Bright")
    1
    """
    word, names = str(target), oracle.class_names
    if word in names:
        return names.index(word)
    alike = [k for k, name in enumerate(names) if name.lower() == word.lower()]
    if len(alike) == 1:
        return alike[0]
    try:
        index = int(target)
    except ValueError:
        index = -1
    if not 0 <= index < len(names):
        shown = ", ".join(f"{k} {name}" for k, name in enumerate(names[:20]))
        more = ", ..." if len(names) > 20 else ""
        raise ModelError(f"{oracle.name} has no class {target!r}: it may be {shown}{more}.")
    return index
