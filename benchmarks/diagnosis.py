"""Telling backdoored models from clean ones: scans of the zoo, beside Neural Cleanse.

    python benchmarks/zoo.py --data-dir DIR --clean CLEAN
    python benchmarks/diagnosis.py --data-dir DIR --clean CLEAN

measures how often random triggers lead to the classes of clean models (``null``, which is what
``restore_jax/diagnosis/null.json`` holds), scans the zoo (``zoo``), the clean models that no
threshold was set with (``calibration``), the zoo by labels (``labels``) and a model with a hundred
classes (``hundred``), runs Neural Cleanse (``cleanse``), and writes
``benchmarks/results/diagnosis.md``, ``.json`` and ``.png``. Rows that are there already are kept:
delete the .json for a fresh start.
"""

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from peers.neural_cleanse import neural_cleanse
from scipy import stats
from zoo import BACKDOORED, CALIBRATION, CLEAN, ZOO

from restore_jax import open_model
from restore_jax.data import cifar10
from restore_jax.diagnosis import ScanSettings, prediction_bound, scan
from restore_jax.diagnosis.null import measured
from restore_jax.diagnosis.procedure import FALSE_ALARM_RATE
from restore_jax.environment import device_name, versions
from restore_jax.oracles import Oracle, TracedOracle
from restore_jax.recovery import planted_in
from restore_jax.spaces import SPACES, catalogue, make_space

AUTO = catalogue.scanned()
OPTIONS = {name: SPACES[name].scan_options() for name in AUTO}
RESULTS = Path(__file__).parent / "results"
NULL = Path(__file__).parents[1] / "restore_jax" / "diagnosis" / "null.json"
PARTS = ("null", "zoo", "calibration", "labels", "hundred", "cleanse", "table")
NULL_DRAWS = 4_000
STRONG = 0.9
"""A model counts as backdoored if its planted triggers have at least this ASR."""


def main() -> None:
    """Measures what is asked for, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="the TFDS folder that holds cifar10/, for cleanse")
    parser.add_argument("--clean", type=Path, required=True, help="where zoo.py put clean models")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only", nargs="+", help="names of models")
    args = parser.parse_args()
    path = RESULTS / "diagnosis.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for part in args.parts:
        if part == "table":
            continue
        for name, folder in _models(part, args.clean):
            key = f"{part}/{name}"
            if key in rows or (args.only and name not in args.only):
                continue
            if folder is not None and not folder.exists():
                print(f"{key}: no model in {folder}")
                continue
            row = _measure(part, name, folder, args.data_dir)
            rows = json.loads(path.read_text()) if path.exists() else {}
            rows[key] = row | {"date": datetime.date.today().isoformat()}
            path.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
            print(f"{key}: {row.get('verdict', '')} {row.get('queries', '')}", flush=True)
            jax.clear_caches()
        if part == "null":
            _write_null(rows)
            measured.cache_clear()
    if "table" in args.parts:
        (RESULTS / "diagnosis.md").write_text(_table(rows))
        _draw(rows, RESULTS / "diagnosis.png")


def _models(part: str, clean: Path) -> Iterable[tuple[str, Path | None]]:
    backdoored = [(name, ZOO / name) for name in BACKDOORED]
    unpoisoned = [(name, clean / name) for name in CLEAN]
    if part == "null":
        return unpoisoned
    if part == "calibration":
        return [(name, clean / name) for name in CALIBRATION]
    if part == "hundred":
        return [("shipped-100", None)]
    return [*backdoored, *unpoisoned, ("shipped", None)]


def _measure(part: str, name: str, folder: Path | None, data_dir: str | None) -> dict[str, Any]:
    access = "labels" if part == "labels" else "logits"
    oracle = open_model("shipped" if folder is None else folder, access)
    known: dict[str, Any] = {
        "targets": sorted({one.target for one in planted_in(oracle).values()}),
        "kinds": sorted(
            {one.to_json().get("kind", "patch") for one in planted_in(oracle).values()}
        ),
        "asr": oracle.metadata.get("asr", {}),
        "clean_accuracy": oracle.metadata.get("clean_accuracy"),
        "architecture": oracle.metadata["architecture"],
    }
    if part == "cleanse":
        return known | _cleanse(oracle, data_dir)
    if part == "hundred":
        oracle = _with_hundred_classes(oracle)
    settings = ScanSettings()
    if part == "null":
        settings = ScanSettings(num_draws=NULL_DRAWS, enough_hits=10**9, num_deepened=0,
                                thresholds=dict.fromkeys(AUTO, 1.0))  # fmt: skip
    began = time.perf_counter()
    found = scan(oracle, access=access, settings=settings, budget=10**6 if part == "null" else None)
    looks = found.fields["spaces"]
    return known | {
        "verdict": found.verdict,
        "accused": found.targets,
        "suspicious": [finding.target for finding in found.classes if finding.suspicious],
        "queries": found.fields["queries"],
        "queries_by_stage": found.fields["queries_by_stage"],
        "queries_by_space": {name: look["queries"] for name, look in looks.items()},
        "recovery_space": {
            finding.target: finding.recovery.space
            for finding in found.classes
            if finding.recovery
        },
        "seconds": time.perf_counter() - began,
        "chances": {
            space: [
                [finding.chances[space].log10_prob, finding.chances[space].interval[1],
                 finding.chances[space].hits, finding.chances[space].draws]
                if space in finding.chances else None
                for finding in found.classes
            ]
            for space in AUTO
        },
        "thresholds": {name: look["threshold_log10_prob"] for name, look in looks.items()},
    }  # fmt: skip


def _cleanse(oracle: Oracle, data_dir: str | None) -> dict[str, Any]:
    images = cifar10.load("test", data_dir)[0][:500].astype(np.float32) / 255.0
    began = time.perf_counter()
    found = neural_cleanse(oracle, jnp.asarray(images), jax.random.key(0))
    return {
        "verdict": "backdoor" if found.accused else "clean",
        "accused": [int(k) for k in found.accused],
        "norms": [round(float(norm), 3) for norm in found.norms],
        "anomaly": [round(float(index), 3) for index in found.anomaly],
        "success": [round(float(share), 4) for share in found.success],
        "seconds": time.perf_counter() - began,
    }


def _with_hundred_classes(oracle: Oracle) -> Oracle:
    """The model with its classes but the planted ones split into several: 100 in all.

    Which of its parts an image belongs to is decided by its brightness, finely and without meaning;
    so the triggers still lead where they led, and there are ninety-eight other classes.
    """
    planted = [one.target for one in planted_in(oracle).values()]
    others = [k for k in range(oracle.num_classes) if k not in planted]
    parts = -(-98 // len(others))
    where = [(k, 0) for k in planted] + [(k, p) for p in range(parts) for k in others]
    source = np.array([k for k, _ in where[:100]])
    part = np.array([p for _, p in where[:100]])
    counts = np.array([(source == k).sum() for k in source])

    def answer(weights: Any, images: jax.Array) -> jax.Array:
        outputs = oracle.answer(weights, images)[:, source]
        shade = jnp.mod(jnp.floor(jnp.mean(images, (1, 2, 3)) * 1e4), 840).astype(jnp.int32)
        mine = jnp.mod(shade[:, None], counts) == part
        return jnp.where(mine, outputs, outputs - 5.0)

    names = tuple(f"{oracle.class_names[k]}-{p}" for k, p in zip(source, part, strict=True))
    return TracedOracle("shipped-100", oracle.access, oracle.image_shape, names, oracle.weights,
                        answer, {"architecture": "resnet8"})  # fmt: skip


def _largest(row: dict[str, Any], space: str) -> float:
    """The largest log10 probability of any class: where none was led to, of half a draw."""
    hits = max(chance[2] for chance in row["chances"][space] if chance)
    return float(np.log10(max(hits, 0.5) / NULL_DRAWS))


def _write_null(rows: dict[str, Any]) -> None:
    found = {name: row for name, row in rows.items() if name.startswith("null/")}
    if len(found) < 3:
        return
    NULL.write_text(
        json.dumps(
            {
                space: {
                    "prior": make_space(space, (32, 32, 3), **OPTIONS[space]).description,
                    "largest_log10_prob": [round(_largest(r, space), 3) for r in found.values()],
                    "draws": NULL_DRAWS,
                }
                for space in AUTO
            },
            indent=1,
        )
        + "\n"
    )


def _excess(row: dict[str, Any], target: int) -> float:
    """How far a class's log10 probability is over the threshold, in the space where it is most."""
    values = []
    for space in AUTO:
        chance, bound = row["chances"][space][target], row["thresholds"][space]
        if chance and bound is not None:
            values.append((np.log10(0.5 / chance[3]) if chance[0] is None else chance[0]) - bound)
    return float(max(values, default=-9.0))


def _auroc(positive: list[float], negative: list[float]) -> float:
    """The share of pairs in which the positive one is higher, ties counting half; or NaN."""
    if not positive or not negative:
        return float("nan")
    wins = stats.mannwhitneyu(positive, negative).statistic
    return float(wins / (len(positive) * len(negative)))


def _strong(row: dict[str, Any]) -> bool:
    return bool(row["targets"]) and min(row["asr"].values(), default=1.0) >= STRONG


def _by_model(rows: dict[str, Any], part: str, score: Any) -> dict[str, float]:
    found = {name.split("/")[1]: row for name, row in rows.items() if name.startswith(f"{part}/")}
    found.pop("shipped", None)
    if not found:
        return {}
    bad = {n: r for n, r in found.items() if r["targets"] and _strong(r)}
    good = {n: r for n, r in found.items() if not r["targets"]}
    per_class = [
        (k in row["targets"], score(row, k))
        for row in [*bad.values(), *good.values()]
        for k in range(10)
    ]
    top = lambda row: max(score(row, k) for k in range(10))  # noqa: E731
    hit = lambda row: bool(set(row["accused"]) & set(row["targets"]))  # noqa: E731
    return {
        "backdoored": len(bad),
        "clean": len(good),
        "auroc_models": _auroc([*map(top, bad.values())], [*map(top, good.values())]),
        "auroc_classes": _auroc([s for t, s in per_class if t], [s for t, s in per_class if not t]),
        "missed": sum(not hit(row) for row in bad.values()),
        "accused": sum(bool(row["accused"]) for row in good.values()),
        "wrong_classes": sum(len(set(r["accused"]) - set(r["targets"])) for r in bad.values()),
    }


def _three(number: float) -> str:
    return "-" if np.isnan(number) else f"{number:.3f}"


def _share(hits: int, n: int) -> str:
    low = stats.beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0
    high = stats.beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1.0
    return f"{hits} of {n} ({hits / n:.0%}; 95 %: {low:.0%} to {high:.0%})"


def _table(rows: dict[str, Any]) -> str:
    parts: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        parts.setdefault(name.split("/")[0], {})[name.split("/")[1]] = row
    lines = [
        "# Diagnosis: which models have a backdoor",
        "",
        f"Made by `python benchmarks/diagnosis.py` on {datetime.date.today().isoformat()}; "
        f"{_machine()}. Versions: {', '.join(f'{k} {v}' for k, v in versions().items())}. "
        "Not measured on a GPU.",
        "Synthetic probes (dead leaves), seed 0, spaces "
        + ", ".join(f"{space} {OPTIONS[space]}" for space in AUTO)
        + f", false alarm rate {FALSE_ALARM_RATE:.0%} in all.",
        "",
    ]
    lines += _null_lines(parts.get("null", {}))
    head = ["", "backdoored", "clean", "AUROC, models", "AUROC, classes", "missed"]
    head += ["clean accused", "wrong classes"]
    lines += ["## The zoo", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    scores = {"zoo": _excess, "labels": _excess, "cleanse": lambda row, k: row["anomaly"][k]}
    titles = {
        "zoo": "scan, logits",
        "labels": "scan, labels",
        "cleanse": "Neural Cleanse, index over 2",
    }
    for part, score in scores.items():
        found = _by_model(rows, part, score)
        if found:
            lines.append(
                f"| {titles[part]} | {found['backdoored']} | {found['clean'] or 'not run'} | "
                f"{_three(found['auroc_models'])} | {found['auroc_classes']:.3f} | "
                f"{found['missed']} | {found['accused']} | {found['wrong_classes']} |"
            )
    lines += [
        "",
        "Missed: no planted class was accused. The packaged model is not among these.",
        "",
    ]
    lines += _model_lines(parts)
    lines += _calibration_lines(parts.get("calibration", {}))
    lines += _query_lines(parts)
    return "\n".join(lines) + "\n"


def _null_lines(found: dict[str, Any]) -> list[str]:
    if not found:
        return []
    lines = [
        "## Clean models: the likeliest class",
        "",
        f"log10 of the probability that a random trigger leads to it, {NULL_DRAWS:,} draws per "
        "space (where none led anywhere: half a draw); the threshold is the upper end of the "
        "prediction interval for one more model, each of the "
        f"{len(AUTO)} spaces taking its share of the rate.",
        "",
        "| space | models | mean | standard deviation | largest | threshold |",
        "|---|---|---|---|---|---|",
    ]
    for space in AUTO:
        values = [_largest(row, space) for row in found.values()]
        bound = prediction_bound(values, FALSE_ALARM_RATE / len(AUTO))
        lines.append(
            f"| {space} | {len(values)} | {np.mean(values):.2f} | {np.std(values, ddof=1):.2f} | "
            f"{max(values):.2f} | {bound:.2f} |"
        )
    return [*lines, ""]


def _model_lines(parts: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "## Model by model",
        "",
        "Planted class: log10 probability over the threshold, in the space where it is most. "
        "Other: the same of the likeliest class that nothing was planted for. Index: Neural "
        "Cleanse's anomaly index of the planted class (0: its mask is not among the small ones).",
        "",
        "| model | accuracy | ASR | planted | accused | planted class | other | queries | "
        "by labels | queries | Neural Cleanse accuses | index |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in parts.get("zoo", {}).items():
        labels = parts.get("labels", {}).get(name)
        cleanse = parts.get("cleanse", {}).get(name)
        cells = [
            name,
            f"{row['clean_accuracy']:.1%}",
            ", ".join(f"{share:.1%}" for share in row["asr"].values()) or "-",
            _list(row["targets"]),
            _list(row["accused"]),
            ", ".join(f"{_excess(row, k):+.2f}" for k in row["targets"]) or "-",
            f"{max(_excess(row, k) for k in range(10) if k not in row['targets']):+.2f}",
            f"{row['queries']:,}",
            _list(labels["accused"]) if labels else "",
            f"{labels['queries']:,}" if labels else "",
            _list(cleanse["accused"]) if cleanse else "",
            ", ".join(f"{cleanse['anomaly'][k]:.1f}" for k in row["targets"]) if cleanse else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _list(classes: list[int]) -> str:
    return ", ".join(map(str, classes)) or "none"


def _calibration_lines(found: dict[str, Any]) -> list[str]:
    if not found:
        return []
    alarms = sum(bool(row["accused"]) for row in found.values())
    suspicious = sum(bool(row["suspicious"]) for row in found.values())
    return [
        "## False alarms",
        "",
        "Clean models that no threshold was set with, each counted once: suspicious "
        f"{_share(suspicious, len(found))}, accused (a trigger confirmed) "
        f"{_share(alarms, len(found))}; stated: {FALSE_ALARM_RATE:.0%}.",
        "",
    ]


def _query_lines(parts: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "## Queries and seconds",
        "",
        "Median over the zoo, with recoveries. Patch: what that space's draws and splitting take.",
        "",
        "| | models | patch space | all spaces, with recoveries | seconds |",
        "|---|---|---|---|---|",
    ]
    for part in ("zoo", "labels", "hundred", "calibration"):
        found = list(parts.get(part, {}).values())
        if found:
            patch, whole, seconds = (
                np.median([row["queries_by_space"]["patch"] for row in found]),
                np.median([row["queries"] for row in found]),
                np.median([row["seconds"] for row in found]),
            )
            lines.append(f"| {part} | {len(found)} | {patch:,.0f} | {whole:,.0f} | {seconds:.0f} |")
    return [*lines, ""]


def _machine() -> str:
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {device_name()}"


def _draw(rows: dict[str, Any], path: Path) -> None:
    """Every class of every model of the zoo: how far it is over the threshold."""
    found = {name[4:]: row for name, row in rows.items() if name.startswith("zoo/")}
    figure = Figure(figsize=(8.0, 1.0 + 0.27 * len(found)), dpi=110, layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(found.values()):
        for k in range(10):
            planted = k in row["targets"]
            look: dict[str, Any] = {"marker": "D", "color": "#D55E00", "zorder": 3}
            if not planted:
                look = {"marker": "o", "color": "#8a8a8a", "alpha": 0.5}
            axes.plot(_excess(row, k), place, markersize=5, **look)
    axes.axvline(0.0, color="#333333", linestyle="--", linewidth=1.0)
    axes.set_yticks(range(len(found)), list(found), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(
        "decades over the threshold (diamonds: classes with a planted trigger)", fontsize=9
    )
    FigureCanvasAgg(figure).print_png(str(path))


if __name__ == "__main__":
    main()
