"""Using a model that has backdoors: what purification takes away, and what it costs.

    python benchmarks/purification.py --data-dir DIR

scans the packaged model and the zoo's (blends, which a scan does not look for, are recovered),
purifies the CIFAR-10 test images as they are and with each planted trigger, and writes
``benchmarks/results/purification.md`` and ``.json``.
"""

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from zoo import RECOVERY, ZOO

from restore_jax import open_model, recover, scan
from restore_jax.backdoors import stamp
from restore_jax.data import cifar10
from restore_jax.environment import device_name, versions
from restore_jax.purification import Defended, defences
from restore_jax.recovery import planted_in
from restore_jax.run import Run

RESULTS = Path(__file__).parent / "results"
SPACES = {"patch": "patch", "pixels": "scattered", "blend": "blend", "stripes": "stripes"}


def measure(name: str, seed: int, images: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """One row per kind of input: the images as they are, and with each planted trigger."""
    oracle = open_model("shipped" if name == "shipped" else ZOO / name)
    planted = planted_in(oracle).values()
    spaces = {SPACES[one.to_json().get("kind", "patch")] for one in planted}
    if spaces == {"blend"}:
        recoveries = [
            recover(oracle, one.target, space="blend", stop="first_hit", seed=seed)
            for one in planted
        ]
        recoveries = [recovery for recovery in recoveries if recovery.found]
        spent = sum(recovery.queries for recovery in recoveries)
    else:
        found = scan(oracle, space=sorted(spaces), seed=seed)
        recoveries, spent = found.recoveries, found.queries
    targets = {int(recovery.trigger.target) for recovery in recoveries}
    if not targets >= {one.target for one in planted}:
        print(f"{name}, seed {seed}: not every trigger was found")
        return []
    run = Run(oracle, budget=1 << 40, seed=seed)
    defended = Defended(run, defences(run, recoveries))
    triggers = [None, *(one.trigger(oracle.image_shape) for one in planted)]
    rows = []
    base: dict[int, float] = {}
    for trigger in triggers:
        target = None if trigger is None else int(trigger.target)
        some = np.arange(len(images)) if target is None else np.flatnonzero(labels != target)
        inputs = images[some] if trigger is None else np.asarray(stamp(trigger, images[some]))
        before, began = defended.queries, time.perf_counter()
        outputs, flags, plain = defended(inputs)
        said, stands, truth = plain.argmax(-1), outputs.argmax(-1), labels[some]
        if target is None:
            # How often clean images of other classes are given each class: what ASR falls to.
            base = {k: float(np.mean(said[truth != k] == k)) for k in range(oracle.num_classes)}
        rows.append(
            {
                "model": name,
                "seed": seed,
                "input": "clean" if target is None else f"trigger to {oracle.class_names[target]}",
                "images": len(some),
                "targets": sorted(targets),
                "pixels": [int((np.asarray(one.trigger.mask) > 0).sum()) for one in recoveries],
                "search_queries": spent,
                "accuracy_before": float(np.mean(said == truth)),
                "accuracy_after": float(np.mean(stands == truth)),
                "asr_before": None if target is None else float(np.mean(said == target)),
                "asr_after": None if target is None else float(np.mean(stands == target)),
                "base_rate": None if target is None else base[target],
                "flagged": float(np.mean(flags)),
                "flagged_by_class": {
                    oracle.class_names[k]: float(np.mean(flags[truth == k]))
                    for k in range(oracle.num_classes)
                    if (truth == k).any()
                },
                "extra_queries": (defended.queries - before) / len(some) - 1.0,
                "seconds": time.perf_counter() - began,
            }
        )
        print({k: v for k, v in rows[-1].items() if k != "flagged_by_class"}, flush=True)
    return rows


def write(out: Path, rows: list[dict[str, Any]], missing: list[str]) -> None:
    """Writes the table and the rows."""
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    percent = lambda value: "" if value is None else f"{value:.2%}"  # noqa: E731
    lines = [
        "# Purification",
        "",
        f"`python benchmarks/purification.py` on {datetime.date.today()}, {device_name()}, "
        f"{os.cpu_count()} cores ({platform.system()}); {found}.",
        "",
        "With the triggers that a scan recovered from synthetic probes (of blends: a recovery), "
        "for whatever classes it accused, never the planted ones. "
        "Triggered inputs are the test images of other classes, stamped with the planted trigger. "
        "*Base rate*: how often the model gives clean images of other classes that class. "
        "*Extra queries*: per image, besides the one that is purified. Models are left out where a "
        "planted trigger's class was not found: " + (", ".join(missing) or "none") + ".",
        "",
        "| model | seed | input | images | accuracy before | after | ASR before | after "
        "| base rate | flagged | extra queries |",
        "|---" * 11 + "|",
    ]
    for row in rows:
        cells = [
            row["model"], str(row["seed"]), row["input"], f"{row['images']:,}",
            percent(row["accuracy_before"]), percent(row["accuracy_after"]),
            percent(row["asr_before"]), percent(row["asr_after"]), percent(row["base_rate"]),
            percent(row["flagged"]), f"{row['extra_queries']:.2f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Clean images flagged, by their class:", ""]
    for row in rows:
        if row["input"] == "clean":
            shares = ", ".join(
                f"{name} {share:.2%}" for name, share in row["flagged_by_class"].items() if share
            )
            lines.append(f"- {row['model']}, seed {row['seed']}: {shares or 'none'}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    out.with_suffix(".json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def main() -> None:
    """Runs everything and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="the TFDS folder that holds cifar10/")
    parser.add_argument("--seeds", type=int, default=3, help="packaged model (%(default)s)")
    parser.add_argument("--images", type=int, default=10_000, help="test images (%(default)s)")
    parser.add_argument("--models", nargs="+", default=None, help="of the zoo (all but clean)")
    parser.add_argument("--out", type=Path, default=RESULTS / "purification")
    args = parser.parse_args()
    images, labels = cifar10.load("test", args.data_dir)
    images = images[: args.images].astype(np.float32) / 255.0
    labels = labels[: args.images]
    zoo = sorted(RECOVERY)
    names = [name for name in zoo if name != "clean"] if args.models is None else args.models
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    for name, seed in [("shipped", s) for s in range(args.seeds)] + [(n, 0) for n in names]:
        if name == "shipped" or args.seeds:
            measured = measure(name, seed, images, labels)
            rows += measured
            missing += [] if measured else [name]
            write(args.out, rows, missing)


if __name__ == "__main__":
    main()
