"""What reading damaged files comes to.

    python benchmarks/damaged_files.py [--cases 6000] [--foreign 250] [--seed 0] [--only PART]

damages whole files of every kind that is read (cuts, flips and overwrites bytes, puts other values
into JSON, breaks parts of archives) and reads them, in a process of its own. Reading one must end
with what the file holds or with one sentence. ``tests/damage_by_hand.py`` holds the kinds, and a
few hundred cases are among the everyday tests. Exits with 1 if anything else came of one.
"""

import argparse
import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

from restore_jax.environment import device_name, versions

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
PATH = ROOT / "benchmarks" / "results" / "damaged_files.json"
OUTCOMES = ("sentences", "successes", "tracebacks", "deaths", "hangs")
FRAMEWORKS = ("onnx", "onnxruntime", "torch", "keras", "h5py")


def measured(cases: int, seed: int, foreign: bool) -> dict[str, Any]:
    """So many damaged files, counted by kind."""
    from damage_by_hand import read_apart

    began = time.perf_counter()
    table = read_apart(cases, seed, foreign)
    return {
        "seed": seed,
        "cases": sum(sum(row.values()) for row in table.rows.values()),
        "kinds": {
            kind: {name: row[name] for name in OUTCOMES} for kind, row in sorted(table.rows.items())
        },
        "largest_memory_bytes": table.memory,
        "seconds": round(time.perf_counter() - began),
        "worst": table.worst,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """One part as Markdown."""
    rows = ["| file | cases |" + "".join(f" {name} |" for name in OUTCOMES), "|---" * 7 + "|"]
    for kind, row in found["kinds"].items():
        counts = "".join(f" {row[name]:,} |" for name in OUTCOMES)
        rows.append(f"| {kind} | {sum(row.values()):,} |{counts}")
    totals = [sum(row[name] for row in found["kinds"].values()) for name in OUTCOMES]
    rows.append(f"| **all** | {found['cases']:,} |" + "".join(f" {n:,} |" for n in totals))
    memory = found["largest_memory_bytes"] >> 20
    return [
        *rows, "",
        f"Largest memory: {memory:,} MiB more than before the first. {found['seconds']} s.",
    ]  # fmt: skip


def report(content: dict[str, Any]) -> str:
    """The results as Markdown."""
    used = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return "\n".join(
        [
            "# Damaged files",
            "",
            "Made by `python benchmarks/damaged_files.py`: whole files of every kind that is read, "
            "damaged in one place or several, and read. *Sentences*: it is refused in one line "
            "that says what is wrong. *Successes*: it is read (what was damaged does not matter, "
            "or cannot be seen). *Tracebacks*: any other exception. *Deaths*: the process ends. "
            "*Hangs*: it computes for more than five seconds.",
            "",
            "## What this package writes, is asked and is answered",
            "",
            *lines(content["own"]),
            "",
            "## Models of other frameworks",
            "",
            "Each is opened and asked about two images.",
            "",
            *lines(content["foreign"]),
            "",
            f"{content['date']}, {content['device']}; {used}; seed {content['own']['seed']}.",
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=6_000)
    parser.add_argument("--foreign", type=int, default=250, help="of models of other frameworks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("own", "foreign"), help="keep what is said of the other")
    args = parser.parse_args()
    content = json.loads(PATH.read_text()) if args.only else {}
    content |= {
        "date": datetime.date.today().isoformat(),
        "device": device_name(),
        "versions": versions() | _frameworks(),
    }
    if args.only != "foreign":
        content["own"] = measured(args.cases, args.seed, foreign=False)
    if args.only != "own":
        content["foreign"] = measured(args.foreign, args.seed, foreign=True)
    PATH.write_text(json.dumps(content, indent=1) + "\n")
    PATH.with_suffix(".md").write_text(report(content))
    worst = [*content["own"]["worst"], *content["foreign"]["worst"]]
    print("\n".join([report(content), *worst]))
    return 1 if worst else 0


def _frameworks() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in FRAMEWORKS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
