"""Programs of ``torch.export``, read and run without a way to run code of their own.

``torch.export.load`` evaluates strings that stand in the file (symbolic sizes, guards) and
unpickles what it finds there: whoever opens a file runs what its author likes. Here the archive's
graph is read as the JSON that it is, weights are raw bytes, and nothing but ATen operators and
arithmetic on sizes is carried out.
"""

import dataclasses
import math
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from restore_jax.oracles.types import ModelError
from restore_jax.reading import Archive, open_archive

_DTYPES = {  # numbered as in torch._export.serde.schema
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_STRIDED = 7
_OPERATORS = "add sub mul floordiv truediv mod neg pos and_ or_ eq ne lt le gt ge getitem"
_ARITHMETIC = (
    {f"_operator.{name}": getattr(operator, name) for name in _OPERATORS.split()}
    | {f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc")}
    | {
        f"torch.sym_{name}": getattr(torch, f"sym_{name}")
        for name in ("not", "int", "float", "ite", "max", "min")
    }
)
_DEEPEST = 500
"""Of the JSON."""
MOST_BYTES = 1 << 36
"""Of all parts of a file."""
_TOUCH_FILES = ("save", "from_file")


class _Result(NamedTuple):
    """Stands for what an earlier step computed."""

    name: str


class Step(NamedTuple):
    """One operator: its arguments, and what its results are called.

    Attributes:
      function: what to call.
      args, keywords: constants, `_Result`s and lists of both.
      outputs: a name, or several of them for the parts of the result.
      last: the names that no later step reads.
    """

    function: Callable[..., Any]
    args: list[Any]
    keywords: dict[str, Any]
    outputs: str | list[str]
    last: list[str]


@dataclasses.dataclass(frozen=True)
class Program:
    """An exported program that takes one tensor of images.

    Attributes:
      weights: tensors by name.
      steps: in their order.
      images, answer: the names of what goes in and of what comes out.
      dims: of the images, [b, ...]; None where any size will do.
      dtype: of the images.
      num_classes: K, where the answer's shape says it.
    """

    weights: dict[str, torch.Tensor]
    steps: list[Step]
    images: str
    answer: str
    dims: tuple[int | None, ...]
    dtype: torch.dtype
    num_classes: int | None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The program's first output."""
        found = self.weights | {self.images: images}
        for step in self.steps:
            args = [_look_up(argument, found) for argument in step.args]
            keywords = {name: _look_up(value, found) for name, value in step.keywords.items()}
            result = step.function(*args, **keywords)
            if isinstance(step.outputs, str):
                found[step.outputs] = result
            elif step.outputs:
                found.update(zip(step.outputs, result, strict=True))
            for name in step.last:
                del found[name]
        return found[self.answer]


def read(path: Path, device: str) -> Program:
    """The program in a .pt2 file, its weights on a device.

    Raises:
      ModelError: it needs more than ATen operators, takes more than images, or is damaged.
    """
    try:
        with open_archive(path, MOST_BYTES) as archive:
            return _read(path, archive, device)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{path} is damaged, or from a PyTorch with another format: export it again with 2.9 "
            "or later."
        ) from error


def _read(path: Path, archive: Archive, device: str) -> Program:
    root = archive.names[0].split("/")[0]
    (model,) = (name for name in archive.names if name.startswith(f"{root}/models/"))
    module = archive.json(model, _DEEPEST)["graph_module"]
    graph, signature = module["graph"], module["signature"]
    name = model.removeprefix(f"{root}/models/").removesuffix(".json")
    stored = {
        key: tensor
        for kind in ("weights", "constants")
        for key, tensor in _tensors(path, archive, f"{root}/data/{kind}", name, kind, device)
    }
    weights: dict[str, torch.Tensor] = {}
    images: list[str] = []
    for argument, spec in zip(graph["inputs"], signature["input_specs"], strict=True):
        ((kind, said),) = spec.items()
        if kind == "user_input" and "as_tensor" in argument:
            images.append(argument["as_tensor"]["name"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            weights[argument["as_tensor"]["name"]] = stored[said[f"{kind}_name"]]
        else:
            raise ModelError(f"{path} takes more than images ({kind}): export it without.")
    if len(images) != 1 or len(graph["tensor_values"][images[0]]["sizes"]) != 4:
        raise ModelError(
            f"{path} must take one tensor of images of four dimensions: export it with one."
        )
    outputs = zip(graph["outputs"], signature["output_specs"], strict=True)
    answer, *_ = (out["as_tensor"]["name"] for out, spec in outputs if "user_output" in spec)
    seen = graph["tensor_values"]
    dims, classes = _dims(seen[images[0]]), _dims(seen[answer])
    return Program(
        weights=weights,
        steps=_steps(path, graph["nodes"], answer, device),
        images=images[0],
        answer=answer,
        dims=dims,
        dtype=_DTYPES[seen[images[0]]["dtype"]],
        num_classes=classes[1] if len(classes) == 2 else None,
    )


def _dims(meta: dict[str, Any]) -> tuple[int | None, ...]:
    return tuple(size.get("as_int") for size in meta["sizes"])


def _tensors(
    path: Path, archive: Archive, folder: str, model: str, kind: str, device: str
) -> list[tuple[str, torch.Tensor]]:
    """The tensors that a folder of the archive holds, by name; those in one file share it."""
    found: list[tuple[str, torch.Tensor]] = []
    storages: dict[str, torch.Tensor] = {}
    config = archive.json(f"{folder}/{model}_{kind}_config.json", _DEEPEST)["config"]
    for name, payload in config.items():
        if payload["use_pickle"]:
            raise ModelError(
                f"{path} holds pickled objects, which may run anything when they are read: export "
                "a model of plain tensors."
            )
        file, meta = payload["path_name"], payload["tensor_meta"]
        if file not in storages:
            data, dtype = bytearray(archive.read(f"{folder}/{file}")), _DTYPES[meta["dtype"]]
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            storages[file] = flat.to(device)
        sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        offset = meta["storage_offset"]["as_int"]
        found.append((name, torch.as_strided(storages[file], sizes, strides, offset)))
    return found


def _steps(path: Path, nodes: list[dict[str, Any]], answer: str, device: str) -> list[Step]:
    """The nodes as steps; read backwards, which shows where a result is read for the last time."""
    steps: list[Step] = []
    needed = {answer}
    for node in reversed(nodes):
        function = _function(path, node["target"])
        args: list[Any] = []
        keywords: dict[str, Any] = {}
        for given in node["inputs"]:
            if given["name"] in ("train", "training") and given["arg"].get("as_bool"):
                raise ModelError(
                    f"{path} was exported in training mode: call model.eval() and export it again."
                )
            value = _argument(path, given["arg"], device)
            if given.get("kind") == 1 or node["target"] in _ARITHMETIC:
                args.append(value)
            else:
                keywords[given["name"]] = value
        outputs = _outputs(node["outputs"])
        used = {each.name for each in _results([*args, *keywords.values()])}
        made = {outputs} if isinstance(outputs, str) else set(outputs)
        steps.append(Step(function, args, keywords, outputs, sorted((used | made) - needed)))
        needed |= used
    return steps[::-1]


def _function(path: Path, target: str) -> Callable[..., Any]:
    if target in _ARITHMETIC:
        return _ARITHMETIC[target]
    match = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", target)
    found = None
    if match is not None and match[1] not in _TOUCH_FILES:
        found = getattr(getattr(torch.ops.aten, match[1], None), match[2], None)
    if not isinstance(found, torch._ops.OpOverload):
        raise ModelError(
            f"{path} uses {target}, which is no plain ATen operator: save what its "
            "run_decompositions() gives, or wrap it as python:MODULE:FUNCTION."
        )
    return found


def _argument(path: Path, argument: dict[str, Any], device: str) -> Any:
    """A node's argument as a constant, a `_Result`, or a list of both."""
    ((kind, value),) = argument.items()
    if kind == "as_none":
        return None
    if kind == "as_tensor":
        return _Result(value["name"])
    if kind == "as_tensors":
        return [_Result(each["name"]) for each in value]
    if kind in ("as_optional_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools"):
        return [_argument(path, each, device) for each in value]
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return _argument(path, value, device)
    if kind == "as_name":
        return _Result(value)
    if kind in ("as_int", "as_bool", "as_string", "as_ints", "as_bools", "as_strings"):
        return value
    if kind == "as_float":
        return float(value)  # infinities are strings
    if kind == "as_floats":
        return [float(each) for each in value]
    if kind == "as_scalar_type":
        return _DTYPES[value]
    if kind == "as_memory_format":
        return _MEMORY_FORMATS[value]
    if kind == "as_device":
        return torch.device(device)
    if kind == "as_layout" and value == _STRIDED:
        return torch.strided
    raise ModelError(
        f"{path} gives an operator an argument {kind}, which is not understood here: "
        "save what its run_decompositions() gives, or wrap it as python:MODULE:FUNCTION."
    )


def _outputs(outputs: list[dict[str, Any]]) -> str | list[str]:
    """The name of a node's result, or the names of its parts; "" is None."""
    names: list[str] = []
    for output in outputs:
        ((kind, value),) = output.items()
        if kind == "as_tensors":
            return [each["name"] for each in value]
        names.append("" if kind == "as_none" else value.get("name", value.get("as_name")))
    return names[0] if len(names) == 1 else names


def _results(values: list[Any]) -> list[_Result]:
    flat = [each for value in values for each in (value if isinstance(value, list) else [value])]
    return [each for each in flat if isinstance(each, _Result)]


def _look_up(value: Any, found: dict[str, Any]) -> Any:
    if isinstance(value, _Result):
        return found[value.name]
    return [_look_up(each, found) for each in value] if isinstance(value, list) else value
