"""Networks with two planted triggers beside their clean twins, scanned with the default settings.

    python benchmarks/pair.py --data-dir DIR

None of them is among the models that a scan compares with. One pair is in the package, the other
in ``benchmarks/zoo/``: the same architecture, recipe, seed and images, but for the triggers. DIR is
the TFDS folder that holds cifar10/: the triggers that a scan recovers are tried on its test images.
Writes ``benchmarks/results/pair-<name>.json``, each a ``scan.json`` with the likeness of those
triggers (``recovered``), and the table ``pair.md``; what is there already is kept.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from zoo import PAIR, ZOO

from restore_jax import attack_success_rate, checkpoints, scan
from restore_jax.data import cifar10
from restore_jax.oracles import open_model
from restore_jax.report import scan_content

RESULTS = Path(__file__).parent / "results"
PAIRS = {"in the package": tuple(checkpoints.PACKAGED), "in `benchmarks/zoo/`": tuple(PAIR)}
NAMES = tuple(name for pair in PAIRS.values() for name in pair)


def main() -> None:
    """Scans what has not been scanned, each in a process of its own, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="the TFDS folder that holds cifar10/")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    args = parser.parse_args()
    for name in args.only:
        if path_of(name).exists():
            continue
        if args.only == [name]:
            path_of(name).write_text(json.dumps(measured(name, args.data_dir), indent=1) + "\n")
        else:  # compiled anew, as by somebody who scans one model
            given = ["--data-dir", args.data_dir] if args.data_dir else []
            subprocess.run([sys.executable, __file__, "--only", name, *given], check=True)
    if all(path_of(name).exists() for name in NAMES):
        scans = {name: json.loads(path_of(name).read_text()) for name in NAMES}
        (RESULTS / "pair.md").write_text(page(scans))


def path_of(name: str) -> Path:
    """Where a scan lies."""
    return RESULTS / f"pair-{name.removeprefix('pair-')}.json"


def spec_of(name: str) -> str | Path:
    """What `open_model` takes for a network's name."""
    return name if name in checkpoints.PACKAGED else ZOO / name


def measured(name: str, data_dir: str | None) -> dict[str, Any]:
    """One scan, compiled anew, and how good the triggers are that it recovered."""
    oracle = open_model(spec_of(name))
    found = scan(oracle, seed=0)
    content = scan_content(found)
    content["model"] = name if name in checkpoints.PACKAGED else f"benchmarks/zoo/{name}"
    test_data = cifar10.load("test", data_dir)
    content["recovered"] = {
        str(int(one.trigger.target)): {
            "pixels": one.trigger_pixels,
            "test_success_rate": attack_success_rate(oracle, one.trigger, *test_data),
            "iou": one.truth.iou if one.truth else None,
            "iou_after_shift": one.truth.iou_after_shift if one.truth else None,
        }
        for one in found.recoveries
    }
    return content


def page(scans: dict[str, dict[str, Any]]) -> str:
    """The pairs, one table after the other."""
    one = next(iter(scans.values()))
    lines = [
        "# Networks and their clean twins",
        "",
        "Made by `python benchmarks/pair.py --data-dir DIR`; "
        f"{one['device']}; {', '.join(f'{k} {v}' for k, v in one['versions'].items())}. Default "
        "scan, seed 0, logits, nothing compiled before. None of these networks is among those that "
        "a scan compares with; but scans of all of them were looked at when its spaces, profiles "
        "and families were chosen. A *standing* is how far a class stands out from its like; at "
        f"most {one['false_alarm_rate']:.0%} of clean models have one that is above those of all "
        "clean models that were measured. ASR is of all CIFAR-10 test images of other classes.",
    ]
    for title, pair in PAIRS.items():
        lines += ["", f"## The pair {title}", "", *table({name: scans[name] for name in pair})]
    return "\n".join(lines) + "\n"


def table(scans: dict[str, dict[str, Any]]) -> list[str]:
    """The scans of a pair side by side."""
    metadata = {name: dict(open_model(spec_of(name)).metadata) for name in scans}
    epochs = {_epochs(m) for m in metadata.values()}
    lines = [
        f"`{next(iter(metadata.values()))['architecture']}`, {', '.join(map(str, epochs))} epochs.",
        "",
        "| | " + " | ".join(scans) + " |",
        "|---|" + "---|" * len(scans),
    ]
    rows = {
        "clean accuracy on the test images": [
            f"{m['clean_accuracy']:.2%}" for m in metadata.values()
        ],
        "ASR of the planted triggers": [
            ", ".join(f"{k} {v:.2%}" for k, v in m["asr"].items()) or "-" for m in metadata.values()
        ],
        "verdict": [found["verdict"] for found in scans.values()],
        "classes confirmed": [
            ", ".join(_name(found, k) for k in found["targets"]) or "-" for found in scans.values()
        ],
        "ASR of the triggers recovered": [
            _of_triggers(found, "test_success_rate", ".2%") for found in scans.values()
        ],
        "IoU with the planted patch as it lies": [
            _of_triggers(found, "iou", ".2f") for found in scans.values()
        ],
        "IoU after the best shift": [
            _of_triggers(found, "iou_after_shift", ".2f") for found in scans.values()
        ],
        "images": [f"{found['queries']:,}" for found in scans.values()],
        "seconds": [f"{found['seconds']['total']:.0f}" for found in scans.values()],
    }
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    lines += [
        "",
        "log10 of the probability that a random rectangle leads there, and the standing among "
        "rectangles, by class:",
        "",
        "| class | " + " | ".join(scans) + " |",
        "|---|" + "---|" * len(scans),
    ]
    one = next(iter(scans.values()))
    for k in range(len(one["classes"])):
        cells = [_cell(found, k) for found in scans.values()]
        lines.append(f"| {_name(one, k)} | " + " | ".join(cells) + " |")
    return lines


def _epochs(metadata: dict[str, Any]) -> int:
    """Epochs of all trainings that a network's weights went through."""
    return sum(int(re.search(r"--epochs (\d+)", one).group(1)) for one in _commands(metadata))


def _commands(metadata: dict[str, Any]) -> set[str]:
    before = [_commands(one) for one in metadata.get("started_from", ())]
    return {metadata["command"]}.union(*before)


def _of_triggers(found: dict[str, Any], key: str, form: str) -> str:
    values = {_name(found, int(k)): one[key] for k, one in found["recovered"].items()}
    said = [f"{name} {value:{form}}" for name, value in values.items() if value is not None]
    return ", ".join(said) or "-"


def _name(found: dict[str, Any], k: int) -> str:
    return str(next(one["name"] for one in found["classes"] if one["class"] == k))


def _cell(found: dict[str, Any], k: int) -> str:
    of_class = next(one for one in found["classes"] if one["class"] == k)
    seen = of_class["spaces"]["patch"]
    prob, standing = seen["log10_prob"], (seen["standing"] or {}).get("value")
    rare = f"{prob:.1f}" if prob is not None else f"< {seen['log10_bound']:.1f}"
    return f"{rare}; {standing:.1f}" if standing is not None else rare


if __name__ == "__main__":
    main()
