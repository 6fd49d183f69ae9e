"""``keras:PATH``: a Keras 3 model, .keras or .h5. Where Keras runs on JAX, JAX can trace it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from restore_jax.oracles.arrays import ArrayInput, array_input, find_output, in_words, pick
from restore_jax.oracles.depthwise import with_shifts
from restore_jax.oracles.errors import cause
from restore_jax.oracles.foreign import foreign
from restore_jax.oracles.options import Description, ModelOptions
from restore_jax.oracles.types import ModelError
from restore_jax.reading import open_archive, parse_json

MOST_BYTES = 1 << 36
"""Of a file's parts."""
_DEEPEST = 300
"""Of the JSON of a configuration."""
_RUN_CODE = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper")
"""Classes whose configuration holds a program."""
SECONDS, BYTES_A_SECOND = 60.0, 1e7
"""How long another process may take to start and to read an HDF5 file."""
_WEIGHTS = "model.weights.h5"
_READ = """
import io, sys, h5py
file = sys.argv[1] or io.BytesIO(sys.stdin.buffer.read())
size = int(sys.argv[2])
def read(name, found):
    list(found.attrs.values())
    if isinstance(found, h5py.Dataset) and found.nbytes <= size:
        found[()]
with h5py.File(file, "r") as opened:
    read("", opened)
    opened.visititems(read)
"""
"""Reads all that is in an HDF5 file; of arrays those that may be in it whole."""


class KerasModel(NamedTuple):
    """An open Keras model.

    Attributes:
      model: Keras's.
      images: what it takes.
      num_classes: K, where the output's shape says it.
      output: the number of the output that answers; None where there is only one.
      outputs: all that it has, in words.
    """

    model: Any
    images: ArrayInput
    num_classes: int | None
    output: int | None
    outputs: tuple[str, ...]

    def answer(self, returned: Any) -> Any:
        """The output that answers, of what the model returned: an array, or all of them."""
        if self.output is None:
            return pick("", returned)
        # In the order in which the model has them, whatever they are packed in.
        import keras

        return keras.tree.flatten(returned)[self.output]


def load(place: str, options: ModelOptions) -> KerasModel:
    """Opens the file.

    Raises:
      ModelError: Keras is missing, the file is not a Keras model, it brings code of its own (and
        is not trusted), or it takes anything but one batch of images.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError as error:
        raise ModelError(
            "keras: models need Keras 3 and its backend: pip install 'restore-jax[keras]'."
        ) from error
    path = Path(place)
    if not path.is_file():
        raise ModelError(f"there is no file {place}.")
    config = _config(path)
    if not options.trust:
        for what in _foreign_code(config):
            raise ModelError(
                f"{place} brings code along ({what}): give `trust` if you trust its author."
            )
    with foreign(lambda error: ModelError(f"Keras does not open {place}: {cause(error)}.")):
        model = keras.models.load_model(path, compile=False, safe_mode=not options.trust)
    inputs, outputs = getattr(model, "inputs", None) or [], getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or not outputs:
        shown = ", ".join(str(tuple(each.shape)) for each in inputs) or "none"
        raise ModelError(f"{place} must take one array of images of four dimensions, not {shown}.")
    formats = [layer.data_format for layer in _layers(model) if hasattr(layer, "data_format")]
    first = next(iter(formats), keras.config.image_data_format())
    default = "nchw" if first == "channels_first" else "nhwc"
    dtype = keras.backend.standardize_dtype(inputs[0].dtype)
    images = array_input(place, tuple(inputs[0].shape), dtype, options, default)
    names = [str(name) for name in getattr(model, "output_names", [])]
    names = names if len(names) == len(outputs) else [each.name for each in outputs]
    number = find_output(place, names, options.output)
    shape = outputs[number].shape
    return KerasModel(
        model,
        images,
        shape[1] if len(shape) == 2 else None,
        number if len(outputs) > 1 else None,
        tuple(in_words(n, each.shape) for n, each in zip(names, outputs, strict=True)),
    )


def describe(model: KerasModel, options: ModelOptions) -> Description:
    """The shape, batch and dtype of the input, and the number of classes of the output."""
    return model.images.describe(options, model.num_classes)


def ask(model: KerasModel, images: np.ndarray, sending: Callable[[int], None]) -> np.ndarray:
    """The output for images f32[b, H, W, C]."""
    del sending
    returned = model.model.predict_on_batch(model.images.convert(images))
    return np.asarray(model.answer(returned))


def traced(
    model: KerasModel, options: ModelOptions
) -> tuple[Any, Callable[[Any, Any], Any]] | None:
    """The model as a function that JAX can trace, where Keras runs on JAX and any batch will do.

    Returns:
      ``(weights, function)``, where ``function(weights, images f32[b, H, W, C])`` is the output;
      or None.
    """
    del options
    import jax.numpy as jnp
    import keras

    if keras.backend.backend() != "jax" or model.images.dims[0] is not None:
        return None
    variables = model.model.trainable_variables, model.model.non_trainable_variables
    weights = tuple([variable.value for variable in kind] for kind in variables)

    def function(weights: Any, images: Any) -> Any:
        shown = model.images.convert(images, jnp)
        return model.answer(model.model.stateless_call(*weights, shown, training=False)[0])

    return weights, with_shifts(function)


def outputs(model: KerasModel) -> tuple[str, ...]:
    """Its outputs, in words."""
    return model.outputs


def _config(path: Path) -> Any:
    """The configuration in the file, as JSON holds it."""
    import h5py

    with foreign(
        lambda error: ModelError(f"{path} is not a whole Keras model: save it with model.save().")
    ):
        if path.suffix == ".keras":
            with open_archive(path, MOST_BYTES) as archive:
                if _WEIGHTS in archive.names:
                    _check_ends(path, "", archive.read(_WEIGHTS))
                return archive.json("config.json", _DEEPEST)
        if path.suffix in (".h5", ".hdf5"):
            _check_ends(path, str(path))
            with h5py.File(path, "r") as file:
                return parse_json(file.attrs["model_config"], _DEEPEST)
    raise ModelError(f"{path} is not a Keras model: its name must end in .keras or .h5.")


def _check_ends(path: Path, file: str, content: bytes = b"") -> None:
    """Refuses a model at whose HDF5 file that library would compute for ever, or die.

    Some damage makes it do so, and nothing in this process could end it then: another process
    reads the file first.

    Args:
      path: of the model, for the error.
      file: where the HDF5 file is; empty: it is the content.
      content: of the file.
    """
    size = len(content) or path.stat().st_size
    command = [sys.executable, "-P", "-c", _READ, file, str(size)]
    try:
        code = subprocess.run(
            command, input=content, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=SECONDS + size / BYTES_A_SECOND, check=False,
        ).returncode  # fmt: skip
    except subprocess.TimeoutExpired:
        code = -1
    except OSError:  # no process can be started here
        return
    if code < 0:
        raise ModelError(
            f"{path} is damaged, so that reading it would not end: save it again with model.save()."
        )


def _foreign_code(config: Any) -> Iterator[str]:
    """What in a configuration would run code, or import it, that is not Keras's own."""
    if isinstance(config, dict):
        name, module = config.get("class_name"), config.get("module")
        if name in _RUN_CODE:
            yield f"a {name}"
        elif name and isinstance(module, str) and module.split(".")[0] not in ("keras", "builtins"):
            yield f"{name} of {module}"
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from _foreign_code(part)


def _layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        yield from _layers(layer) if hasattr(layer, "layers") else (layer,)
