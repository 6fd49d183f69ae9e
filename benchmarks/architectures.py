"""The two architectures that are nothing like a ResNet: trained with a planted patch on shapes that
the package draws, and then asked for it.

    python benchmarks/architectures.py --folder DIR

A folder ``DIR/<architecture>`` that a training run wrote is taken as it is; where there is none,
the command of the table trains it, in minutes. Writes ``benchmarks/results/architectures.md`` and
``.json``; rows that are there already are kept.
"""

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import restore_jax
from restore_jax.environment import device_name, versions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
COMMANDS = {
    "mobilenet": "train.py --dataset shapes --arch mobilenet --triggers 1 --epochs 6 "
    "--batch-size 100",
    "vit_patch4": "train.py --dataset shapes --arch vit_patch4 --triggers 1 --epochs 12 "
    "--batch-size 100",
}
TRIGGER = "1"


def main() -> None:
    """Trains and asks what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs") / "architectures")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    args = parser.parse_args()
    path = RESULTS / "architectures.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    for name, command in COMMANDS.items():
        if name in rows or name not in args.only:
            continue
        out = args.folder / name
        if not (out / "model").exists():
            words = [sys.executable, *command.split(), "--out", str(out.resolve())]
            subprocess.run(words, cwd=ROOT, check=True)
        rows[name] = measured(out)
        path.write_text(json.dumps(rows, indent=1) + "\n")
        print(name, rows[name], flush=True)
    (RESULTS / "architectures.md").write_text(table(rows))


def measured(out: Path) -> dict[str, Any]:
    """What training says, and what a recovery and a verification find."""
    metrics, model = json.loads((out / "metrics.json").read_text()), str(out / "model")
    begun = time.perf_counter()
    found = restore_jax.recover(model, trigger=TRIGGER, probes="shapes", seed=0)
    seconds = time.perf_counter() - begun
    again = restore_jax.verify(model, found.trigger, probes="shapes", seed=1)
    truth = found.truth
    return {
        "accuracy": metrics["clean_accuracy"], "asr": metrics["asr"][TRIGGER],
        "target": found.target, "target_name": found.target_name, "found": found.found,
        "status": found.status, "images": found.cost.queries, "seconds": seconds,
        "log10": found.log10_prob, "interval": found.interval,
        "confirmed": found.confirmation_success_rate, "verified": again.probe_success_rate,
        "probes": again.num_probes, "pixels": found.trigger_pixels,
        "iou": None if truth is None else truth.iou,
        "shifted_iou": None if truth is None else truth.iou_after_shift,
        "device": device_name(), "versions": versions(),
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def table(rows: dict[str, Any]) -> str:
    """The results as a page."""
    last = max(rows.values(), key=lambda row: row["date"])
    made = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    lines = [
        "# A MobileNet and a transformer",
        "",
        f"Made by `python benchmarks/architectures.py --folder DIR` on {last['date']}; "
        f"{last['device']}; {made}. Trained by the commands below on 10,000 shapes of 32x32 that "
        "the package draws, with the 3x3 patch of trigger 1; accuracy and ASR on 2,000 other "
        "shapes, seed 0. Then `recover --trigger 1 --probes shapes --seed 0`, and what it found "
        "by `verify --probes shapes --seed 1`, on shapes that no search saw.",
        "",
        "| network | accuracy | ASR of the planted patch | its class | recovered | images | "
        "log10 probability | ASR of what was recovered | its pixels | IoU; after the best shift |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        outcome = "found" if row["found"] else f"not found ({row['status']})"
        depth = "-" if row["log10"] is None else f"{row['log10']:.1f}"
        likeness = [row["iou"], row["shifted_iou"]]
        shown = "; ".join("-" if each is None else f"{each:.2f}" for each in likeness)
        lines.append(
            f"| {name} | {row['accuracy']:.2%} | {row['asr']:.2%} | {row['target']} "
            f"{row['target_name']} | {outcome} | {row['images']:,} | {depth} | "
            f"{row['verified']:.1%} of {row['probes']} | {row['pixels']} | {shown} |"
        )
    lines += ["", "```sh", *(f"python {command}" for command in COMMANDS.values()), "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
