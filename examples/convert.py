"""Writes a network of this package as other frameworks' files, to try `--model onnx:...` with.

    python examples/convert.py --model shipped --out DIR

writes ``model.onnx``, ``model.ts`` (TorchScript), ``model.pt2`` (torch.export), ``model.keras`` and
``model.h5``. Each takes images in [0, 1], any number of them, and gives the network's own logits:
normalisation is inside. Every file is opened again as a user would, and compared with the network.
"""

import argparse
import functools
import importlib
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from restore_jax import checkpoints
from restore_jax.models import vit, winograd
from restore_jax.models.mobilenet import STAGES
from restore_jax.oracles.options import ModelOptions

TOLERANCE = 1e-4


class Layer(NamedTuple):
    """One step of a network.

    Its output is [b, H, W, C] until "max", "mean" or "patches"; [b, T, C] from "patches" to
    "mean_patches"; then [b, C].

    Attributes:
      kind: "affine" (x * scale + offset), "conv" (kernel HWIO, bias), "depthwise" (kernel HW1C,
        bias), "relu", "relu6", "gelu", "pool" (2x2 maximum), "add", "max" and "mean" (over
        places), "patches" (places in a row), "offset" (added; [1, T, C]), "norm" (of each patch by
        itself; scale, bias), "attention" (kernel and bias of queries, keys and values, kernel and
        bias of what comes out), "mean_patches" or "linear" (kernel IO, bias).
      inputs: which layers' outputs it takes; -1 is the images.
      arrays: its weights.
      stride, pads: of a convolution; zeros ((top, bottom), (left, right)).
      heads: of an attention.
    """

    kind: str
    inputs: tuple[int, ...]
    arrays: tuple[np.ndarray, ...] = ()
    stride: int = 1
    pads: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    heads: int = 1


Tree = dict[str, Any]


class Layers(list[Layer]):
    """Layers as they are put one behind the other; each method gives the number of its last."""

    def add(self, kind: str, *inputs: int, **more: Any) -> int:
        """Any layer."""
        self.append(Layer(kind, inputs, **more))
        return len(self) - 1

    def conv(self, x: int, tree: Tree, stride: int = 1, kind: str = "conv") -> int:
        """A convolution with its batch norm, and the pool between them."""
        kernel, bias = tree["conv"]["kernel"], tree["conv"]["bias"]
        kernel = np.asarray(winograd.plain(kernel)) if kernel.ndim == 3 else kernel
        pad = (kernel.shape[0] - 1) // 2
        pads = ((pad, pad), (pad, pad))
        x = self.add(kind, x, arrays=(kernel, bias), stride=stride, pads=pads)
        if "sign" in tree:
            arrays = (tree["sign"], np.zeros_like(tree["sign"]))
            x = self.add("affine", self.add("pool", x), arrays=arrays)
        return x

    def linear(self, x: int, tree: Tree) -> int:
        """A matrix and a bias."""
        kernel = tree["kernel"]
        bias = tree.get("bias", np.zeros(kernel.shape[1], np.float32))
        return self.add("linear", x, arrays=(kernel, bias))

    def norm(self, x: int, tree: Tree) -> int:
        """A norm of each patch."""
        return self.add("norm", x, arrays=(tree["scale"], tree["bias"]))


def layers_of(checkpoint: checkpoints.Checkpoint) -> list[Layer]:
    """The layers of a checkpoint's network, batch norm folded into its convolutions."""
    folded = checkpoint.network.fold(checkpoint.params, checkpoint.batch_stats)
    params, kept = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), folded)
    said, shape = checkpoint.metadata["normalisation"], checkpoint.network.image_shape
    mean, std = (np.resize(said[name], shape[2]) for name in ("mean", "std"))
    layers = Layers()
    x = layers.add("affine", -1, arrays=(np.float32(1 / std), np.float32(-mean / std)))
    if "encoders" in params:
        with_head(layers, transformer(layers, x, params, shape), params)
    elif "blocks" in params:
        with_head(layers, mobilenet(layers, x, params), params)
    elif "stem" in kept:
        x = pooled(layers, x, params, kept)
        if checkpoint.network.name.endswith(("_mean", "_narrow")):
            with_head(layers, layers.add("mean", x), params)
        else:
            with_head(layers, layers.add("max", x), params, 0.125)
    else:
        with_head(layers, residual(layers, x, params), params)
    return layers


def with_head(layers: Layers, x: int, params: Tree, scale: float = 1.0) -> None:
    """The last layer of all."""
    head = params["head"]
    layers.linear(x, head | {"kernel": np.float32(scale) * head["kernel"]})


def ordered(tree: Tree) -> list[Tree]:
    """What is numbered, by number."""
    return [tree[index] for index in sorted(tree)]


def pooled(layers: Layers, x: int, params: Tree, kept: Tree) -> int:
    """A `PooledResNet`, up to the maximum or mean over places."""
    kernel = (kept["stem"]["kernel"], params["stem"]["bias"])
    x = layers.add("relu", layers.add("conv", x, arrays=kernel, pads=((0, 1), (0, 1))))
    for stage in ordered(params["stages"]):
        x = layers.add("relu", layers.conv(x, stage["first"]))
        x = layers.add("add", x, layers.add("relu", layers.conv(x, stage["second"])))
    return x


def residual(layers: Layers, x: int, params: Tree) -> int:
    """A `ResNet`, up to its head."""
    x = layers.add("relu", layers.conv(x, params["stem"]))
    for block in ordered(params["stages"]):
        stride = 2 if "shortcut" in block else 1
        inner = layers.add("relu", layers.conv(x, block["first"], stride))
        inner = layers.conv(inner, block["second"])
        shortcut = layers.conv(x, block["shortcut"], stride) if "shortcut" in block else x
        x = layers.add("relu", layers.add("add", inner, shortcut))
    return layers.add("mean", x)


def mobilenet(layers: Layers, x: int, params: Tree) -> int:
    """A `MobileNet`, up to its head."""
    x = layers.add("relu6", layers.conv(x, params["stem"]))
    strides = [stride for stage in STAGES for stride in stage.strides]
    width = params["stem"]["conv"]["bias"].size
    for block, stride in zip(ordered(params["blocks"]), strides, strict=True):
        inner = layers.add("relu6", layers.conv(x, block["widen"])) if "widen" in block else x
        inner = layers.add("relu6", layers.conv(inner, block["each"], stride, "depthwise"))
        inner = layers.conv(inner, block["narrow"])
        before, width = width, block["narrow"]["conv"]["bias"].size
        x = layers.add("add", x, inner) if (stride, before) == (1, width) else inner
    x = layers.add("relu6", layers.conv(x, params["last"]))
    return layers.add("mean", x)


def transformer(layers: Layers, x: int, params: Tree, shape: tuple[int, int, int]) -> int:
    """A `ViT`, up to its head."""
    kernel, bias = params["embed"]["kernel"], params["embed"]["bias"]
    side = math.isqrt(kernel.shape[0] // shape[2])
    kernel = kernel.reshape(side, side, shape[2], -1)
    x = layers.add("patches", layers.add("conv", x, arrays=(kernel, bias), stride=side))
    places = vit.positions(shape[0] // side, shape[1] // side, kernel.shape[3])
    x = layers.add("offset", x, arrays=(places[None],))
    for encoder in ordered(params["encoders"]):
        inner = layers.norm(x, encoder["before_attention"])
        ask, tell = encoder["attention"]["ask"], encoder["attention"]["tell"]
        arrays = (ask["kernel"], ask["bias"], tell["kernel"], tell["bias"])
        inner = layers.add("attention", inner, arrays=arrays, heads=vit.HEADS)
        x = layers.add("add", x, inner)
        inner = layers.linear(layers.norm(x, encoder["before_layers"]), encoder["first"])
        inner = layers.linear(layers.add("gelu", inner), encoder["second"])
        x = layers.add("add", x, inner)
    return layers.add("mean_patches", layers.norm(x, params["before_head"]))


class Graph:
    """Nodes and weights of an ONNX file; both methods give the name of what they make."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def node(self, kind: str, *inputs: str, to: str = "", **more: Any) -> str:
        """A node with one output, which has a name of its own unless one is given."""
        from onnx import helper

        to = to or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [to], **more))
        return to

    def array(self, value: Any) -> str:
        """A constant."""
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def linear(self, x: str, kernel: np.ndarray, bias: np.ndarray, to: str = "") -> str:
        """A matrix and a bias, on the last axis."""
        return self.node("Add", self.node("MatMul", x, self.array(kernel)), self.array(bias), to=to)

    def attention(self, x: str, layer: Layer, to: str) -> str:
        """Attention of [b, T, C], in heads."""
        ask, ask_bias, tell, tell_bias = layer.arrays
        size = ask.shape[0] // layer.heads
        scale = (size**-0.5, 1.0, 1.0)  # of queries alone
        apart = self.array(np.array([0, 0, layer.heads, size]))
        parts = []
        for kernel, bias, by, perm in zip(
            np.split(ask, 3, 1), np.split(ask_bias, 3), scale,
            ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True,
        ):  # fmt: skip
            part = self.linear(x, np.float32(by) * kernel, np.float32(by) * bias)
            parts.append(self.node("Transpose", self.node("Reshape", part, apart), perm=perm))
        query, key, value = parts
        shares = self.node("Softmax", self.node("MatMul", query, key), axis=-1)
        told = self.node("Transpose", self.node("MatMul", shares, value), perm=[0, 2, 1, 3])
        told = self.node("Reshape", told, self.array(np.array([0, 0, layer.heads * size])))
        return self.linear(told, tell, tell_bias, to)

    def layer(self, layer: Layer, inputs: list[str], to: str) -> str:
        """Any layer."""
        arrays = layer.arrays
        if layer.kind == "affine":
            scale, offset = (self.array(array[:, None, None]) for array in arrays)
            return self.node("Add", self.node("Mul", *inputs, scale), offset, to=to)
        if layer.kind in ("conv", "depthwise"):
            (top, bottom), (left, right) = layer.pads
            more = {"strides": [layer.stride] * 2, "pads": [top, left, bottom, right]}
            more |= {"group": arrays[1].size} if layer.kind == "depthwise" else {}
            weights = (self.array(arrays[0].transpose(3, 2, 0, 1)), self.array(arrays[1]))
            return self.node("Conv", *inputs, *weights, to=to, **more)
        if layer.kind == "pool":
            return self.node("MaxPool", *inputs, to=to, kernel_shape=[2, 2], strides=[2, 2])
        if layer.kind in ("max", "mean"):
            pooling = "GlobalMaxPool" if layer.kind == "max" else "GlobalAveragePool"
            return self.node("Flatten", self.node(pooling, *inputs), to=to)
        if layer.kind == "relu6":
            limits = (self.array(np.float32(0)), self.array(np.float32(6)))
            return self.node("Clip", *inputs, *limits, to=to)
        if layer.kind == "gelu":
            x = self.node("Mul", *inputs, self.array(np.float32(0.5**0.5)))
            share = self.node("Add", self.node("Erf", x), self.array(np.float32(1)))
            half = self.node("Mul", *inputs, self.array(np.float32(0.5)))
            return self.node("Mul", half, share, to=to)
        if layer.kind == "patches":
            row = self.node("Reshape", *inputs, self.array(np.array([0, 0, -1])))
            return self.node("Transpose", row, to=to, perm=[0, 2, 1])
        if layer.kind == "norm":
            weights = (self.array(arrays[0]), self.array(arrays[1]))
            more = {"axis": -1, "epsilon": vit.NORM_EPSILON}
            return self.node("LayerNormalization", *inputs, *weights, to=to, **more)
        if layer.kind == "mean_patches":
            return self.node("ReduceMean", *inputs, to=to, axes=[1], keepdims=0)
        if layer.kind == "attention":
            return self.attention(inputs[0], layer, to)
        if layer.kind == "linear":
            return self.linear(inputs[0], *arrays, to)
        operator = {"relu": "Relu", "add": "Add", "offset": "Add"}[layer.kind]
        return self.node(operator, *inputs, *map(self.array, arrays), to=to)


def write_onnx(layers: list[Layer], shape: tuple[int, int, int], path: Path) -> None:
    """An ONNX file with the input ``images`` [b, H, W, C]."""
    from onnx import TensorProto, checker, helper, save

    made = Graph()
    made.node("Transpose", "images", to="x-1", perm=[0, 3, 1, 2])
    for index, layer in enumerate(layers):
        output = made.layer(layer, [f"x{n}" for n in layer.inputs], f"x{index}")
    classes = layers[-1].arrays[1].size
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *shape])
    logits = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph(made.nodes, "restore-jax", [images], [logits], made.weights)
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
                    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, range(array.ndim))
                    tensor = torch.tensor(np.ascontiguousarray(array.transpose(*axes)))
                    self.register_buffer(f"w{index}_{n}", tensor)

        def forward(self, images: Any) -> Any:
            """Logits [b, K] of images [b, C, H, W]."""
            outputs = [images]
            for index, layer in enumerate(layers):
                x, *others = (outputs[n + 1] for n in layer.inputs)
                weights = [getattr(self, f"w{index}_{n}") for n in range(len(layer.arrays))]
                if layer.kind == "affine":
                    x = x * weights[0][:, None, None] + weights[1][:, None, None]
                elif layer.kind in ("conv", "depthwise"):
                    x = functional.pad(x, (*layer.pads[1], *layer.pads[0]))
                    groups = x.shape[1] if layer.kind == "depthwise" else 1
                    x = functional.conv2d(x, *weights, stride=layer.stride, groups=groups)
                elif layer.kind in ("relu", "relu6", "gelu"):
                    x = getattr(functional, layer.kind)(x)
                elif layer.kind == "pool":
                    x = functional.max_pool2d(x, 2)
                elif layer.kind == "add":
                    x = x + others[0]
                elif layer.kind == "linear":
                    x = functional.linear(x, *weights)
                elif layer.kind == "patches":
                    x = x.flatten(2).transpose(1, 2)
                elif layer.kind == "offset":
                    x = x + weights[0]
                elif layer.kind == "norm":
                    x = functional.layer_norm(x, x.shape[2:], *weights, vit.NORM_EPSILON)
                elif layer.kind == "attention":
                    asked = functional.linear(x, *weights[:2]).unflatten(2, (3, layer.heads, -1))
                    told = functional.scaled_dot_product_attention(
                        *asked.permute(2, 0, 3, 1, 4).unbind(0)
                    )
                    x = functional.linear(told.transpose(1, 2).flatten(2), *weights[2:])
                elif layer.kind == "mean_patches":
                    x = x.mean(1)
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


def keras_weights(layer: Layer) -> list[np.ndarray]:
    """A layer's weights in Keras' shapes and order."""
    if layer.kind == "depthwise":
        return [layer.arrays[0].swapaxes(2, 3), layer.arrays[1]]
    if layer.kind != "attention":
        return list(layer.arrays)
    ask, ask_bias, tell, tell_bias = layer.arrays
    kernels = [part.reshape(len(ask), layer.heads, -1) for part in np.split(ask, 3, 1)]
    biases = [part.reshape(layer.heads, -1) for part in np.split(ask_bias, 3)]
    asked = [array for pair in zip(kernels, biases, strict=True) for array in pair]
    return [*asked, tell.reshape(layer.heads, -1, tell.shape[1]), tell_bias]


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
        elif layer.kind in ("conv", "depthwise"):
            inputs = [keras.layers.ZeroPadding2D(layer.pads)(inputs[0])]
            kernel = layer.arrays[0].shape
            if layer.kind == "conv":
                made = keras.layers.Conv2D(kernel[3], kernel[:2], strides=layer.stride)
            else:
                made = keras.layers.DepthwiseConv2D(kernel[:2], strides=layer.stride)
        elif layer.kind == "add":
            made, inputs = keras.layers.Add(), [inputs]
        elif layer.kind == "linear":
            made = keras.layers.Dense(layer.arrays[1].size)
        elif layer.kind == "relu6":
            made = keras.layers.ReLU(max_value=6.0)
        elif layer.kind == "patches":
            made = keras.layers.Reshape((-1, inputs[0].shape[3]))
        elif layer.kind == "offset":
            made = keras.layers.Rescaling(1.0, layer.arrays[0].tolist())
        elif layer.kind == "norm":
            made = keras.layers.LayerNormalization(epsilon=vit.NORM_EPSILON)
        elif layer.kind == "attention":
            size = inputs[0].shape[2] // layer.heads
            made, inputs = keras.layers.MultiHeadAttention(layer.heads, size), 2 * inputs
        else:
            made = {
                "relu": keras.layers.ReLU,
                "gelu": functools.partial(keras.layers.Activation, "gelu"),
                "pool": keras.layers.MaxPooling2D,
                "max": keras.layers.GlobalMaxPooling2D,
                "mean": keras.layers.GlobalAveragePooling2D,
                "mean_patches": keras.layers.GlobalAveragePooling1D,
            }[layer.kind]()
        outputs.append(made(*inputs))
        if layer.kind in ("conv", "depthwise", "linear", "norm", "attention"):
            made.set_weights(keras_weights(layer))
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
