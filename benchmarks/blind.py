"""Purifying without a recovery: what is left of triggers, and what it costs, on models of a zoo.

    python benchmarks/blind.py --zoo DIR --data-dir DIR

Every model of the zoo, and the packaged pair, is asked about CIFAR-10 test images as they are and
with what its ``attack.npz`` says (or the planted triggers of the packaged one), and the answers of
`Defended` with a `defend_blindly` stand. Writes ``benchmarks/results/blind.md`` and ``.json``; rows
that are there already are kept.
"""

import argparse
import datetime
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax import checkpoints, open_model
from restore_jax.backdoors import Attack, planted_attack, stamp_attack
from restore_jax.data import cifar10
from restore_jax.environment import device_name, versions
from restore_jax.oracles import Oracle
from restore_jax.purification import Defended, defend_blindly
from restore_jax.recovery import planted_in
from restore_jax.report import load_attack
from restore_jax.run import Run

RESULTS = Path(__file__).parent / "results"
IMAGES = 2_000
DEVELOPED_ON = (
    "all-to-all", "blend-15", "dct-mid", "filter-cold", "filter-sepia", "low-frequency",
    "one-to-one", "patch-2x2", "patch-3x3-colour", "clean-1", "clean-2",
)  # fmt: skip
"""The models that the changes were chosen on: 600 test images each."""


def main() -> None:
    """Measures what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", type=Path, required=True, help="a folder of models")
    parser.add_argument("--data-dir", help="the TFDS folder that holds cifar10/")
    parser.add_argument("--only", nargs="+", help="names of models")
    args = parser.parse_args()
    path = RESULTS / "blind.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    images, labels = cifar10.load("test", args.data_dir)
    images, labels = images[:IMAGES].astype(np.float32) / 255.0, labels[:IMAGES]
    names = [*checkpoints.PACKAGED]
    names += sorted(folder.parent.name for folder in args.zoo.glob("*/truth.json"))
    for name in names:
        if args.only and name not in args.only:
            continue
        if name not in rows:
            rows[name] = measured(name, args.zoo, images, labels)
        elif "probes_changed" not in rows[name]:
            rows[name]["probes_changed"] = on_probes(name, args.zoo)
        else:
            continue
        path.write_text(json.dumps(rows, indent=1) + "\n")
        print(name, rows[name], flush=True)
        jax.clear_caches()
    (RESULTS / "blind.md").write_text(table(rows))


def attacks_of(name: str, zoo: Path) -> dict[str, Attack]:
    """What leads which classes where, by a name; nothing of a clean model."""
    if name in checkpoints.PACKAGED:
        oracle = open_model(name)
        return {
            f"trigger {key}": planted_attack(one, oracle.image_shape, oracle.num_classes)
            for key, one in planted_in(oracle).items()
        }
    truth = json.loads((zoo / name / "truth.json").read_text())
    return {truth["planted"]: load_attack(zoo / name / "attack.npz", 10)} if truth["asr"] else {}


def opened(name: str, zoo: Path) -> Oracle:
    """A model by its name."""
    return open_model(name if name in checkpoints.PACKAGED else zoo / name)


def on_probes(name: str, zoo: Path) -> float:
    """The share of dead leaves that are given another class."""
    return defend_blindly(Run(opened(name, zoo), budget=1 << 40)).power.changed


def measured(name: str, zoo: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """One model: clean images, and those of each attack's source classes."""
    began = time.perf_counter()
    run = Run(opened(name, zoo), budget=1 << 40)
    blind = defend_blindly(run)
    defended = Defended(run, blind)
    stands, flags, plain = defended(images)
    row: dict[str, Any] = {
        "accuracy_before": float(np.mean(plain.argmax(-1) == labels)),
        "accuracy_after": float(np.mean(stands.argmax(-1) == labels)),
        "flagged": float(np.mean(flags)),
        "probes_changed": blind.power.changed,
        "attacks": {},
    }
    for words, attack in attacks_of(name, zoo).items():
        to = attack.leads_to[labels]
        some = np.flatnonzero(to != labels)
        stamped = stamp_attack(attack, jnp.asarray(images[some]), jax.random.key(0))
        after, _, before = defended(np.asarray(stamped))
        row["attacks"][words] = {
            "images": len(some),
            "asr_before": float(np.mean(before.argmax(-1) == to[some])),
            "asr_after": float(np.mean(after.argmax(-1) == to[some])),
            # How often clean images of these classes are given the other class anyway.
            "base_rate": float(np.mean(plain[some].argmax(-1) == to[some])),
            "accuracy_after": float(np.mean(after.argmax(-1) == labels[some])),
        }
    row |= {
        "seconds": round(time.perf_counter() - began, 1),
        "date": datetime.date.today().isoformat(),
        "device": device_name(),
        "versions": versions(),
    }
    return row


def table(rows: dict[str, Any]) -> str:
    """The results as Markdown."""
    one = next(iter(rows.values()))
    lines = [
        "# Purifying without a recovery",
        "",
        f"Made by `python benchmarks/blind.py --zoo DIR --data-dir DIR` on {one['date']}; "
        f"{one['device']}; " + ", ".join(f"{k} {v}" for k, v in one["versions"].items()) + ".",
        f"The first {IMAGES:,} CIFAR-10 test images, logits. Nothing is recovered or told: of "
        "every image three changed copies are asked about (mirrored, mirrored grey, grey without "
        "high frequencies), and the mean of their answers stands. *Base rate*: how often clean "
        "images of the classes that the attack leads are given its class anyway.",
        *_probes_words(rows),
        "",
    ]
    for words, of in (
        ("Models that the changes were not chosen on", [n for n in rows if n not in DEVELOPED_ON]),
        ("Models that they were chosen on", [n for n in rows if n in DEVELOPED_ON]),
    ):
        found = [(n, w, a) for n in of for w, a in rows[n]["attacks"].items()]
        if not of:
            continue
        losses = [rows[n]["accuracy_before"] - rows[n]["accuracy_after"] for n in of]
        left = [a["asr_after"] for *_, a in found]
        near = sum(a["asr_after"] <= a["base_rate"] + 0.02 for *_, a in found)
        lines += [
            f"## {words}",
            "",
            f"{len(found)} attacks: {sum(a <= 0.1 for a in left)} are left at most 10 %, {near} at "
            f"most 2 points above the base rate; median {np.median(left):.1%}, largest "
            f"{max(left):.1%}. {len(of)} models lose {np.median(losses):.1%} of clean images' "
            f"accuracy (median; {min(losses):.1%} to {max(losses):.1%}).",
            "",
            "| model | attack | clean accuracy | purified | ASR | purified | base rate "
            "| accuracy on stamped images, purified |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name in of:
            row = rows[name]
            clean = f"{row['accuracy_before']:.1%} | {row['accuracy_after']:.1%}"
            if not row["attacks"]:
                lines.append(f"| {name} | - | {clean} | - | - | - | - |")
            for what, attack in row["attacks"].items():
                lines.append(
                    f"| {name} | {what} | {clean} | {attack['asr_before']:.1%} | "
                    f"{attack['asr_after']:.1%} | {attack['base_rate']:.1%} | "
                    f"{attack['accuracy_after']:.1%} |"
                )
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _probes_words(rows: dict[str, Any]) -> list[str]:
    """What the same changes do to dead leaves, which says little of photographs."""
    known = [row["probes_changed"] for row in rows.values() if "probes_changed" in row]
    if not known:
        return []
    return [
        f"Of 100 dead leaves without a trigger {min(known):.0%} to {max(known):.0%} are given "
        f"another class ({len(known)} models), of the test images "
        f"{min(row['flagged'] for row in rows.values()):.0%} to "
        f"{max(row['flagged'] for row in rows.values()):.0%}."
    ]


if __name__ == "__main__":
    main()
