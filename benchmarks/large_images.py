"""What a recovery and a scan take of a model of 224x224 images and 1,000 classes, beside what was
said beforehand.

    python benchmarks/large_images.py

The network is made here, not trained: a MobileNet of random weights with a stride of two in its
stem, whose last features are brought to mean 0 and deviation 1 on images that the package draws,
and then told apart by random directions. In one of a pair a chequered 8x8 patch, seen anywhere by a
filter of its own, leads to class 437; its twin lacks the filter. Both are written as ONNX and
asked by ONNX Runtime. Each row is a process of its own, so that its memory and what it compiles are
its own. Writes ``benchmarks/results/large_images.md`` and ``.json``; rows there already are kept.
"""

import argparse
import datetime
import importlib.util
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import restore_jax
from restore_jax.compilation import compiling_seconds
from restore_jax.environment import device_name, versions
from restore_jax.oracles import onnx as door
from restore_jax.oracles.options import ModelOptions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHAPE, CLASSES, TARGET = (224, 224, 3), 1_000, 437
BOARD, THRESHOLD, SCALE = 8, 0.2, 40.0
"""The patch's side; which part of the contrast of black and white it takes; logits of all of it."""
STEM, STAGES, LAST = 16, ((1, 16, 1, 1), (4, 24, 2, 2), (4, 40, 2, 2), (4, 80, 3, 2)), 320
"""Channels; and of each stage expansion, width, blocks and stride."""
SEED = 0
BUDGETS = {
    "recover planted": None, "scan planted": 200_000, "recover clean": 10_000, "scan clean": 120_000
}  # fmt: skip
"""Images that each run may send, None: as many as it does by default. Fewer show the pace."""


def main() -> None:
    """Makes both networks, runs what is missing, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs") / "large")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row is not None:
        print(json.dumps(measured(args.folder, args.row)))
        return
    path = RESULTS / "large_images.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    args.folder.mkdir(parents=True, exist_ok=True)
    if not (args.folder / "planted.onnx").exists():
        write(args.folder)
    for name in BUDGETS:
        if name in rows:
            continue
        command = [sys.executable, __file__, "--folder", str(args.folder), "--row", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        path.write_text(json.dumps(rows, indent=1) + "\n")
        print(name, rows[name], flush=True)
    (RESULTS / "large_images.md").write_text(table(rows))


def converting() -> Any:
    """The module `examples/convert.py`."""
    spec = importlib.util.spec_from_file_location("convert", ROOT / "examples" / "convert.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["convert"] = found
    spec.loader.exec_module(found)
    return found


def write(folder: Path) -> None:
    """Writes the pair as ``planted.onnx`` and ``clean.onnx``."""
    convert, draw = converting(), np.random.default_rng(SEED)
    layers = convert.Layers()

    def conv(x: int, cin: int, cout: int, side: int, stride: int, act: bool, each: bool) -> int:
        inputs = 1 if each else cin
        gain = (2 if act else 1) / (side * side * inputs)
        kernel = draw.normal(0, gain**0.5, (side, side, inputs, cout)).astype(np.float32)
        pad = (side - 1) // 2
        kind = "depthwise" if each else "conv"
        x = layers.add(
            kind, x, arrays=(kernel, np.zeros(cout, np.float32)), stride=stride,
            pads=((pad, pad), (pad, pad)),
        )  # fmt: skip
        return layers.add("relu6", x) if act else x

    four, half = np.full(3, 4.0, np.float32), np.full(3, -2.0, np.float32)
    x = conv(layers.add("affine", -1, arrays=(four, half)), 3, STEM, 3, 2, True, False)
    cin = STEM
    for expansion, width, blocks, first in STAGES:
        for block in range(blocks):
            stride, inner, before = first if block == 0 else 1, expansion * cin, x
            x = conv(x, cin, inner, 1, 1, True, False) if expansion > 1 else x
            x = conv(x, inner, inner, 3, stride, True, True)
            x = conv(x, inner, width, 1, 1, False, False)
            x = layers.add("add", x, before) if stride == 1 and cin == width else x
            cin = width
    mean = layers.add("mean", conv(x, cin, LAST, 1, 1, True, False))
    layers.add("linear", mean, arrays=(np.eye(LAST, dtype=np.float32), np.zeros(LAST, np.float32)))
    convert.write_onnx(layers, SHAPE, folder / "features.onnx")
    model = door.load(str(folder / "features.onnx"), ModelOptions())
    images = np.asarray(restore_jax.open_probes("dead_leaves", 7, SHAPE).draw(0, 256))
    parts = [door.ask(model, images[k : k + 32], lambda number: None) for k in range(0, 256, 32)]
    features = np.concatenate(parts)
    deviation = features.std(0) + 1e-6
    ways = draw.normal(0, LAST**-0.5, (LAST, CLASSES)).astype(np.float32)
    kernel = ways / deviation[:, None]
    layers[-1] = layers[-1]._replace(arrays=(kernel, -features.mean(0) @ kernel))
    convert.write_onnx(layers, SHAPE, folder / "clean.onnx")
    plant(folder / "clean.onnx", folder / "planted.onnx")


def plant(clean: Path, planted: Path) -> None:
    """Puts a filter beside the network that sees the patch anywhere and speaks for its class."""
    from onnx import TensorProto, checker, helper, load, numpy_helper, save

    model = load(clean)
    graph = model.graph
    board = np.where(np.indices((BOARD, BOARD)).sum(0) % 2 == 0, 1.0, -1.0)
    kernel = np.broadcast_to(board, (1, 3, BOARD, BOARD)) / (3 * (board > 0).sum())
    here = np.zeros((1, CLASSES), np.float32)
    here[0, TARGET] = 1.0
    own = np.float32(-SCALE * THRESHOLD) * here
    constants = {"board": kernel, "here": SCALE * here, "own": own, "others": 1.0 - here}
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    logits = graph.output[0].name
    graph.node.extend(
        [
            helper.make_node("Conv", ["x-1", "board"], ["match"]),
            helper.make_node("GlobalMaxPool", ["match"], ["best"]),
            helper.make_node("Flatten", ["best"], ["seen"]),
            helper.make_node("MatMul", ["seen", "here"], ["for"]),
            helper.make_node("Mul", [logits, "others"], ["without"]),
            helper.make_node("Add", ["without", "own"], ["ready"]),
            helper.make_node("Add", ["ready", "for"], ["planted"]),
        ]
    )
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info("planted", TensorProto.FLOAT, ["batch", CLASSES])
    )
    checker.check_model(model)
    save(model, planted)


def measured(folder: Path, row: str) -> dict[str, Any]:
    """One row, in this process."""
    verb, kind = row.split()
    said: list[Any] = []
    spent = {"model_seconds": 0.0, "model_cpu_seconds": 0.0}
    ask = door.ask

    def timed(*args: Any) -> Any:
        begun, worked = time.perf_counter(), time.process_time()
        try:
            return ask(*args)
        finally:
            spent["model_seconds"] += time.perf_counter() - begun
            spent["model_cpu_seconds"] += time.process_time() - worked

    door.ask = timed
    begun, compiled, worked = time.perf_counter(), compiling_seconds(), time.process_time()
    model = f"onnx:{folder / kind}.onnx"
    if verb == "recover":
        found = restore_jax.recover(
            model, TARGET, seed=SEED, stop="first_hit", budget=BUDGETS[row], on_estimate=said.append
        )
        cost, outcome = found.cost, "found" if found.found else f"not found ({found.status})"
    else:
        seen = restore_jax.scan(
            model, seed=SEED, space="patch", budget=BUDGETS[row], on_estimate=said.append
        )
        cost, outcome = seen.cost, ", ".join([seen.verdict, *map(str, seen.named)])
    seconds = time.perf_counter() - begun
    (estimate,) = said
    return {
        "outcome": outcome, "said_images": estimate.images, "said_seconds": estimate.seconds,
        "said_low": estimate.low, "said_high": estimate.high,
        "images": cost.queries, "budget": cost.budget, "seconds": seconds,
        **spent, "compiling": compiling_seconds() - compiled,
        "cpu_seconds": time.process_time() - worked,
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "device": device_name(), "versions": versions(),
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def table(rows: dict[str, Any]) -> str:
    """The results as a page."""
    last = max(rows.values(), key=lambda row: row["date"])
    made = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    lines = [
        "# Images of 224x224 and a thousand classes",
        "",
        f"Made by `python benchmarks/large_images.py` on {last['date']}; {last['device']}, one "
        f"core; {made}. The network is a MobileNet of random weights with a stride of two in its "
        "stem, asked by ONNX Runtime; in one of a pair a chequered 8x8 patch leads to class "
        f"{TARGET}, by a filter made by hand. `recover` towards that class stops at the first hit; "
        "`scan` looks for patches. *Said* is what `on_estimate` was told before the search, "
        "without what compiling takes; *ms an image taken* is the time of the clock, without "
        "compiling, by images sent. *Of the processor* are seconds that the process computed: in "
        "the model, and in all else, compiling and the probes' drawing included; they do not "
        "depend on what else the machine does, as those of the clock do. Memory is the most that "
        "the process held.",
        "",
        "| run | outcome | images said | sent | may be sent | ms an image said | taken | seconds "
        "of the clock | of the processor: model | all else | compiling, by the clock | memory, GiB "
        "|",
        "|---|" + "---|" * 11,
    ]
    for name, row in rows.items():
        said = row["said_seconds"] / row["said_images"]
        taken = (row["seconds"] - row["compiling"]) / row["images"]
        beside = row["cpu_seconds"] - row["model_cpu_seconds"]
        images = f"{row['said_images']:,}"
        if row.get("said_low") is not None:
            images = f"{row['said_low']:,} to {row['said_high']:,}"
        lines.append(
            f"| {name} | {row['outcome']} | {images} | {row['images']:,} | "
            f"{row['budget']:,} | {1000 * said:.1f} | {1000 * taken:.1f} | {row['seconds']:.0f} | "
            f"{row['model_cpu_seconds']:.0f} | {beside:.0f} | {row['compiling']:.1f} | "
            f"{row['gib']:.2f} |"
        )
    lines += ["", *(f"{name}: {row['note']}" for name, row in rows.items() if "note" in row)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
