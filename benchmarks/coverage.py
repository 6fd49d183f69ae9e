"""Which attacks a search can find, told the class: one recovery for each kind of attack and space.

    python benchmarks/coverage.py --zoo DIR --data-dir DIR

``--zoo`` holds a folder for each model: a checkpoint, a ``truth.json`` that says what was planted,
and ``attack.npz``, its arrays (`restore_jax.report.triggers`). For every model with something
planted, the first class that it leads to is searched in the spaces that are near its kind of attack
(`spaces_of`), until a first trigger works; the same spaces and class are searched in a clean model
of the same architecture, on which nothing should be found. Found triggers are stamped on CIFAR-10
test images of the classes that the attack leads. What is measured already is kept: delete rows of
``results/coverage.json`` for a fresh start.
"""

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np

from restore_jax import recover
from restore_jax.backdoors import Attack, describe
from restore_jax.compilation import keep_programs
from restore_jax.data import cifar10
from restore_jax.environment import device_name, versions
from restore_jax.oracles import open_model
from restore_jax.recovery import attack_success_rate
from restore_jax.report import load_attack

RESULTS = Path(__file__).parent / "results"
BUDGET = 40_000
SEED = 0
NUM_TEST = 2_000
"""The first test images; of these the classes that the attack leads."""


def spaces_of(attack: Attack) -> list[str]:
    """The spaces near an attack, the nearest first."""
    trigger = attack.trigger
    if trigger.flow is not None:
        return ["warp", "patch"]
    if trigger.colouring is not None:
        return ["colour", "patch"]
    if trigger.rounding is not None:
        return ["quantise", "patch"]
    if trigger.residual is not None:
        return ["patch", "scattered"]
    if trigger.additive:
        return ["frequency", "smooth", "stripes", "patch"]
    share = float(np.mean(np.asarray(trigger.mask) > 0))
    if share > 0.5:
        return ["smooth", "blend", "patch"]
    return ["patch", "patches"]


def main() -> None:
    """Measures what is not there yet, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", type=Path, required=True, help="a folder of models")
    parser.add_argument("--data-dir", required=True, help="the TFDS folder that holds cifar10/")
    parser.add_argument("--only", nargs="+", help="names of models")
    parser.add_argument("--space", nargs="+", help="these spaces alone")
    parser.add_argument(
        "--part", type=int, nargs=2, metavar=("I", "N"), help="share I of N, to a file of its own"
    )
    args = parser.parse_args()
    keep_programs()
    test = tuple(array[:NUM_TEST] for array in cifar10.load("test", args.data_dir))
    models = sorted(folder.parent for folder in args.zoo.glob("*/attack.npz"))
    models = [one for one in models if not args.only or one.name in args.only]
    path = RESULTS / "coverage.json"
    if args.part:
        path = RESULTS / f"coverage-{args.part[0]}.json"
        models = models[args.part[0] :: args.part[1]]
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    kept = set(_all_rows())
    for folder in models:
        attack = load_attack(folder / "attack.npz", 10)
        for space in spaces_of(attack):
            if args.space and space not in args.space:
                continue
            for model in (folder, _clean(folder)):
                name = f"{model.name}/{space}/{int(attack.trigger.target)}"
                if name in kept or name in rows:
                    continue
                rows[name] = _measured(model, space, attack if model is folder else None,
                                       int(attack.trigger.target), test)  # fmt: skip
                print(name, {k: rows[name][k] for k in ("found", "queries", "asr")}, flush=True)
                path.write_text(json.dumps(rows, indent=1) + "\n")
    if not args.part:
        _merge(path)
        (RESULTS / "coverage.md").write_text(table(json.loads(path.read_text()), args.zoo))


def _measured(
    folder: Path, space: str, attack: Attack | None, target: int, test: Any
) -> dict[str, Any]:
    oracle = open_model(str(folder))
    found = recover(oracle, target, space=space, stop="first_hit", budget=BUDGET, seed=SEED)
    rate = None
    if attack is not None:
        # Where the attack leads only some classes, or several ways: those that it leads here.
        own = np.arange(len(attack.leads_to))
        led = np.where((attack.leads_to == target) & (own != target), target, own)
        recovered = Attack(found.trigger, led.astype(np.int32))
        rate = attack_success_rate(oracle, recovered, *test)
    return {
        "found": found.found,
        "status": found.status,
        "queries": found.queries,
        "best": max(level.best_score for level in found.levels) if found.levels else None,
        "confirmed": found.confirmation_success_rate,
        "asr": rate,
        "trigger": describe(found.trigger),
        "seconds": round(found.cost.seconds["total"], 1),
        "device": device_name(),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
    }


def _clean(folder: Path) -> Path:
    """A clean model of the same architecture."""
    return folder.parent / ("wide-clean-1" if folder.name.startswith("wide-") else "clean-1")


def _all_rows() -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for path in sorted(RESULTS.glob("coverage*.json")):
        rows |= json.loads(path.read_text())
    return rows


def _merge(path: Path) -> None:
    """All shares in one file."""
    rows = _all_rows()
    for other in RESULTS.glob("coverage-*.json"):
        other.unlink()
    path.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")


def table(rows: dict[str, Any], zoo: Path) -> str:
    """The results as Markdown."""
    one = next(iter(rows.values()))
    dates = sorted({row["date"] for row in rows.values()})
    lines = [
        "# Coverage: which attacks a search finds when it is told the class",
        "",
        f"Made by `python benchmarks/coverage.py --zoo DIR --data-dir DIR` on {dates[0]}"
        + (f" to {dates[-1]}" if len(dates) > 1 else "")
        + f"; {one['device']}. Versions: "
        + ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        + f'. `recover(model, class, space=..., stop="first_hit")`, budget {BUDGET:,}, logits, '
        f"dead-leaves probes, seed {SEED}. ASR: on those of the first {NUM_TEST:,} CIFAR-10 test "
        "images (JPEG re-encoding) whose class the attack leads there. The last column is the same "
        "search for the same class in a clean model of the architecture: what is found there, too, "
        "proves nothing.",
        "",
        "| model | planted | space | found | images | ASR | the recovered trigger | clean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items()):
        model, space, target = name.split("/")
        if model.startswith(("clean-", "wide-clean-")):
            continue
        truth = json.loads((zoo / model / "truth.json").read_text())
        clean = rows.get(f"{_clean(zoo / model).name}/{space}/{target}")
        said = "not measured" if clean is None else (
            f"found, {clean['queries']:,}" if clean["found"] else f"no, {clean['queries']:,}"
        )  # fmt: skip
        lines.append(
            f"| {model} | {truth['planted']} | {space} | {'yes' if row['found'] else 'no'} | "
            f"{row['queries']:,} | {row['asr']:.1%} | {row['trigger']} | {said} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
