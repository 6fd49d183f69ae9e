"""A network with two planted triggers and its clean twin, scanned with the default settings.

    python benchmarks/pair.py

Neither is among the models that a scan compares with. Both are in ``benchmarks/zoo/``: the same
architecture, recipe, seed and images, but for the triggers. Writes
``benchmarks/results/pair-<name>.json``, each a ``scan.json``, and the table ``pair.md``; what is
there already is kept.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from zoo import PAIR, ZOO

from restore_jax import scan
from restore_jax.compilation import keep_programs
from restore_jax.oracles import open_model
from restore_jax.report import scan_content

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Scans what has not been scanned, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PAIR, default=list(PAIR))
    args = parser.parse_args()
    keep_programs()
    for name in args.only:
        path = RESULTS / f"{name}.json"
        if not path.exists():
            content = scan_content(scan(open_model(ZOO / name), seed=0))
            content["model"] = f"benchmarks/zoo/{name}"  # not where this machine has it
            path.write_text(json.dumps(content, indent=1) + "\n")
    paths = {name: RESULTS / f"{name}.json" for name in PAIR}
    if all(path.exists() for path in paths.values()):
        scans = {name: json.loads(path.read_text()) for name, path in paths.items()}
        (RESULTS / "pair.md").write_text(table(scans))


def table(scans: dict[str, dict[str, Any]]) -> str:
    """The scans side by side."""
    metadata = {name: dict(open_model(ZOO / name).metadata) for name in scans}
    one = next(iter(scans.values()))
    lines = [
        "# A network and its clean twin",
        "",
        "Made by `python benchmarks/pair.py`; "
        f"{one['device']}; {', '.join(f'{k} {v}' for k, v in one['versions'].items())}. Default "
        "scan, seed 0, logits. Neither model is among those that a scan compares with; but "
        "these scans were looked at when its spaces and profiles were chosen. "
        f"`{next(iter(metadata.values()))['architecture']}`, 12 epochs; the commands are in "
        "`benchmarks/zoo.py`. A *standing* is how far a class stands out from its like; clean "
        f"models reach it in at most {one['false_alarm_rate']:.0%} of cases where it is above all "
        "of those that were measured.",
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
        "images": [f"{found['queries']:,}" for found in scans.values()],
        "seconds": [f"{found['seconds']['total']:.0f}" for found in scans.values()],
    }
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    lines += [
        "",
        "log10 of the probability that a random rectangle leads there, and the standing, by class:",
        "",
        "| class | " + " | ".join(scans) + " |",
        "|---|" + "---|" * len(scans),
    ]
    for k in range(len(one["classes"])):
        cells = [_cell(found, k) for found in scans.values()]
        lines.append(f"| {_name(one, k)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


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
