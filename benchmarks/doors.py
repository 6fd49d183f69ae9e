"""Published networks of 224x224 images, with random weights, through each door that takes them.

    pip install 'restore-jax[keras,torch,onnx,hf]'
    taskset -c 0 python benchmarks/doors.py

The networks are built by their frameworks' own builders: five by `keras.applications`, a ViT-B/16
by `transformers`. Each is saved as its framework saves it, and exported to ONNX and by
`torch.export` where that can be done. A cell is a process of its own, which opens the file with
`restore_jax.open_model` and asks about the same images. Writes ``benchmarks/results/doors.md`` and
``.json``; cells there already are kept.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
SHAPE, CLASSES = (224, 224, 3), 1000
KERAS = ("MobileNetV2", "EfficientNetB0", "ResNet50", "DenseNet121", "ConvNeXtTiny")
VIT = "ViT-B/16"
TRACED, ON_TORCH = "keras, traced", "keras, on PyTorch"
DOORS = {
    **dict.fromkeys(KERAS, (TRACED, ON_TORCH, "onnx", "torch.export")),
    VIT: ("hf", "torch.export", "onnx"),
}
DEFAULTS = dict.fromkeys(KERAS, TRACED) | {VIT: "hf"}
"""The door of the file that the framework itself saves."""
IMAGES, SECONDS = 8, 5.0
"""In one question; and for how long it is asked again, the fastest counting."""
LIMIT = 600.0
"""Seconds that a cell may take, with compiling, on a machine that does other things, too."""


def main() -> None:
    """Makes the files, measures what is missing, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs") / "doors")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.make:
        make(args.folder, args.make)
        return
    if args.cell:
        print(json.dumps(measured(args.folder, *args.cell)))
        return
    path = RESULTS / "doors.json"
    cells = json.loads(path.read_text()) if path.exists() else {}
    for name, doors in DOORS.items():
        stem = args.folder / name.replace("/", "-")
        if any(f"{name}, {door}" not in cells for door in doors) and not stem.exists():
            called(args.folder, "torch", "--make", name)
            stem.touch()
        for door in doors:
            if f"{name}, {door}" in cells:
                continue
            backend = "torch" if door == ON_TORCH else "jax"
            said = called(args.folder, backend, "--cell", name, door)
            cells[f"{name}, {door}"] = json.loads(said)
            print(name, door, said, flush=True)
            path.write_text(json.dumps(cells, indent=1) + "\n")
    (RESULTS / "doors.md").write_text(table(cells))


def called(folder: Path, backend: str, *rest: str) -> str:
    """The last line that this script prints in a process of its own, with a backend of Keras."""
    command = [sys.executable, __file__, "--folder", str(folder), *rest]
    environment = os.environ | {"KERAS_BACKEND": backend}
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return json.dumps({"failed": type(error).__name__})
    return (done.stdout.splitlines() or ["{}"])[-1]


def make(folder: Path, name: str) -> None:
    """Writes a network as its framework saves it, and what it can be exported to."""
    import torch

    stem = folder / name.replace("/", "-")
    torch.manual_seed(0)
    if name == VIT:
        from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

        model = ViTForImageClassification(ViTConfig(num_labels=CLASSES)).eval()
        model.save_pretrained(f"{stem}-hf")
        ViTImageProcessor().save_pretrained(f"{stem}-hf")

        export(lambda pixels: model(pixels).logits, model, torch.zeros(2, 3, 224, 224), stem)
        return
    import keras

    network = getattr(keras.applications, name)(weights=None)
    network.save(f"{stem}.keras")
    export(lambda pixels: network(pixels, training=False), network, torch.zeros(2, *SHAPE), stem)


def export(call: Callable[[Any], Any], model: Any, example: Any, stem: Path) -> None:
    """Writes ONNX and a program of `torch.export`; says which of them cannot be had."""
    import torch

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Any) -> Any:
            return call(pixels)

    batch = torch.export.Dim("batch", min=1, max=512)
    try:
        program = torch.export.export(Plain().eval(), (example,), dynamic_shapes=({0: batch},))
        torch.export.save(program, f"{stem}.pt2")
        torch.onnx.export(program, (), f"{stem}.onnx", dynamo=True, external_data=False)
    except Exception as error:  # whatever an exporter raises, the file is then not there
        print(f"{stem.name}: {type(error).__name__}: {error}", file=sys.stderr)


def measured(folder: Path, name: str, door: str) -> dict[str, Any]:
    """One cell, in this process."""
    import jax

    import restore_jax
    from restore_jax.compilation import compiling_seconds
    from restore_jax.environment import device_name, versions

    stem = folder / name.replace("/", "-")
    spec = {"onnx": f"onnx:{stem}.onnx", "torch.export": f"torch:{stem}.pt2", "hf": f"hf:{stem}-hf"}
    place = spec.get(door, f"keras:{stem}.keras")
    if not Path(place.partition(":")[2]).exists():
        return {"failed": "not exported"}
    how: dict[str, Any] = {"image_shape": SHAPE} if door == "torch.export" else {}
    access = "probabilities" if name in KERAS else "logits"
    model = restore_jax.open_model(place, access, **how)
    images = np.random.default_rng(0).uniform(size=(IMAGES, *SHAPE)).astype(np.float32)
    began, compiled = time.process_time(), compiling_seconds()
    outputs = np.asarray(jax.block_until_ready(model.query(images)))
    first = time.process_time() - began
    took: list[float] = []
    while not took or time.process_time() - began < first + SECONDS:
        start = time.process_time()
        jax.block_until_ready(model.query(images))
        took.append(time.process_time() - start)
    of_door = {"onnx": "onnxruntime", "torch.export": "torch", "hf": "transformers"}
    more = {name: version(name) for name in {of_door.get(door, "keras")}}
    return {
        "milliseconds": 1000 * min(took) / IMAGES, "first_seconds": first,
        "compiling": compiling_seconds() - compiled, "repeats": len(took),
        "sum": float(np.abs(outputs).sum()), "cores": len(os.sched_getaffinity(0)),
        "device": device_name(), "versions": versions() | more,
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def table(cells: dict[str, Any]) -> str:
    """The results as a page."""
    done = [cell for cell in cells.values() if "milliseconds" in cell]
    last = max(done, key=lambda cell: cell["date"])
    known = {k: v for cell in done for k, v in cell["versions"].items()}
    made = ", ".join(f"{name} {version}" for name, version in known.items())
    lines = [
        "# Each door of a published network",
        "",
        f"Made by `python benchmarks/doors.py` on {last['date']}; {last['device']}, one core; "
        f"{made}. Networks of 224x224 images and 1,000 classes with random weights, from their "
        f"frameworks' own builders; {IMAGES} images at once; images a second of the processor, by "
        "the fastest question of five seconds. *First*: seconds of the processor for the first "
        "answer, compiling included. *The default* is the door of the file that the framework "
        "itself saves.",
        "",
        "| network | door | images a second | of the best | first, s |",
        "|---|---|---|---|---|",
    ]
    for name, doors in DOORS.items():
        mine = {door: cells.get(f"{name}, {door}", {}) for door in doors}
        times = [cell["milliseconds"] for cell in mine.values() if "milliseconds" in cell]
        for door, cell in mine.items():
            shown = f"{door} (the default)" if DEFAULTS[name] == door else door
            if "milliseconds" not in cell:
                lines.append(f"| {name} | {shown} | {cell.get('failed', '-')} | - | - |")
                continue
            lines.append(
                f"| {name} | {shown} | {1000 / cell['milliseconds']:.1f} | "
                f"{min(times) / cell['milliseconds']:.0%} | {cell['first_seconds']:.1f} |"
            )
    if "note" in cells:
        lines += ["", cells["note"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
