"""``torch:PATH``: a TorchScript file or a program of ``torch.export``.

No object of the file's is made here. What PyTorch's own loader does with TorchScript is PyTorch's:
files of strangers are not safe.
"""

import contextlib
import dataclasses
import io
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from restore_jax.oracles.arrays import ArrayInput, array_input, pick
from restore_jax.oracles.errors import cause
from restore_jax.oracles.foreign import foreign
from restore_jax.oracles.options import Description, ModelOptions
from restore_jax.oracles.types import ModelError
from restore_jax.reading import Archive, Unreadable, is_zip, open_archive

MOST_BYTES = 1 << 36
"""Of a file's parts."""
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
      place: where it is, for messages.
      output: which of the outputs answers; None: the first.
    """

    run: Callable[[Any], Any]
    images: ArrayInput
    num_classes: int | None
    dtype: Any
    device: str
    channels_last: bool
    place: str = ""
    output: str | None = None


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
    """The output for images f32[b, H, W, C]."""
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
    found = pick(model.place, outputs, model.output)
    return (found.float() if found.is_floating_point() else found).cpu().numpy()


def _kind(path: Path) -> str | None:
    """What a file is, by what is in it: "script", "program", "pickle" or None."""
    if not is_zip(path):
        with path.open("rb") as file:
            return "pickle" if file.read(1) == b"\x80" else None
    with _opened(path) as archive:
        listed = archive.names
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
    return TorchModel(
        program, images, program.num_classes, program.dtype, device, channels_last, str(path),
        options.output,
    )  # fmt: skip


def _script(path: Path, device: str, options: ModelOptions) -> TorchModel:
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        with _opened(path) as archive:
            code = _code(archive)
            _check_storages(path, archive)
        if _FILES.search(code):
            raise ModelError(f"{path} reads or writes files: save the model without that.")
        with foreign(lambda error: ModelError(f"PyTorch does not open {path}: {cause(error)}.")):
            model = torch.jit.load(path, map_location=device).eval()
    kinds = [each.dtype for each in model.parameters() if each.is_floating_point()]
    dtype = kinds[0] if kinds else torch.float32
    dims = (None, None, None, None)
    images = array_input(str(path), dims, _numpy_dtype(dtype), options, "nchw")
    channels_last = not _BY_STRIDES.search(code)
    return TorchModel(model, images, None, dtype, device, channels_last, str(path), options.output)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Archive]:
    """The archive, whose damage is told in a sentence."""
    try:
        with open_archive(path, MOST_BYTES) as archive:
            yield archive
    except (Unreadable, OSError) as error:
        raise ModelError(f"{path} is damaged ({cause(error)}): save the model again.") from error


def _code(archive: Archive) -> str:
    """All source in a TorchScript file, whatever PyTorch may take for the name of an entry."""
    sources = [name for name in archive.names if name.lower().endswith(".py")]
    return "\n".join(archive.read(name).decode(errors="replace") for name in sources)


class _Anything:
    """Stands for whatever a pickle would make; nothing is imported and nothing is run."""

    def __new__(cls, *_: object, **__: object) -> "_Anything":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forgets it."""

    def __call__(self, *_: object, **__: object) -> "_Anything":
        return _Anything()

    def __setitem__(self, key: object, value: object) -> None:
        """Forgets it."""

    def append(self, value: object) -> None:
        """Forgets it."""

    def extend(self, values: object) -> None:
        """Forgets them."""


class _Storages(pickle.Unpickler):
    """Reads which records a TorchScript pickle takes its tensors from, and how large they are.

    PyTorch's own loader takes the sizes that the pickle names for granted, and reads past the end
    of a record that is shorter. Every class is `_Anything`, so that nothing of the file's runs.
    """

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content))
        self.found: list[tuple[str, str, int]] = []

    def find_class(self, module: str, name: str) -> type:
        """Nothing but a stand-in, which keeps the name."""
        return type(name, (_Anything,), {})

    def persistent_load(self, pid: Any) -> _Anything:
        """Notes ``("storage", class, record, device, numbers)``."""
        kind, storage, record, _, numbers = pid
        if kind != "storage" or not isinstance(numbers, int):
            raise pickle.UnpicklingError
        self.found.append((getattr(storage, "__name__", ""), str(record), numbers))
        return _Anything()


_BYTES = {
    "DoubleStorage": 8, "LongStorage": 8, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16,
    "FloatStorage": 4, "IntStorage": 4, "QInt32Storage": 4, "HalfStorage": 2,
    "BFloat16Storage": 2, "ShortStorage": 2,
}  # fmt: skip
"""Of a number in a storage; 1 in any other."""


def _check_storages(path: Path, archive: Archive) -> None:
    """Refuses tensors whose records are missing, shorter than the file says, or damaged."""
    for pickled, folder in (("data.pkl", "data"), ("constants.pkl", "constants")):
        for name in (each for each in archive.names if each.partition("/")[2] == pickled):
            root = name.partition("/")[0]
            reader = _Storages(archive.read(name))
            try:
                reader.load()
            except Exception as error:  # a pickle may do anything but run code here
                raise Unreadable(f"{pickled} cannot be read") from error
            for storage, record, numbers in reader.found:
                place = f"{root}/{folder}/{record}"
                needed = numbers * _BYTES.get(storage, 1)
                if numbers < 0 or len(archive.read(place)) < needed:
                    raise Unreadable(f"{place} is shorter than the {needed} bytes that it must be")


def _numpy_dtype(dtype: Any) -> np.dtype:
    """The dtype in which NumPy hands images over: that of the tensor, or float32."""
    name = str(dtype).removeprefix("torch.")
    return np.dtype("float32" if name == "bfloat16" else name)
