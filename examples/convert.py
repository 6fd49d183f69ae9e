"""Writes a network of this package as other frameworks' files, to try `--model onnx:...` with.

    python examples/convert.py --model shipped --out DIR

writes ``model.onnx``, ``model.ts`` (TorchScript), ``model.pt2`` (torch.export), ``model.keras`` and
``model.h5``. Each takes images in [0, 1], any number of them, and gives the network's own logits:
normalisation is inside. Every file is opened again as a user would, and compared with the network.
"""

import argparse
import importlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from restore_jax import checkpoints
from restore_jax.models import winograd
from restore_jax.oracles.options import ModelOptions

TOLERANCE = 1e-4


class Layer(NamedTuple):
    """One step of a network; its output is [b, H, W, C] until "max" or "mean", then [b, C].

    Attributes:
      kind: "affine" (x * scale + offset), "conv" (kernel HWIO, bias), "relu", "pool" (2x2 maximum),
        "add", "max" and "mean" (over places) or "linear" (kernel IO, bias).
      inputs: which layers' outputs it takes; -1 is the images.
      arrays: its weights.
      stride, pads: of a convolution; zeros ((top, bottom), (left, right)).
    """

    kind: str
    inputs: tuple[int, ...]
    arrays: tuple[np.ndarray, ...] = ()
    stride: int = 1
    pads: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))


def layers_of(checkpoint: checkpoints.Checkpoint) -> list[Layer]:
    """The layers of a checkpoint's network, batch norm folded into its convolutions."""
    folded = checkpoint.network.fold(checkpoint.params, checkpoint.batch_stats)
    params, kept = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), folded)
    layers: list[Layer] = []

    def add(kind: str, *inputs: int, **more: Any) -> int:
        layers.append(Layer(kind, inputs, **more))
        return len(layers) - 1

    def conv(x: int, tree: dict[str, Any], stride: int = 1) -> int:
        kernel, bias = tree["conv"]["kernel"], tree["conv"]["bias"]
        kernel = np.asarray(winograd.plain(kernel)) if kernel.ndim == 3 else kernel
        pad = (kernel.shape[0] - 1) // 2
        pads = ((pad, pad), (pad, pad))
        x = add("conv", x, arrays=(kernel, bias), stride=stride, pads=pads)
        if "sign" in tree:
            x = add("affine", add("pool", x), arrays=(tree["sign"], np.zeros_like(tree["sign"])))
        return x

    said, channels = checkpoint.metadata["normalisation"], checkpoint.network.image_shape[2]
    mean, std = (np.resize(said[name], channels) for name in ("mean", "std"))
    x = add("affine", -1, arrays=(np.float32(1 / std), np.float32(-mean / std)))
    stages = [params["stages"][index] for index in sorted(params["stages"])]
    if "stem" in kept:
        kernel = (kept["stem"]["kernel"], params["stem"]["bias"])
        x = add("relu", add("conv", x, arrays=kernel, pads=((0, 1), (0, 1))))
        for stage in stages:
            x = add("relu", conv(x, stage["first"]))
            x = add("add", x, add("relu", conv(x, stage["second"])))
    else:
        x = add("relu", conv(x, params["stem"]))
        for block in stages:
            stride = 2 if "shortcut" in block else 1
            inner = conv(add("relu", conv(x, block["first"], stride)), block["second"])
            shortcut = conv(x, block["shortcut"], stride) if "shortcut" in block else x
            x = add("relu", add("add", inner, shortcut))
    kernel = params["head"]["kernel"]
    bias = params["head"].get("bias", np.zeros(kernel.shape[1], np.float32))
    largest = "stem" in kept and not checkpoint.network.name.endswith(("_mean", "_narrow"))
    x = add("max" if largest else "mean", x)
    add("linear", x, arrays=(0.125 * kernel if largest else kernel, bias))
    return layers


def write_onnx(layers: list[Layer], shape: tuple[int, int, int], path: Path) -> None:
    """An ONNX file with the input ``images`` [b, H, W, C]."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    nodes = [helper.make_node("Transpose", ["images"], ["x-1"], perm=[0, 3, 1, 2])]
    weights = []
    for index, layer in enumerate(layers):
        names = [f"w{index}.{n}" for n in range(len(layer.arrays))]
        arrays, more = layer.arrays, {}
        if layer.kind == "affine":
            arrays = tuple(array[:, None, None] for array in arrays)
        elif layer.kind == "conv":
            (top, bottom), (left, right) = layer.pads
            arrays = (arrays[0].transpose(3, 2, 0, 1), arrays[1])
            more = {"strides": [layer.stride] * 2, "pads": [top, left, bottom, right]}
        elif layer.kind == "pool":
            more = {"kernel_shape": [2, 2], "strides": [2, 2]}
        weights += [
            numpy_helper.from_array(np.ascontiguousarray(array), name)
            for array, name in zip(arrays, names, strict=True)
        ]
        inputs, output = [f"x{n}" for n in layer.inputs], f"x{index}"
        if layer.kind == "affine":
            nodes.append(helper.make_node("Mul", [*inputs, names[0]], [f"{output}.scaled"]))
            nodes.append(helper.make_node("Add", [f"{output}.scaled", names[1]], [output]))
        elif layer.kind in ("max", "mean"):
            pooling = "GlobalMaxPool" if layer.kind == "max" else "GlobalAveragePool"
            nodes.append(helper.make_node(pooling, inputs, [f"{output}.pooled"]))
            nodes.append(helper.make_node("Flatten", [f"{output}.pooled"], [output]))
        else:
            operator = {"conv": "Conv", "relu": "Relu", "pool": "MaxPool", "add": "Add"}
            kind = operator.get(layer.kind, "Gemm")
            nodes.append(helper.make_node(kind, inputs + names, [output], **more))
    classes = layers[-1].arrays[1].size
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *shape])
    logits = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph(nodes, "restore-jax", [images], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save(model, path)


def torch_module(layers: list[Layer]) -> Any:
    """The layers as a PyTorch module that takes [b, C, H, W]."""
    import torch
    from torch.nn import functional

    class Converted(torch.nn.Module):
        """Runs the layers one by one; tracing and exporting unroll the loop."""

        def __init__(self) -> None:
            super().__init__()
            for index, layer in enumerate(layers):
                for n, array in enumerate(layer.arrays):
                    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, (0,))
                    tensor = torch.tensor(np.ascontiguousarray(array.transpose(axes)))
                    self.register_buffer(f"w{index}_{n}", tensor)

        def forward(self, images: Any) -> Any:
            """Logits [b, K] of images [b, C, H, W]."""
            outputs = [images]
            for index, layer in enumerate(layers):
                x, *others = (outputs[n + 1] for n in layer.inputs)
                weights = [getattr(self, f"w{index}_{n}") for n in range(len(layer.arrays))]
                if layer.kind == "affine":
                    x = x * weights[0][:, None, None] + weights[1][:, None, None]
                elif layer.kind == "conv":
                    x = functional.pad(x, (*layer.pads[1], *layer.pads[0]))
                    x = functional.conv2d(x, *weights, stride=layer.stride)
                elif layer.kind == "relu":
                    x = functional.relu(x)
                elif layer.kind == "pool":
                    x = functional.max_pool2d(x, 2)
                elif layer.kind == "add":
                    x = x + others[0]
                elif layer.kind == "linear":
                    x = functional.linear(x, *weights)
                else:
                    x = x.amax((2, 3)) if layer.kind == "max" else x.mean((2, 3))
                outputs.append(x)
            return outputs[-1]

    return Converted().eval()


def write_torchscript(layers: list[Layer], shape: tuple[int, int, int], path: Path) -> None:
    """A TorchScript file that takes [b, C, H, W]."""
    import torch

    height, width, channels = shape
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        traced = torch.jit.trace(torch_module(layers), torch.rand(2, channels, height, width))
        traced.save(path)


def write_exported(layers: list[Layer], shape: tuple[int, int, int], path: Path) -> None:
    """A torch.export program that takes [b, C, H, W]."""
    import torch

    height, width, channels = shape
    program = torch.export.export(
        torch_module(layers),
        (torch.rand(2, channels, height, width),),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    torch.export.save(program, path)


def write_keras(layers: list[Layer], shape: tuple[int, int, int], path: Path) -> None:
    """A functional Keras model that takes [b, H, W, C], as .keras or .h5."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    outputs = [keras.Input(shape, name="images")]
    for layer in layers:
        inputs = [outputs[n + 1] for n in layer.inputs]
        if layer.kind == "affine":
            scale, offset = (array.tolist() for array in layer.arrays)
            made = keras.layers.Rescaling(scale, offset)
        elif layer.kind == "conv":
            inputs = [keras.layers.ZeroPadding2D(layer.pads)(inputs[0])]
            kernel = layer.arrays[0].shape
            made = keras.layers.Conv2D(kernel[3], kernel[:2], strides=layer.stride)
        elif layer.kind == "add":
            made, inputs = keras.layers.Add(), [inputs]
        elif layer.kind == "linear":
            made = keras.layers.Dense(layer.arrays[1].size)
        else:
            made = {
                "relu": keras.layers.ReLU,
                "pool": keras.layers.MaxPooling2D,
                "max": keras.layers.GlobalMaxPooling2D,
                "mean": keras.layers.GlobalAveragePooling2D,
            }[layer.kind]()
        outputs.append(made(*inputs))
        if layer.kind in ("conv", "linear"):
            made.set_weights(layer.arrays)
    keras.Model(outputs[0], outputs[-1], name="restore_jax").save(path)


class Format(NamedTuple):
    """A file format: what `--formats` calls it is the file's ending.

    Attributes:
      scheme: the oracle that opens it.
      write: ``(layers, image_shape, path)``.
    """

    scheme: str
    write: Callable[[list[Layer], tuple[int, int, int], Path], None]


FORMATS = {
    "onnx": Format("onnx", write_onnx),
    "ts": Format("torch", write_torchscript),
    "pt2": Format("torch", write_exported),
    "keras": Format("keras", write_keras),
    "h5": Format("keras", write_keras),
}


def difference(scheme: str, path: Path, images: np.ndarray, logits: np.ndarray) -> float:
    """The largest difference between ``logits`` and what the file's model says of ``images``."""
    oracle = importlib.import_module(f"restore_jax.oracles.{scheme}")
    model = oracle.load(str(path), ModelOptions(image_shape=images.shape[1:]))
    return float(np.max(np.abs(oracle.ask(model, images, lambda _: None) - logits)))


def main() -> None:
    """Converts, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shipped", help='"shipped" or a checkpoint folder')
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--formats", nargs="+", choices=tuple(FORMATS), default=tuple(FORMATS))
    args = parser.parse_args()
    folder = checkpoints.PACKAGED.get(args.model, Path(args.model))
    checkpoint = checkpoints.load(folder)
    network, layers = checkpoint.network, layers_of(checkpoint)
    images = np.random.default_rng(0).random((64, *network.image_shape), np.float32)
    args.out.mkdir(parents=True, exist_ok=True)
    with jax.default_matmul_precision("highest"):
        folded = network.fold(checkpoint.params, checkpoint.batch_stats)
        logits = np.asarray(jax.jit(network.apply_folded)(folded, images))
        for ending in args.formats:
            path = args.out / f"model.{ending}"
            FORMATS[ending].write(layers, network.image_shape, path)
            off = difference(FORMATS[ending].scheme, path, images, logits)
            print(f"{path}: logits agree within {off:.1e}")
            if off > TOLERANCE:
                raise SystemExit(f"{path} does not compute what the network does.")


if __name__ == "__main__":
    main()
