"""Using a model that has backdoors: what purification takes away, and what it costs.

    python benchmarks/purification.py --data-dir DIR

scans the packaged model and the zoo's (blends, which a scan does not look for, are recovered),
purifies the CIFAR-10 test images as they are and with each planted trigger, and writes
``benchmarks/results/purification.md`` and ``.json``. With ``--zoo DIR`` the models are those of a
folder, each with an ``attack.npz`` that leads all classes to one; that class is told, its trigger
recovered in the space that `TOLD` names, kept in ``--recoveries`` and used again from there; that
writes ``benchmarks/results/purification_zoo.md`` and ``.json``.
"""

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from attackers import variants
from zoo import ADAPTIVE, RECOVERY, ZOO

from restore_jax import Recovery, load_recovery, open_model, recover, scan
from restore_jax.backdoors import Planted, Trigger, stamp, stamp_attack
from restore_jax.data import cifar10
from restore_jax.environment import device_name, versions
from restore_jax.oracles.types import Oracle
from restore_jax.purification import Defended, defences
from restore_jax.recovery import planted_in
from restore_jax.report import load_attack
from restore_jax.run import Run

RESULTS = Path(__file__).parent / "results"
SPACES = {
    "patch": "patch", "pixels": "scattered", "blend": "blend", "stripes": "stripes",
    "frequency": "frequency",
}  # fmt: skip
TOLD = {
    "patch-3x3-colour": "patch", "patch-5x5-colour": "patch", "patch-faint": "patch",
    "pixels-6": "patch", "blend-15": "patch", "low-frequency": "smooth", "filter-cold": "colour",
    "warp-1": "patch", "dct-mid": "frequency", "patch-2x2": "patch", "patch-3x3-corner": "patch",
    "patch-rare": "patch", "patch-roaming": "patch", "wide-patch-3x3": "patch",
    "waves-clean-label": "stripes", "filter-sepia": "colour", "quantised": "quantise",
    "sample-specific": "patch", "wide-blend-20": "smooth", "wide-warp-2": "warp",
}  # fmt: skip
"""The space that a trigger of each model's class is recovered in."""
DEVELOPED_ON = tuple(TOLD)[:9]
"""The models that the looks were chosen on; no other was looked at before it was measured."""
LOCAL = ("patch", "pixels")
"""What the names of models with local triggers have in them."""


def measure(name: str, seed: int, images: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """One row per kind of input: the images as they are, and with each planted trigger."""
    oracle = open_model("shipped" if name == "shipped" else ZOO / name)
    planted = [*planted_in(oracle).values()]
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
    guards = defences(run, recoveries)
    defended = Defended(run, guards)
    rows = []
    base: dict[int, float] = {}
    for what, trigger in _inputs(oracle, planted, name == "shipped"):
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
                "input": what,
                "images": len(some),
                "targets": sorted(targets),
                "pixels": [int((np.asarray(one.trigger.mask) > 0).sum()) for one in recoveries],
                "search_queries": spent,
                "guards": [
                    f"{g.power.target_name}: {g.rule.name} of {', '.join(g.power.looks)}"
                    for g in guards
                ],
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


def _inputs(
    oracle: Oracle, planted: Iterable[Planted], varied: bool
) -> Iterator[tuple[str, Trigger | None]]:
    """What the images are stamped with: nothing, each planted trigger, and that as an attacker
    varies it who uses it in another way."""
    yield "clean", None
    triggers = [one.trigger(oracle.image_shape) for one in planted]
    for place, trigger in enumerate(triggers):
        words = f"trigger to {oracle.class_names[int(trigger.target)]}"
        yield words, trigger
        others = triggers[:place] + triggers[place + 1 :]
        for how, other in variants(trigger, others).items() if varied else ():
            yield f"{words}, {how}", other


def told(folder: Path, target: int, kept: Path | None) -> Recovery:
    """The recovery of a class, from where it is kept if it is there."""
    place = None if kept is None else kept / f"{folder.name}--{TOLD[folder.name]}"
    if place is not None and place.exists():
        return load_recovery(place)
    found = recover(
        open_model(folder), target, space=TOLD[folder.name], stop="first_hit", budget=45_000
    )
    if place is not None:
        found.save(place)
    return found


def measure_told(
    folder: Path, kept: Path | None, images: np.ndarray, labels: np.ndarray
) -> dict[str, Any] | None:
    """One row: a model whose class was told; None where no trigger of it was recovered."""
    oracle = open_model(folder)
    attack = load_attack(folder / "attack.npz", oracle.num_classes)
    target = int(attack.trigger.target)
    recovery = told(folder, target, kept)
    if not recovery.found:
        print(f"{folder.name}: no trigger was found")
        return None
    run = Run(oracle, budget=1 << 40)
    guards = defences(run, recovery)
    asked, defended, power = run.ledger.spent, Defended(run, guards), guards[0].power
    clean, _, plain = defended(images)
    said, stands = plain.argmax(-1), clean.argmax(-1)
    extra_clean = defended.queries / len(images) - 1.0
    other = np.flatnonzero(labels != target)
    stamped = np.asarray(stamp_attack(attack, jax.numpy.asarray(images[other]), jax.random.key(0)))
    before, began = defended.queries, time.perf_counter()
    outputs, _, plain = defended(stamped)
    seconds = time.perf_counter() - began
    led, left = plain.argmax(-1), outputs.argmax(-1)
    return {
        "model": folder.name,
        "planted": json.loads((folder / "truth.json").read_text())["planted"],
        "local": any(word in folder.name for word in LOCAL),
        "developed_on": folder.name in DEVELOPED_ON,
        "images": len(images),
        "target": oracle.class_names[target],
        "space": recovery.space,
        "rule": power.rule,
        "looks": list(power.looks),
        "queries_to_recover": recovery.queries,
        "queries_to_choose": asked,
        "accuracy_before": float(np.mean(said == labels)),
        "accuracy_after": float(np.mean(stands == labels)),
        "asr_before": float(np.mean(led == target)),
        "asr_after": float(np.mean(left == target)),
        "base_rate": float(np.mean(said[other] == target)),
        "accuracy_others": float(np.mean(said[other] == labels[other])),
        "accuracy_stamped": float(np.mean(left == labels[other])),
        "extra_queries_clean": extra_clean,
        "extra_queries_stamped": (defended.queries - before) / len(other) - 1.0,
        "images_per_second": len(other) / seconds,
        "reported_asr_after": power.worst_asr_after,
        "reported_clean_loss": power.clean_loss,
    }


def holds(row: dict[str, Any]) -> bool:
    """Whether a row is as good as it should be."""
    left, lost = row["asr_after"], row["accuracy_before"] - row["accuracy_after"]
    if not row["local"]:
        return left <= 0.10 and lost <= 0.01
    kept = row["accuracy_stamped"] >= row["accuracy_others"] - 0.04
    return left <= row["base_rate"] + 0.02 and lost <= 0.005 and kept


def write_told(
    out: Path, rows: list[dict[str, Any]], missing: list[str], before: dict[str, dict[str, float]]
) -> None:
    """Writes the table of the models whose class was told.

    Args:
      out: the files, without their endings.
      rows: of `measure_told`.
      missing: models that no trigger was recovered of.
      before: by model, ``asr_after`` and ``accuracy_after`` of an earlier version, if known.
    """
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    percent = "{:.1%}".format
    lines = [
        "# Purification of models from elsewhere",
        "",
        f"`python benchmarks/purification.py --zoo DIR` on {datetime.date.today()}, "
        f"{device_name()}, {os.cpu_count()} cores ({platform.system()}), busy with other work; "
        f"{found}.",
        "",
        "The class was told (a scan would have to name it); one trigger of it was recovered from "
        "synthetic probes, never the planted one. Stamped images are the CIFAR-10 test images "
        "(JPEG re-encoding) of other classes with the planted trigger. *Base rate*: how often the "
        "model gives them that class without it. *Holds*: of local triggers (patches, pixels) "
        "an ASR at most 2 points above the base rate, at most 0.5 points of clean accuracy lost, "
        "and an accuracy on stamped images within 4 points of that on clean ones of the same "
        "classes; of all others an ASR of at most 10 % and at most 1 point lost. *Said*: the ASR "
        "that the report expects of triggers that work, by probes alone. *Earlier*: what the "
        "version before, which looked for the recovered pattern, left of the ASR, on the first 500 "
        "images. No trigger was recovered of: " + (", ".join(missing) or "none") + ".",
    ]
    for title, some in (
        ("Models that were never looked at", [r for r in rows if not r["developed_on"]]),
        ("Models that looks were chosen on", [r for r in rows if r["developed_on"]]),
    ):
        lines += [
            "",
            f"## {title}",
            "",
            "| model | planted | images | ASR | earlier | now | base rate | clean accuracy | now "
            "| stamped accuracy (clean) | said | holds | looks |",
            "|---" * 13 + "|",
        ]
        for row in some:
            old = before.get(row["model"])
            cells = [
                row["model"], row["planted"], f"{row['images']:,}", percent(row["asr_before"]),
                "" if old is None else percent(old["asr_after"]), percent(row["asr_after"]),
                percent(row["base_rate"]), percent(row["accuracy_before"]),
                percent(row["accuracy_after"]),
                f"{percent(row['accuracy_stamped'])} ({percent(row['accuracy_others'])})",
                percent(row["reported_asr_after"]), "yes" if holds(row) else "no",
                f"{row['rule']}: {', '.join(row['looks'])}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    if rows:
        rate = sorted(row["images_per_second"] for row in rows)
        most = max(row["extra_queries_stamped"] for row in rows)
        asked = sorted(row["queries_to_choose"] for row in rows)
        lines += [
            "",
            f"At most {most:.2f} more queries for a suspicious image and none for others; "
            f"{rate[0]:.0f} to {rate[-1]:.0f} stamped images/s, each asked about three times; "
            f"{asked[0]:,} to {asked[-1]:,} images to choose a guard with.",
        ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    out.with_suffix(".json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")


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
        "*Extra queries*: per image, besides the one that is purified. Two networks were trained "
        "as one would who knows the guards: their trigger has no colour and is its own mirror "
        "image, a 6x6 patch in `adaptive-patch`, two low frequencies in `adaptive-waves`. Where a "
        "row says how the packaged network's trigger was stamped, that is not how it was planted, "
        "so that it may do less by itself. Models are left out where a "
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
    stamped = [row for row in rows if row["input"] != "clean"]
    if stamped:
        rates = sorted(row["images"] / row["seconds"] for row in stamped)
        most = max(row["extra_queries"] for row in stamped)
        lines += [
            "",
            f"At most {most:.2f} more queries for an image; {rates[0]:.0f} to {rates[-1]:.0f} "
            "stamped images/s, each asked about up to three times, busy with other work.",
        ]
    lines += ["", "Guards, by model and seed:", ""]
    for row in rows:
        if row["input"] == "clean":
            lines.append(f"- {row['model']}, seed {row['seed']}: {'; '.join(row['guards'])}")
    lines += ["", "Clean images flagged, by their class:", ""]
    for row in rows:
        if row["input"] == "clean":
            shares = ", ".join(
                f"{name} {share:.2%}" for name, share in row["flagged_by_class"].items() if share
            )
            lines.append(f"- {row['model']}, seed {row['seed']}: {shares or 'none'}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    content = {"rows": rows, "missing": missing}
    out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Runs everything and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="the TFDS folder that holds cifar10/")
    parser.add_argument("--seeds", type=int, default=3, help="packaged model (%(default)s)")
    parser.add_argument("--images", type=int, default=10_000, help="test images (%(default)s)")
    parser.add_argument("--models", nargs="*", default=None, help="of the zoo (all but clean)")
    parser.add_argument("--zoo", type=Path, metavar="DIR", help="models with an attack.npz each")
    parser.add_argument("--recoveries", type=Path, metavar="DIR", help="where those are kept")
    parser.add_argument("--earlier", type=Path, metavar="JSON", help="rows of an earlier version")
    parser.add_argument("--add", action="store_true", help="keep the rows that are there")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    images, labels = cifar10.load("test", args.data_dir)
    images = images[: args.images].astype(np.float32) / 255.0
    labels = labels[: args.images]
    if args.zoo:
        measure_zoo(args, images, labels)
        return
    out = args.out or RESULTS / "purification"
    zoo = [*sorted(RECOVERY), *ADAPTIVE]
    names = [name for name in zoo if name != "clean"] if args.models is None else args.models
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    if args.add:
        rows, missing = json.loads(out.with_suffix(".json").read_text()).values()
    done = {(row["model"], row["seed"]) for row in rows}
    for name, seed in [("shipped", s) for s in range(args.seeds)] + [(n, 0) for n in names]:
        label = name if seed == 0 else f"{name} (seed {seed})"
        if (name, seed) in done or label in missing:
            continue
        measured = measure(name, seed, images, labels)
        rows += measured
        missing += [] if measured else [label]
        write(out, rows, missing)


def measure_zoo(args: argparse.Namespace, images: np.ndarray, labels: np.ndarray) -> None:
    """The models of a folder, each written when it is done."""
    earlier = [] if args.earlier is None else json.loads(args.earlier.read_text())["rows"]
    rows, missing = [], []
    for name in args.models or TOLD:
        row = measure_told(args.zoo / name, args.recoveries, images, labels)
        missing += [] if row else [name]
        rows += [row] if row else []
        print(row, flush=True)
        write_told(
            args.out or RESULTS / "purification_zoo",
            rows,
            missing,
            {one["model"]: one for one in earlier},
        )


if __name__ == "__main__":
    main()
