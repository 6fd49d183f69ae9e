"""Recoveries of the shipped model over seeds: planted triggers and clean classes.

    python benchmarks/recovery.py --data-dir DIR

runs both planted triggers at seeds 0-9 and every clean class at seeds 0-1 with the default
settings, measures each trigger on all CIFAR-10 test images of other classes, and writes
``benchmarks/results/recovery.md`` and ``.json``.
"""

import argparse
import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from restore_jax import Oracle, attack_success_rate, open_model, recover
from restore_jax.data import cifar10
from restore_jax.oracles import Asker
from restore_jax.recovery import planted_in

RESULTS = Path(__file__).parent / "results"


def spread(values: list[float], digits: int) -> str:
    """Median and range of some values."""
    low, middle, high = np.min(values), np.median(values), np.max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def one(
    oracle: Oracle, asker: Asker, target: int, seed: int, test_data: Any | None
) -> dict[str, Any]:
    """One recovery's row; the ASR on test data is measured where some is given."""
    recovery = recover(oracle, target, seed=seed)
    content = recovery.to_json()
    if test_data is not None:
        rate = attack_success_rate(oracle, recovery.trigger, *test_data, asker=asker)
        content["test_success_rate"] = rate
    keep = (
        "target", "target_name", "seed", "found", "status", "queries", "budget", "log10_prob",
        "log10_prob_interval", "best_score", "probe_success_rate", "confirmation_success_rate",
        "test_success_rate", "trigger_pixels", "truth", "seconds", "versions", "device",
    )  # fmt: skip
    row = {name: content[name] for name in keep}
    print(
        f"{row['target_name']:<11} seed {seed}  {'found' if row['found'] else 'not found':<9}"
        f"  {row['status']:<14}  {row['queries']:>7,} queries  test {row['test_success_rate']}"
        f"  closest {row['probe_success_rate']:.2f}  {row['trigger_pixels']} px"
        f"  {row['seconds']['total']:.0f} s",
        flush=True,
    )
    return row


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table, one line per class."""
    lines = [
        "| class | found | queries | log10 probability | success on the probes | ASR on the test "
        "images | pixels | IoU after shift | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["target_name"] for row in rows):
        some = [row for row in rows if row["target_name"] == name]
        probs = [row["log10_prob"] for row in some if row["log10_prob"] is not None]
        bounds = [row["log10_prob_interval"][1] for row in some if row["log10_prob_interval"]]
        prob = spread(probs, 2) if probs else f"at most {max(bounds):.1f}"
        tests = [row["test_success_rate"] for row in some if row["test_success_rate"] is not None]
        truth = [row["truth"]["iou_after_shift"] for row in some if row["truth"]]
        cells = [
            name,
            f"{sum(row['found'] for row in some)} of {len(some)}",
            spread([row["queries"] for row in some], 0),
            prob,
            spread([row["probe_success_rate"] for row in some], 2),
            spread(tests, 4) if tests else "",
            spread([row["trigger_pixels"] for row in some], 0),
            spread(truth, 2) if truth else "",
            spread([row["seconds"]["total"] for row in some], 0),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Runs everything and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shipped")
    parser.add_argument("--data-dir", help="the TFDS folder that holds cifar10/")
    parser.add_argument("--seeds", type=int, default=10, help="per planted trigger (%(default)s)")
    parser.add_argument("--clean-seeds", type=int, default=2, help="per clean class (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "recovery")
    args = parser.parse_args()

    oracle = open_model(args.model)
    test_data = cifar10.load("test", args.data_dir)
    targets = [patch.target for patch in planted_in(oracle).values()]
    clean = [k for k in range(oracle.num_classes) if k not in targets]
    asker = Asker(oracle)
    planted_rows = [one(oracle, asker, k, s, test_data) for k in targets for s in range(args.seeds)]
    clean_rows = [one(oracle, asker, k, s, None) for k in clean for s in range(args.clean_seeds)]

    everything = planted_rows + clean_rows
    good = sum(row["found"] and row["test_success_rate"] >= 0.99 for row in planted_rows)
    accused = sum(row["found"] for row in clean_rows)
    versions = ", ".join(f"{k} {v}" for k, v in everything[0]["versions"].items())
    lines = [
        "# Recoveries over seeds",
        "",
        f"`python benchmarks/recovery.py --seeds {args.seeds} --clean-seeds {args.clean_seeds}` "
        f"on {datetime.date.today()}, {everything[0]['device']}, {os.cpu_count()} cores "
        f"({platform.system()}); {versions}.",
        "",
        f"Model: {oracle.name}. Patch space, logits, synthetic probes, default settings, at most "
        f"{everything[0]['budget']:,} queries. ASR on all CIFAR-10 test images (JPEG re-encoding) "
        "of other classes. Medians, with the range over seeds in brackets. Seconds are those of a "
        "recovery in one process with the others; JAX's compilation cache, where it is on, "
        "spares all but the first most of the compilation.",
        "",
        f"## Planted triggers, seeds 0-{args.seeds - 1}",
        "",
        f"Found with an ASR of at least 99 % on the test images: {good} of {len(planted_rows)}.",
        "",
        *table(planted_rows),
        "",
        f"## Clean classes, seeds 0-{args.clean_seeds - 1}",
        "",
        f"Wrongly found: {accused} of {len(clean_rows)}.",
        "",
        *table(clean_rows),
        "",
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".md").write_text("\n".join(lines))
    args.out.with_suffix(".json").write_text(
        json.dumps({"planted": planted_rows, "clean": clean_rows}, indent=1) + "\n"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
