"""``keras:PATH``: a Keras 3 model, .keras or .h5. Where Keras runs on JAX, JAX can trace it."""

import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from restore_jax.oracles.arrays import ArrayInput, array_input, first_output
from restore_jax.oracles.options import Description, ModelOptions
from restore_jax.oracles.types import ModelError

_RUN_CODE = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper")
"""Classes whose configuration holds a program."""


class KerasModel(NamedTuple):
    """An open Keras model.

    Attributes:
      model: Keras's.
      images: what it takes.
      num_classes: K, where the output's shape says it.
    """

    model: Any
    images: ArrayInput
    num_classes: int | None


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
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=not options.trust)
    except Exception as error:
        what = " ".join(str(error).split())[:200].rstrip(".")
        raise ModelError(f"Keras does not open {place}: {what}.") from error
    inputs, outputs = getattr(model, "inputs", None) or [], getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or not outputs:
        shown = ", ".join(str(tuple(each.shape)) for each in inputs) or "none"
        raise ModelError(f"{place} must take one array of images of four dimensions, not {shown}.")
    formats = [layer.data_format for layer in _layers(model) if hasattr(layer, "data_format")]
    first = next(iter(formats), keras.config.image_data_format())
    default = "nchw" if first == "channels_first" else "nhwc"
    dtype = keras.backend.standardize_dtype(inputs[0].dtype)
    images = array_input(place, tuple(inputs[0].shape), dtype, options, default)
    return KerasModel(model, images, outputs[0].shape[1] if len(outputs[0].shape) == 2 else None)


def describe(model: KerasModel, options: ModelOptions) -> Description:
    """The shape, batch and dtype of the input, and the number of classes of the output."""
    return model.images.describe(options, model.num_classes)


def ask(model: KerasModel, images: np.ndarray, sending: Callable[[int], None]) -> np.ndarray:
    """The first output for images f32[b, H, W, C]."""
    del sending
    outputs = first_output(model.model.predict_on_batch(model.images.convert(images)))
    return np.asarray(outputs)


def traced(
    model: KerasModel, options: ModelOptions
) -> tuple[Any, Callable[[Any, Any], Any]] | None:
    """The model as a function that JAX can trace, where Keras runs on JAX and any batch will do.

    Returns:
      ``(weights, function)``, where ``function(weights, images f32[b, H, W, C])`` is the first
      output; or None.
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
        return first_output(model.model.stateless_call(*weights, shown, training=False)[0])

    return weights, function


def _config(path: Path) -> Any:
    """The configuration in the file, as JSON holds it."""
    import h5py

    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json"))
        if path.suffix in (".h5", ".hdf5"):
            with h5py.File(path, "r") as file:
                return json.loads(file.attrs["model_config"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{path} is not a whole Keras model: save it with model.save()."
        ) from error
    raise ModelError(f"{path} is not a Keras model: its name must end in .keras or .h5.")


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
