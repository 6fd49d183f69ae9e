"""``torch:PATH``: a TorchScript file or a program of ``torch.export``. Nothing is unpickled."""

import dataclasses
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from restore_jax.oracles.arrays import ArrayInput, array_input, first_output
from restore_jax.oracles.options import Description, ModelOptions
from restore_jax.oracles.types import ModelError

ON_CPU = 64
"""Images that a CPU is given at once: what it makes of more falls out of its cache."""
_FILES = re.compile(r"\.[\s\\]*(save|from_file)\b")
"""Operators of TorchScript that read or write files."""
_BY_STRIDES = re.compile("strided|reshape_alias")
"""Operators whose result depends on where in memory the images' numbers lie."""


@dataclasses.dataclass
class TorchModel:
    """An open PyTorch model.

    Attributes:
      run: a tensor to what the model returns.
      images: what it takes.
      num_classes: K, where the model says it.
      dtype, device: of the tensor it takes.
      channels_last: whether that may lie in memory as [b, H, W, C].
    """

    run: Callable[[Any], Any]
    images: ArrayInput
    num_classes: int | None
    dtype: Any
    device: str
    channels_last: bool


def load(place: str, options: ModelOptions) -> TorchModel:
    """Opens the file, on a GPU if PyTorch sees one.

    Raises:
      ModelError: PyTorch is missing, or the file is neither TorchScript nor an exported program of
        plain operators.
    """
    try:
        import torch
    except ImportError as error:
        raise ModelError("torch: models need PyTorch: pip install 'restore-jax[torch]'.") from error
    path = Path(place)
    if not path.is_file():
        raise ModelError(f"there is no file {place}.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = _kind(path)
    if kind == "program":
        return _program(path, device, options)
    if kind == "script":
        return _script(path, device, options)
    if kind == "pickle":
        raise ModelError(
            f"{place} is a pickle, which may run anything when it is read: save the model with "
            "torch.jit or torch.export, or wrap it as python:MODULE:FUNCTION."
        )
    raise ModelError(f"{place} is neither TorchScript nor a program of torch.export.")


def describe(model: TorchModel, options: ModelOptions) -> Description:
    """What an exported program says of itself; TorchScript says nothing."""
    return model.images.describe(options, model.num_classes)


def most(model: TorchModel, options: ModelOptions) -> int | None:
    """The most images that it is best given at once; None: any number."""
    return options.batch or (ON_CPU if model.device == "cpu" else None)


def ask(model: TorchModel, images: np.ndarray, sending: Callable[[int], None]) -> np.ndarray:
    """The first output for images f32[b, H, W, C]."""
    del sending
    import torch

    # Copied, since PyTorch takes no read-only memory; order K keeps channels last in it.
    converted = np.array(model.images.convert(images), order="K" if model.channels_last else "C")
    shown = torch.from_numpy(converted).to(model.device, model.dtype)
    with torch.inference_mode():
        try:
            outputs = model.run(shown)
        except RuntimeError:
            if not model.channels_last:
                raise
            # A view that the author took of contiguous memory.
            model.channels_last = False
            outputs = model.run(shown.contiguous())
    found = first_output(outputs)
    return (found.float() if found.is_floating_point() else found).cpu().numpy()


def _kind(path: Path) -> str | None:
    """What a file is, by what is in it: "script", "program", "pickle" or None."""
    try:
        with zipfile.ZipFile(path) as archive:
            listed = archive.namelist()
    except zipfile.BadZipFile:
        with path.open("rb") as file:
            return "pickle" if file.read(1) == b"\x80" else None
    names = {name.partition("/")[2] for name in listed} | set(listed)
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "script"
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return "program"
    return "pickle" if "data.pkl" in names else None


def _program(path: Path, device: str, options: ModelOptions) -> TorchModel:
    from restore_jax.oracles import exported

    program = exported.read(path, device)
    images = array_input(str(path), program.dims, _numpy_dtype(program.dtype), options, "nchw")
    channels_last = not any(_BY_STRIDES.search(str(step.function)) for step in program.steps)
    return TorchModel(program, images, program.num_classes, program.dtype, device, channels_last)


def _script(path: Path, device: str, options: ModelOptions) -> TorchModel:
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        try:
            code = _code(path)
            if _FILES.search(code):
                raise ModelError(f"{path} reads or writes files: save the model without that.")
            model = torch.jit.load(path, map_location=device).eval()
        except ModelError:
            raise
        except Exception as error:
            what = " ".join(str(error).split())[:200].rstrip(".")
            raise ModelError(f"PyTorch does not open {path}: {what}.") from error
    kinds = [each.dtype for each in model.parameters() if each.is_floating_point()]
    dtype = kinds[0] if kinds else torch.float32
    dims = (None, None, None, None)
    images = array_input(str(path), dims, _numpy_dtype(dtype), options, "nchw")
    return TorchModel(model, images, None, dtype, device, not _BY_STRIDES.search(code))


def _code(path: Path) -> str:
    """All source in a TorchScript file, whatever PyTorch may take for the name of an entry."""
    with zipfile.ZipFile(path) as archive:
        sources = [each for each in archive.infolist() if each.filename.lower().endswith(".py")]
        return "\n".join(archive.read(each).decode(errors="replace") for each in sources)


def _numpy_dtype(dtype: Any) -> np.dtype:
    """The dtype in which NumPy hands images over: that of the tensor, or float32."""
    name = str(dtype).removeprefix("torch.")
    return np.dtype("float32" if name == "bfloat16" else name)
