"""From probes to photographs: what a trigger's success on synthetic probes says of its ASR.

    python benchmarks/transfer.py --data-dir DIR

draws rectangles at random, shows each to dead leaves, shapes and CIFAR-10 test images, whole and
faded, and writes ``benchmarks/results/transfer.md``: of those that lead the first m probes, the ASR
on other test images.
"""

import argparse
import datetime
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax import make_space, open_model, open_probes
from restore_jax.backdoors import stamp
from restore_jax.data import cifar10
from restore_jax.environment import device_name, versions
from restore_jax.oracles import Asker
from restore_jax.racing import faded, needed
from restore_jax.recovery import planted_in

RESULTS = Path(__file__).parent / "results"
KINDS = ("dead_leaves", "shapes", "cifar10")
NUMBERS = (5, 10, 20, 40, 80)
FADES = (0.0, 0.3, 0.4, 0.5)


def hits_of(asker: Asker, trigger: Any, probes: jax.Array, fade: float) -> np.ndarray:
    """bool[m]: which probes the faded trigger leads to its target."""
    images = faded(stamp(trigger, probes), probes, jnp.float32(fade))
    return np.asarray(asker.labels(images)) == int(trigger.target)


def measure(target: int, draws: int, test: int, data_dir: str | None) -> list[dict[str, Any]]:
    """One row per trigger drawn: its ASR, and which probes it leads, by kind and fading."""
    oracle = open_model("shipped")
    asker, space = Asker(oracle), make_space("patch", oracle.image_shape)
    images, labels = cifar10.load("test", data_dir)
    others = np.flatnonzero(labels != target)[-test:]  # the probes come from a shuffled split
    photographs = jnp.asarray(images[others].astype(np.float32) / 255.0)
    probes = {}
    for kind in KINDS:
        drawn = open_probes(kind, 0, oracle.image_shape, data_dir).draw(0, 3 * NUMBERS[-1])
        fit = np.asarray(asker.labels(drawn)) != target
        probes[kind] = drawn[fit][: NUMBERS[-1]]
    particles = space.search.sample(jax.random.key(0), draws)
    rows = []
    for index in range(draws):
        particle = jax.tree.map(lambda leaf: leaf[index], particles)  # noqa: B023
        trigger = space.trigger(particle, jnp.int32(target))
        if hits_of(asker, trigger, probes["dead_leaves"][:20], 0.0).mean() < 0.5:
            continue  # most draws do nothing anywhere
        row: dict[str, Any] = {"asr": float(hits_of(asker, trigger, photographs, 0.0).mean())}
        for kind in KINDS:
            for fade in FADES:
                row[f"{kind} {fade}"] = hits_of(asker, trigger, probes[kind], fade).tolist()
        rows.append(row)
    return rows


def main() -> None:
    """Runs everything and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="the TFDS folder that holds cifar10/")
    parser.add_argument("--draws", type=int, default=150, help="per class (%(default)s)")
    parser.add_argument("--test", type=int, default=600, help="test images (%(default)s)")
    args = parser.parse_args()
    planted = [one.target for one in planted_in(open_model("shipped")).values()]
    rows = [r for target in planted for r in measure(target, args.draws, args.test, args.data_dir)]
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# From probes to photographs",
        "",
        f"`python benchmarks/transfer.py` on {datetime.date.today()}, {device_name()}, "
        f"{os.cpu_count()} cores ({platform.system()}); {found}.",
        "",
        f"{args.draws} random rectangles for each planted class of the packaged model; those that "
        "lead at least half of 20 dead leaves. Of the triggers that lead 95 % of the first m "
        f"probes: how many they are, and their ASR on {args.test} test images of other classes.",
        "",
        "| probes | m | faded by | triggers that pass | ASR, least | 10th percentile | median "
        "| ASR >= 99 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        for number in NUMBERS:
            for fade in FADES:
                rates = [
                    row["asr"]
                    for row in rows
                    if sum(row[f"{kind} {fade}"][:number]) >= needed(0.95, number)
                ]
                if not rates:
                    continue
                good = sum(rate >= 0.99 for rate in rates)
                lines.append(
                    f"| {kind} | {number} | {fade:.0%} | {len(rates)} | {min(rates):.1%} | "
                    f"{np.percentile(rates, 10):.1%} | {np.median(rates):.1%} | "
                    f"{good} of {len(rates)} ({good / len(rates):.0%}) |"
                )
    assert all(math.isfinite(row["asr"]) for row in rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "transfer.md").write_text("\n".join(lines) + "\n")
    (RESULTS / "transfer.json").write_text(json.dumps({"rows": rows}) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
