"""3x3 convolutions on this processor, in every form that was thought of.

Four layers in a row, of each shape that the networks have, rectified in between; forwards, and
forwards and backwards. All forms do one shape's layers in turns, in this one process. Speeds count
the multiplications and additions of the plain convolution, so that a form with fewer may pass
what the processor can do.
"""

import argparse
import datetime
import functools
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from roofline import ceilings
from timing import Contestant, processor, take_turns

from restore_jax.compilation import compiler_options
from restore_jax.environment import versions
from restore_jax.models import winograd

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ((32, 16), (16, 32), (8, 64), (32, 64), (16, 128), (8, 256), (4, 512))
"""Height (and width), channels in and out: those of resnet20, then those of resnet18."""
LAYERS = 4
IMAGES = 64
OWN = "XLA's own"
FORMS: dict[str, str] = {
    OWN: "NHWC, by Eigen, 64 images",
    "XLA's own, 32 images": "half a batch",
    "XLA's own, 8 images": "an eighth of one",
    "YNNPACK": "as XLA does by default: the compiler option is left out",
    "channels first": "NCHW",
    "channels padded": "to 32, with zeros",
    "two columns": "two outputs of a row as channels of one: a 3x4 kernel of stride (1, 2)",
    "two by two": "four outputs: a 4x4 kernel of stride 2",
    "Winograd": "F(2x2, 3x3), `models/winograd.py`",
    "Winograd, 8 images": "the same, eight images at a time",
    "bfloat16": "XLA's own",
    "PyTorch": "channels last, frozen TorchScript",
    "PyTorch, bfloat16": "likewise",
}
GRADIENTS = {
    OWN: "its gradients, too",
    "written out": "`winograd.convolve_trained`",
    "PyTorch": "channels last, eager",
}
OPTIONS: dict[str, Any] = {"padding": ((1, 1), (1, 1))}
NHWC, NCHW = ("NHWC", "HWIO", "NHWC"), ("NCHW", "HWIO", "NCHW")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--repeats", type=int, default=7, metavar="N")
    add("--out", type=Path, default=ROOT / "benchmarks/results/convolutions.md", metavar="FILE",
        help="the results, as Markdown; beside it .json")  # fmt: skip
    args = parser.parse_args()
    limits = ceilings(jnp.float32)
    tables: dict[str, dict[str, dict[str, Any]]] = {"forwards": {}, "backwards": {}}
    for height, channels in SHAPES:
        name = f"{height}x{height}x{channels}"
        print(f"-- {name}", file=sys.stderr, flush=True)
        tables["forwards"][name] = measured(forward_forms(height, channels), height, channels, args)
        tables["backwards"][name] = measured(
            gradient_forms(height, channels), height, channels, args, passes=3
        )
    used = dict(versions())
    if "torch" in sys.modules:
        used["torch"] = sys.modules["torch"].__version__
    result = {
        "tables": tables,
        "gigaflops": limits.flops / 1e9,
        "date": datetime.date.today().isoformat(),
        "device": f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        "versions": used,
    }
    args.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    write(result, args.out)


def measured(
    forms: dict[str, Callable[[], Any]], height: int, channels: int,
    args: argparse.Namespace, passes: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """GFLOP/s of each form: median, least and most."""
    contestants = [Contestant(name, IMAGES, go) for name, go in forms.items()]
    take_turns(contestants, args.repeats)
    flops = 2 * 9 * channels**2 * height**2 * LAYERS * passes / 1e9
    return {one.name: {k: v * flops for k, v in one.spread().items()} for one in contestants}


# The forms


def forward_forms(height: int, channels: int) -> dict[str, Callable[[], Any]]:
    images, kernels = given(height, channels)
    spread = jax.jit(jax.vmap(winograd.transformed))(kernels)
    expected = np.asarray(in_a_row(own)(images, kernels))
    layered = {
        OWN: (own, images, kernels, True),
        "XLA's own, 32 images": (at_a_time(own, 32), images, kernels, True),
        "XLA's own, 8 images": (at_a_time(own, 8), images, kernels, True),
        "YNNPACK": (own, images, kernels, False),
        "channels first": (channels_first, images.transpose(0, 3, 1, 2), kernels, True),
        "channels padded": (own, padded(images, 3), padded(padded(kernels, 3), 4), True),
        "two columns": (two_columns, images, kernels, True),
        "two by two": (two_by_two, images, kernels, True),
        "Winograd": (winograd.convolve, images, spread, True),
        "Winograd, 8 images": (at_a_time(winograd.convolve, 8), images, spread, True),
        "bfloat16": (own, images.astype(jnp.bfloat16), kernels.astype(jnp.bfloat16), True),
    }
    forms: dict[str, Callable[[], Any]] = {}
    for name, (layer, x, weights, eigen) in layered.items():
        if name == "channels padded" and channels >= 32:
            continue
        options = compiler_options() if eigen else {}
        run = jax.jit(in_a_row(layer)).lower(x, weights).compile(options)
        forms[name] = functools.partial(finished, run, x, weights)
        out = np.asarray(forms[name](), np.float32)
        out = out.transpose(0, 2, 3, 1) if name == "channels first" else out[..., :channels]
        check(name, out, expected)
    if importlib.util.find_spec("torch"):
        forms |= torch_forward(np.array(images), np.array(kernels), expected)
    return forms


def gradient_forms(height: int, channels: int) -> dict[str, Callable[[], Any]]:
    images, kernels = given(height, channels)
    forms: dict[str, Callable[[], Any]] = {}
    expected = None
    for name, layer in ((OWN, own), ("written out", winograd.convolve_trained)):

        def loss(kernels: Any, images: Any, layer: Any = layer) -> Any:
            return jnp.square(in_a_row(layer)(images, kernels)).mean()

        slope = jax.jit(jax.grad(loss, (0, 1)))
        run = slope.lower(kernels, images).compile(compiler_options())
        forms[name] = functools.partial(finished, run, kernels, images)
        found = np.asarray(forms[name]()[0])
        expected = found if expected is None else expected
        check(name, found, expected)
    if importlib.util.find_spec("torch"):
        forms["PyTorch"] = torch_gradient(np.array(images), np.array(kernels), expected)
    return forms


def given(height: int, channels: int) -> tuple[Any, Any]:
    """Images [IMAGES, height, height, channels] and kernels [LAYERS, 3, 3, channels, channels]."""
    images = jax.random.normal(jax.random.key(0), (IMAGES, height, height, channels))
    kernels = jax.random.normal(jax.random.key(1), (LAYERS, 3, 3, channels, channels))
    return images, kernels * (2 / (9 * channels)) ** 0.5


def in_a_row(layer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def all_layers(x: Any, kernels: Any) -> Any:
        for i in range(LAYERS):
            x = jnp.maximum(layer(x, kernels[i]), 0)
        return x

    return all_layers


def finished(run: Any, *given: Any) -> Any:
    return jax.block_until_ready(run(*given))


def check(name: str, found: Any, expected: Any) -> None:
    furthest = np.abs(found - expected).max() / np.abs(expected).max()
    if not furthest < (0.1 if "bfloat16" in name else 5e-3):
        sys.exit(f"{name} is off by {furthest:.2g}: not the same convolution.")


def own(x: Any, kernel: Any) -> Any:
    return lax.conv_general_dilated(x, kernel, (1, 1), dimension_numbers=NHWC, **OPTIONS)


def channels_first(x: Any, kernel: Any) -> Any:
    return lax.conv_general_dilated(x, kernel, (1, 1), dimension_numbers=NCHW, **OPTIONS)


def at_a_time(layer: Callable[[Any, Any], Any], images: int) -> Callable[[Any, Any], Any]:
    def some(x: Any, kernel: Any) -> Any:
        parts = x.reshape(-1, images, *x.shape[1:])
        return lax.map(lambda part: layer(part, kernel), parts).reshape(x.shape)

    return some


def padded(array: Any, axis: int) -> Any:
    size = array.shape[axis]
    widths = [(0, max(0, 32 - size) if i == axis else 0) for i in range(array.ndim)]
    return jnp.pad(array, widths)


def two_columns(x: Any, kernel: Any) -> Any:
    moved = [jnp.pad(kernel, ((0, 0), (j, 1 - j), (0, 0), (0, 0))) for j in range(2)]
    wide = jnp.concatenate(moved, -1)
    out = lax.conv_general_dilated(x, wide, (1, 2), dimension_numbers=NHWC, **OPTIONS)
    return out.reshape(x.shape)


def two_by_two(x: Any, kernel: Any) -> Any:
    b, height, width, channels = x.shape
    moved = [
        jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0)))
        for i in range(2)
        for j in range(2)
    ]
    wide = jnp.concatenate(moved, -1)
    out = lax.conv_general_dilated(x, wide, (2, 2), dimension_numbers=NHWC, **OPTIONS)
    out = out.reshape(b, height // 2, width // 2, 2, 2, channels)
    return out.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)


# PyTorch


def torch_layers(kernels: np.ndarray, dtype: Any) -> Any:
    import torch
    from torch import nn

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layers: list[Any] = []
    for kernel in kernels:
        layer = nn.Conv2d(*kernel.shape[2:], 3, padding=1, bias=False)
        layer.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers).to(dtype).to(memory_format=torch.channels_last)


def torch_images(images: np.ndarray, dtype: Any) -> Any:
    import torch

    moved = torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype)
    return moved.contiguous(memory_format=torch.channels_last)


def torch_forward(
    images: np.ndarray, kernels: np.ndarray, expected: np.ndarray
) -> dict[str, Callable[[], Any]]:
    import torch

    forms: dict[str, Callable[[], Any]] = {}
    for name, dtype in (("PyTorch", torch.float32), ("PyTorch, bfloat16", torch.bfloat16)):
        x = torch_images(images, dtype)
        with torch.inference_mode():
            module = torch.jit.freeze(torch.jit.trace(torch_layers(kernels, dtype).eval(), x))

        def go(module: Any = module, x: Any = x) -> Any:
            with torch.inference_mode():
                return module(x)

        for _ in range(3):
            out = go()
        check(name, out.float().permute(0, 2, 3, 1).numpy(), expected)
        forms[name] = go
    return forms


def torch_gradient(images: np.ndarray, kernels: np.ndarray, expected: Any) -> Callable[[], Any]:
    import torch

    module = torch_layers(kernels, torch.float32)
    x = torch_images(images, torch.float32).requires_grad_()
    weights = [layer.weight for layer in module if hasattr(layer, "weight")]

    def go() -> Any:
        return torch.autograd.grad(module(x).square().mean(), [*weights, x])

    found = np.stack([slope.permute(2, 3, 1, 0).numpy() for slope in go()[:-1]])
    check("PyTorch", found, expected)
    return go


# Writing


def write(result: dict[str, Any], out: Path) -> None:
    lines = ["# Convolutions on a CPU", ""]
    lines += [
        f"GFLOP/s, medians (least–most), of four 3x3 layers in a row on {IMAGES} images; a large "
        f"matrix product in float32 does {result['gigaflops']:.0f}. What a network of this "
        "package does: forwards XLA's own below 32 channels and Winograd from there on, backwards "
        "what is written out.",
        "",
    ]
    for title, names in (("forwards", FORMS), ("backwards", GRADIENTS)):
        columns = result["tables"][title]
        heading = "Forwards" if title == "forwards" else "Forwards and backwards"
        lines += [f"## {heading}", "", "| | " + " | ".join(columns) + " |"]
        lines += ["|---" * (len(columns) + 1) + "|"]
        for name in names:
            cells = [cell(column.get(name)) for column in columns.values()]
            lines += [f"| {name} | " + " | ".join(cells) + " |"]
        lines += ["", *(f"- {name}: {what}." for name, what in names.items()), ""]
    used = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += [
        f"{result['date']}, {result['device']}; {used}; made by "
        "`python benchmarks/convolutions.py`."
    ]
    out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def cell(value: dict[str, float] | None) -> str:
    if value is None:
        return "–"
    return f"{value['median']:.0f} ({value['min']:.0f}–{value['max']:.0f})"


if __name__ == "__main__":
    main()
