"""``onnx:PATH``: an ONNX file, run by ONNX Runtime."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from restore_jax.compilation import cores
from restore_jax.oracles.arrays import ArrayInput, array_input, find_output, in_words
from restore_jax.oracles.errors import cause
from restore_jax.oracles.foreign import foreign
from restore_jax.oracles.options import Description, ModelOptions
from restore_jax.oracles.types import ModelError

ON_CPU = 1 << 24
"""Bytes of images that a CPU is given at once: a network's own arrays are many times as large."""
FEWEST, MANY = 16, 256
"""Images at once, however large; and how many are not worth a limit."""
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


class OnnxModel(NamedTuple):
    """An open ONNX file.

    Attributes:
      session: ONNX Runtime's.
      name: of its input.
      images: what that takes.
      output: the name of the output that answers.
      num_classes: K, where the output's shape says it.
      outputs: all that it has, in words.
    """

    session: Any
    name: str
    images: ArrayInput
    output: str
    num_classes: int | None
    outputs: tuple[str, ...]


def load(place: str, options: ModelOptions) -> OnnxModel:
    """Opens the file.

    Raises:
      ModelError: ONNX Runtime is missing, the file is not usable ONNX, it keeps weights outside
        its own folder, or it takes anything but one batch of images.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "onnx: models need ONNX Runtime: pip install 'restore-jax[onnx]'."
        ) from error
    path = Path(place)
    if not path.is_file():
        raise ModelError(f"there is no file {place}.")
    with foreign(lambda error: ModelError(f"{place} is not an ONNX file.")):
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    if not proto.graph.node:
        raise ModelError(f"{place} is not an ONNX file.")
    _check_external_data(place, proto)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if cores() < (os.cpu_count() or 1):
        # Left to itself it has a thread for each core of the machine, and they wait by spinning.
        settings.intra_op_num_threads = cores()
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    with foreign(lambda error: ModelError(f"ONNX Runtime does not open {place}: {cause(error)}.")):
        session = onnxruntime.InferenceSession(path, settings, providers=providers)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    output = outputs[find_output(place, [each.name for each in outputs], options.output)]
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _DTYPES:
        shown = ", ".join(f"{each.name} {each.type}{each.shape}" for each in inputs)
        raise ModelError(f"{place} must take one array of images of four dimensions, not {shown}.")
    dims = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)
    images = array_input(place, dims, _DTYPES[inputs[0].type], options)
    if output.type not in _DTYPES:
        words = ", ".join(f"{each.name} {each.type}{each.shape}" for each in outputs)
        raise ModelError(
            f"{place} answers with {output.name}, a {output.type}, not with numbers: its outputs "
            f"are {words}; pick another with `output`."
        )
    classes = output.shape[1] if len(output.shape) == 2 else None
    return OnnxModel(
        session,
        inputs[0].name,
        images,
        output.name,
        classes if isinstance(classes, int) else None,
        tuple(in_words(each.name, each.shape) for each in outputs),
    )


def describe(model: OnnxModel, options: ModelOptions) -> Description:
    """The shape, batch and dtype of the input, and the number of classes of the output."""
    return model.images.describe(options, model.num_classes)


def ask(model: OnnxModel, images: np.ndarray, sending: Callable[[int], None]) -> np.ndarray:
    """The output for images f32[b, H, W, C]."""
    del sending
    return model.session.run([model.output], {model.name: model.images.convert(images)})[0]


def most(model: OnnxModel, options: ModelOptions) -> int | None:
    """The most images that it is best given at once; None: any number."""
    shape = model.images.describe(options).image_shape
    on_cpu = model.session.get_providers() == ["CPUExecutionProvider"]
    if options.batch or shape is None or model.images.dims[0] is not None or not on_cpu:
        return options.batch
    number = ON_CPU // (4 * math.prod(shape))
    return None if number >= MANY else max(FEWEST, number)


def outputs(model: OnnxModel) -> tuple[str, ...]:
    """Its outputs, in words."""
    return model.outputs


def _check_external_data(place: str, proto: Any) -> None:
    """Refuses weights that are anywhere but in files in the folder of the ONNX file."""
    # A cache may hold links to both: the links share a folder, and so do the files.
    folders = (Path(place).parent.resolve(), Path(place).resolve().parent)
    for tensor in _tensors(proto):
        if not tensor.external_data and tensor.data_location != tensor.EXTERNAL:
            continue
        location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        file = (folders[0] / location).resolve()
        if not any(file.is_relative_to(folder) for folder in folders):
            raise ModelError(
                f"{place} keeps weights in {location!r}, outside its own folder: move them there "
                "and save it again."
            )
        if not file.is_file():
            raise ModelError(f"{place} keeps weights in {location!r}, which is not there.")


def _tensors(message: Any) -> Iterator[Any]:
    """Every TensorProto inside a protobuf message, however deep: graphs, attributes, functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in [value] if hasattr(value, "ListFields") else value:
            if part.DESCRIPTOR.name == "TensorProto":
                yield part
            else:
                yield from _tensors(part)
