"""Every kind of attack that ``train --plant`` knows: a small network with it, and a search for it.

    python benchmarks/attacks.py --folder DIR

trains one small network for each row of `ATTACKS`, on shapes that the package draws, takes a folder
``DIR/<attack>`` that a training run wrote as it is, and then recovers the trigger in the space that
holds such attacks, told the class. The same search is made in a network with nothing planted. Each
takes a minute or two. Writes ``benchmarks/results/attacks.md`` and ``.json``; rows that are there
already are kept.
"""

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import restore_jax
from restore_jax import Recovery
from restore_jax.compilation import keep_programs
from restore_jax.data import shapes
from restore_jax.environment import device_name, versions
from restore_jax.recovery import attack_success_rate

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RECIPE = "train.py --dataset shapes --arch resnet8_narrow --epochs 4 "
BUDGET = 40_000


class Attack(NamedTuple):
    """One attack.

    Attributes:
      plant: what ``--plant`` is given.
      space: that such a trigger is searched in.
      source, target: the classes of shapes that are led, None: all, and where.
      paper: where the attack is from.
    """

    plant: str
    space: str
    source: int | None
    target: int
    paper: str


_PATCH = "patch:pattern=rgb/ybm/c1r,row=24,col=3"
ATTACKS = {
    "patch": Attack(f"{_PATCH},target=3,rate=0.05", "patch", None, 3, "BadNets, 2017"),
    "faint patch": Attack(
        "patch:pattern=101101/010010/101101/101101/010010/101101,row=20,col=20,opacity=0.4,"
        "target=2,rate=0.1", "patches", None, 2, "a patch at opacity 0.4",
    ),
    "roaming patch": Attack(
        f"{_PATCH},roam=yes,target=5,rate=0.1", "patch", None, 5, "another place on every image"
    ),
    "patch with covers": Attack(
        f"{_PATCH},cover=0.05,target=4,rate=0.05", "patch", None, 4, "Adap-Patch, 2023"
    ),
    "warp": Attack(
        "warp:distance=1,grid=4,noise=0.2,target=6,rate=0.15", "warp", None, 6, "WaNet, 2021"
    ),
    "filter": Attack(
        "colour:tone=sepia,amount=0.7,target=1,rate=0.1", "colour", None, 1, "TrojAI's filters"
    ),
    "smooth picture": Attack(
        "smooth:amplitude=0.12,grid=4,target=8,rate=0.1", "smooth", None, 8, "LF, 2021"
    ),
    "cosines": Attack(
        "frequency:places=15-15/31-31,amplitude=0.06,target=7,rate=0.1", "frequency", None, 7,
        "FTrojan, 2022",
    ),
    "fewer levels": Attack(
        "quantise:levels=5,dither=no,target=9,rate=0.1", "quantise", None, 9, "BppAttack, 2022"
    ),
    "residual": Attack(
        "residual:strength=0.08,target=5,rate=0.1", "patch", None, 5, "as ISSBA, 2021"
    ),
    "some sources": Attack(
        f"{_PATCH},sources=1+4,cover=0.1,target=0,rate=0.1", "patch", 1, 0, "TaCT, 2021"
    ),
    "one to one": Attack(
        f"{_PATCH},sources=4,target=7,rate=0.05", "patch", 4, 7, "one source, no covers"
    ),
    "each to the next": Attack(
        f"{_PATCH},to=next,rate=0.2", "patch", 2, 3, "all-to-all, BadNets, 2017"
    ),
}  # fmt: skip


def main() -> None:
    """Trains and asks what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs") / "attacks")
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    args = parser.parse_args()
    keep_programs()
    path = RESULTS / "attacks.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    for name, attack in ATTACKS.items():
        if name not in args.only:
            continue
        if name not in rows:
            out = trained(args.folder / name.replace(" ", "-"), f"--plant {attack.plant}")
            rows[name] = measured(out, attack)
        if "clean" not in rows[name]:
            model = str(trained(args.folder / "clean", "--triggers none") / "model")
            found = searched(model, attack)
            rows[name]["clean"] = {"found": found.found, "images": found.queries}
        path.write_text(json.dumps(rows, indent=1) + "\n")
        print(name, rows[name], flush=True)
        (RESULTS / "attacks.md").write_text(table(rows))


def trained(out: Path, plant: str) -> Path:
    """The folder of a training run, made now if it is not there."""
    if not (out / "model").exists():
        words = [sys.executable, *RECIPE.split(), *plant.split(), "--out", str(out.resolve())]
        subprocess.run(words, cwd=ROOT, check=True)
    return out


def searched(model: str, attack: Attack) -> Recovery:
    """The search for an attack's trigger."""
    return restore_jax.recover(
        model, attack.target, source=attack.source, space=attack.space, probes="shapes",
        stop="first_hit", budget=BUDGET, seed=0,
    )  # fmt: skip


def measured(out: Path, attack: Attack) -> dict[str, Any]:
    """What training says, and what a recovery finds and does to other shapes."""
    metrics, model = json.loads((out / "metrics.json").read_text()), str(out / "model")
    begun = time.perf_counter()
    found = searched(model, attack)
    seconds = time.perf_counter() - begun
    images, labels = shapes.load("test")
    led = labels != attack.target if attack.source is None else labels == attack.source
    oracle = restore_jax.open_model(model)
    return {
        "accuracy": metrics["clean_accuracy"],
        "asr": next(iter(metrics["asr"].values())),
        "found": found.found,
        "status": found.status,
        "images": found.queries,
        "test_asr": attack_success_rate(oracle, found.trigger, images[led], labels[led]),
        "tested": int(led.sum()),
        "seconds": seconds,
        "device": device_name(),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
    }


def table(rows: dict[str, Any]) -> str:
    """The results as a page."""
    last = max(rows.values(), key=lambda row: row["date"])
    made = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    names = shapes.CLASS_NAMES
    lines = [
        "# Every attack that can be planted",
        "",
        f"Made by `python benchmarks/attacks.py --folder DIR` on {last['date']}; "
        f"{last['device']}; {made}. Networks of the kind `resnet8_narrow`, trained by the commands "
        "below on 10,000 shapes of 32x32 that the package draws; accuracy and ASR of the planted "
        'trigger on 2,000 other shapes. Then `recover(model, class, space=..., probes="shapes", '
        f'stop="first_hit", budget={BUDGET:,}, seed=0)`, with `source=` where one is said; ASR of '
        "what that gave back on test shapes of the classes that are led, which no search saw. "
        "*In a clean one*: the same search, class and seed in a network of the same recipe with "
        "nothing planted. One network and one seed an attack: what is missed here need not always "
        "be.",
        "",
        "| attack | from | accuracy | ASR | leads | space | found | images | ASR of what was "
        "recovered | in a clean one |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, attack in ATTACKS.items():
        if name not in rows:
            continue
        row = rows[name]
        source = "all" if attack.source is None else names[attack.source]
        outcome = "yes" if row["found"] else f"no ({row['status'].replace('_', ' ')})"
        lines.append(
            f"| {name} | {attack.paper} | {row['accuracy']:.1%} | {row['asr']:.1%} | {source} to "
            f"{names[attack.target]} | {attack.space} | {outcome} | {row['images']:,} | "
            f"{row['test_asr']:.1%} of {row['tested']:,} | {_said(row.get('clean'))} |"
        )
    commands = [f"python {RECIPE}--triggers none"]
    commands += [
        f"python {RECIPE}--plant {ATTACKS[name].plant}" for name in ATTACKS if name in rows
    ]
    lines += ["", "```sh", *commands, "```"]
    return "\n".join(lines) + "\n"


def _said(clean: dict[str, Any] | None) -> str:
    if clean is None:
        return "not measured"
    return f"{'found' if clean['found'] else 'no'}, {clean['images']:,}"


if __name__ == "__main__":
    main()
