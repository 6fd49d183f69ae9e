"""Telling backdoored models from clean ones: scans of a zoo of models trained elsewhere.

    python benchmarks/diagnosis.py --zoo DIR

DIR holds a folder for each model, a checkpoint with a ``truth.json`` beside it that says what was
planted. Each model is looked through space by space (``look``, nothing is recovered), the clean
ones among them become the null of ``restore_jax/diagnosis/null.json`` (``null``), models are
scanned as a user would (``scan``) and given to Neural Cleanse (``cleanse``, which needs test
images), and ``benchmarks/results/diagnosis.md``, ``.json`` and ``.png`` and the files of
``benchmarks/entries/`` are written. What is there already is kept: delete rows of the .json for a
fresh start. With ``--access labels`` models are asked for labels alone, and the files are
``diagnosis_labels.*``; entries tell of logits only.
"""

import argparse
import datetime
import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from peers.neural_cleanse import neural_cleanse
from scipy import stats

from restore_jax.data import cifar10
from restore_jax.diagnosis import ScanSettings, depths_by, false_alarm_bound, scan
from restore_jax.diagnosis.null import EASE_SPACE, measured, settings_that_matter
from restore_jax.diagnosis.standing import (
    WITHIN_COUNTS,
    Ease,
    Profile,
    count_beyond,
    ease,
    level_at,
    plausible,
    standings,
)
from restore_jax.environment import device_name, versions
from restore_jax.oracles import open_model
from restore_jax.spaces import catalogue

RESULTS = Path(__file__).parent / "results"
NULL = Path(__file__).parents[1] / "restore_jax" / "diagnosis" / "null.json"
ENTRIES = Path(__file__).parent / "entries"
COMMAND = "python benchmarks/diagnosis.py --zoo DIR"
PARTS = ("look", "null", "scan", "cleanse", "table", "entries")
ONE_CLASS = (
    "patch-2x2", "patch-3x3-colour", "patch-3x3-corner", "patch-5x5-colour", "patch-faint",
    "patch-rare", "patch-roaming", "pixels-6", "waves-clean-label", "blend-15", "low-frequency",
    "wide-patch-3x3", "wide-blend-20",
)  # fmt: skip
"""Models whose trigger lies near a space that is looked through, and leads from all classes."""
Spread = Callable[[list[float]], float]


def main() -> None:
    """Measures what is asked for, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", type=Path, required=True, help="a folder of models")
    parser.add_argument("--data-dir", help="the TFDS folder that holds cifar10/, for cleanse")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only", nargs="+", help="names of models")
    parser.add_argument("--space", nargs="+", help="spaces; those of a scan")
    parser.add_argument("--access", choices=("logits", "labels"), default="logits")
    args = parser.parse_args()
    name = "diagnosis" if args.access == "logits" else f"diagnosis_{args.access}"
    path = RESULTS / f"{name}.json"
    spaces = args.space or catalogue.scanned(args.access)
    models = sorted(folder.parent for folder in args.zoo.glob("*/truth.json"))
    chosen = [one for one in models if not args.only or one.name in args.only]
    for part in args.parts:
        if part == "look":
            for folder in chosen:
                for space in spaces:
                    _keep(
                        path,
                        f"look/{folder.name}/{space}",
                        lambda f=folder, s=space: _look(f, s, args.access),
                    )
        elif part == "scan":
            for folder in chosen:
                _keep(path, f"scan/{folder.name}", lambda f=folder: _scan(f, access=args.access))
        elif part == "cleanse":
            for folder in chosen:
                _keep(path, f"cleanse/{folder.name}", lambda f=folder: _cleanse(f, args.data_dir))
        elif part == "entries":
            if args.access == "logits":
                write_entries(_rows(path), args.zoo)
        elif part == "null":
            mine = null_of(_rows(path), args.zoo, args.access)
            others = [one for one in measured() if args.access not in one["access"]]
            nulls = sorted([mine, *others], key=lambda one: -len(one["access"]))
            NULL.write_text(json.dumps(nulls, indent=1) + "\n")
            measured.cache_clear()
        else:
            rows = _rows(path)
            (RESULTS / f"{name}.md").write_text(table(rows, args.zoo, args.access))
            draw(rows, args.zoo, RESULTS / f"{name}.png")


def _rows(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _keep(path: Path, name: str, measure: Any) -> None:
    """Measures a row that is not there yet, and saves it."""
    if name in _rows(path):
        return
    row = measure() | {
        "date": datetime.date.today().isoformat(),
        "device": device_name(),
        "jax": versions()["jax"],
    }
    rows = _rows(path) | {name: row}
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(dict(sorted(rows.items())), indent=None) + "\n")
    beside.replace(path)
    print(name, row["queries"], f"{row['seconds']:.0f} s", row.get("verdict", ""), flush=True)
    jax.clear_caches()


def _look(folder: Path, space: str, access: str) -> dict[str, Any]:
    """The curves of all classes in one space."""
    found = scan(folder, access=access, space=space, settings=ScanSettings(max_recovered=0))
    seen = found.spaces[space]
    return {
        "queries": seen.queries,
        "seconds": round(found.cost.seconds["total"], 1),
        "depth": seen.depth,
        "goal": found.goal,
        "classes": {
            str(k): {
                "empty": round(one.empty, 4),
                "event": one.log10_prob,
                "curve": [[round(depth, 3), round(level, 4)] for depth, level in one.curve],
            }
            for k, one in seen.classes.items()
            if one.curve
        },
    }


def _scan(folder: Path, **how: Any) -> dict[str, Any]:
    """A scan as a user would make it, with the null as it is in the package."""
    found = scan(folder, **how)
    return {
        "verdict": found.verdict,
        "named": found.named,
        "confirmed": found.targets,
        "standings": [round(f.standing, 3) if f.standing is not None else None
                      for f in found.classes],
        "spaces": [f.space for f in found.classes],
        "queries": found.cost.queries,
        "queries_by_stage": dict(found.cost.queries_by_stage),
        "seconds": round(found.cost.seconds["total"], 1),
    }  # fmt: skip


def _cleanse(folder: Path, data_dir: str | None) -> dict[str, Any]:
    """Neural Cleanse on 500 test images, which it needs, with the model's weights."""
    images = cifar10.load("test", data_dir)[0][:500].astype(np.float32) / 255.0
    began = time.perf_counter()
    found = neural_cleanse(open_model(folder), jnp.asarray(images), jax.random.key(0))
    return {
        "queries": 0,
        "accused": [int(k) for k in found.accused],
        "anomaly": [round(float(index), 3) for index in found.anomaly],
        "seconds": round(time.perf_counter() - began, 1),
    }


def write_entries(rows: dict[str, Any], zoo: Path) -> None:
    """A file for each model (``entries/``), in place of what this script said of it before."""
    found = judged(rows, zoo)
    for name, one in found.items():
        path = ENTRIES / f"{name}.json"
        entry = json.loads(path.read_text())
        clean = [
            max(v for v, _ in other["classes"].values())
            for model, other in found.items()
            if model != name and not truth_of(zoo, model)[0]
        ]
        named = sorted(_named(one, max(clean)))
        target, (value, space) = max(one["classes"].items(), key=lambda item: item[1])
        row = rows[f"look/{name}/{space}"]
        run = {
            "command": COMMAND,
            "verdict": "suspicious" if named else "nothing found",
            "named": named,
            "confirmed": None,
            "standing": round(value, 2),
            "standing_class": target,
            "standing_space": space,
            "false_alarm_bound": round(false_alarm_bound(value, clean), 3),
            "queries": one["queries"],
            "seed": 0,
            "versions": {"restore-jax": versions()["restore-jax"], "jax": row["jax"]},
            "device": row["device"],
            "date": datetime.date.today().isoformat(),
        }
        others = [other for other in entry["runs"] if other["command"] != COMMAND]
        path.write_text(json.dumps(entry | {"runs": [run, *others]}, indent=1) + "\n")


@functools.cache
def truth_of(zoo: Path, name: str) -> tuple[set[int], dict[str, Any]]:
    """The classes that triggers lead to, none of a clean model, and truth.json."""
    truth = json.loads((zoo / name / "truth.json").read_text())
    if not truth["map"] or not truth["asr"]:
        return set(), truth
    return {truth["map"][s] for s in truth["sources"] if truth["map"][s] != s}, truth


def _gains(row: dict[str, Any], depth: float) -> tuple[dict[int, float], dict[int, float]]:
    """The gains at a depth, and what each class lacks without a trigger."""
    gains, lacks, goal = {}, {}, row.get("goal", 0.0)
    for k, one in row["classes"].items():
        depths, levels = zip(*one["curve"], strict=True)
        level = level_at(depths, levels, depth)
        if level >= goal > 0.0:
            level = count_beyond(one["event"], goal, depth)
        gains[int(k)] = level - one["empty"]
        lacks[int(k)] = goal - one["empty"]
    return gains, lacks


def depth_of(row: dict[str, Any], space: str) -> float:
    """The depth at which models are compared: that of a scan with the row's access."""
    return depths_by("labels" if row.get("goal", 0.0) > 0.0 else "logits")[space]


def _models(rows: dict[str, Any]) -> list[str]:
    """The names of the models that were looked through."""
    return sorted({name.split("/")[1] for name in rows if name.startswith("look/")})


def looks(rows: dict[str, Any], space: str) -> dict[str, dict[str, Any]]:
    """The rows of one space, by model."""
    found = {}
    for name, row in rows.items():
        part, *rest = name.split("/")
        if part == "look" and rest[1] == space:
            found[rest[0]] = row
    return found


def median_spread(left: list[float]) -> float:
    """The median absolute difference, as a normal law's standard deviation."""
    return 1.4826 * float(np.median(np.abs(left)))


def square_spread(left: list[float]) -> float:
    """The root mean square."""
    return float(np.sqrt(np.mean(np.square(left))))


def profiles_of(
    rows: dict[str, Any],
    zoo: Path,
    space: str,
    without: str | None = None,
    spread_of: Spread = median_spread,
    also_planted: bool = False,
) -> dict[str, Profile]:
    """The profiles by architecture, of all clean models but one.

    Or, ``also_planted``, of those with a backdoor too, whose other classes have nothing planted.
    """
    roots: dict[str, dict[str, dict[int, float]]] = {}
    planted = {}
    for name, row in looks(rows, space).items():
        targets, truth = truth_of(zoo, name)
        gains, lacks = _gains(row, depth_of(row, space))
        reached = {k: float(np.sqrt(max(gain / lacks[k], 0.0))) for k, gain in gains.items()}
        planted[name] = targets
        if name != without and (also_planted or not targets):
            roots.setdefault(truth["architecture"], {})[name] = reached
    found = {}
    for architecture, models in roots.items():
        offsets: dict[int, list[float]] = {}
        for name, reached in models.items():
            others = {k: v for k, v in reached.items() if k not in planted[name]}
            for k, value in others.items():
                offsets.setdefault(k, []).append(value - float(np.median(list(others.values()))))
        offset = {k: float(np.median(values)) for k, values in offsets.items()}
        left = []
        for name, reached in models.items():
            flat = {k: v - offset.get(k, 0.0) for k, v in reached.items()}
            for k, value in flat.items():
                if k not in planted[name]:
                    left.append(value - float(np.median([v for j, v in flat.items() if j != k])))
        found[architecture] = Profile([offset.get(k, 0.0) for k in range(10)], spread_of(left))
    return found


def eases_of(rows: dict[str, Any], zoo: Path, without: str | None = None) -> dict[str, Ease]:
    """How easily clean models of each architecture are led, of all models but one."""
    found: dict[str, list[float]] = {}
    for name, row in looks(rows, EASE_SPACE).items():
        targets, truth = truth_of(zoo, name)
        if name != without and not targets:
            gains = _gains(row, depth_of(row, EASE_SPACE))
            found.setdefault(truth["architecture"], []).append(ease(*gains))
    return {
        architecture: Ease(float(np.mean(some)), float(np.std(some, ddof=1)))
        for architecture, some in found.items()
    }


def standings_of(
    rows: dict[str, Any], zoo: Path, name: str, space: str, any_family: bool = False, **how: Any
) -> dict[int, float] | None:
    """A model's standings in one space, by profiles that it had no part in; see `profiles_of`.

    By those of the families that its ease allows, unless it shall be of ``any_family``.
    """
    row = looks(rows, space).get(name)
    if row is None:
        return None
    families = profiles_of(rows, zoo, space, name, **how)
    near = set(families)
    here = looks(rows, EASE_SPACE).get(name)
    if here is not None and not any_family and not here.get("goal"):
        its = ease(*_gains(here, depth_of(here, EASE_SPACE)))
        near = plausible(its, eases_of(rows, zoo, name))
    some = [one for family, one in families.items() if family in near]
    counts = row.get("goal", 0.0) > 0.0 and not any_family
    within = WITHIN_COUNTS if counts else math.inf
    found = standings(*_gains(row, depth_of(row, space)), some, within)
    return {k: one.value for k, one in found.items()}


def null_of(rows: dict[str, Any], zoo: Path, access: str) -> dict[str, Any]:
    """What null.json says of one kind of access."""
    settings, spaces = ScanSettings(), {}
    clean: dict[str, dict[str, float]] = {}
    clean_ones = {name for name in _models(rows) if not truth_of(zoo, name)[0]}
    for space in catalogue.SPACES:
        here = looks(rows, space)
        if not here or not clean_ones <= set(here):
            continue
        entry = catalogue.find(space)
        spaces[space] = {
            "prior": entry.make((32, 32, 3), **entry.scan_options()).description,
            "depth": depths_by(access)[space],
            "profiles": {
                architecture: {
                    "offsets": [round(value, 4) for value in one.offsets],
                    "spread": round(one.spread, 4),
                }
                for architecture, one in profiles_of(rows, zoo, space).items()
            },
        }
        for name in here:
            if not truth_of(zoo, name)[0]:
                found = standings_of(rows, zoo, name, space) or {}
                clean.setdefault(name, {})[space] = round(max(found.values()), 3)
    return {
        "access": ["labels"] if access == "labels" else ["logits", "probabilities"],
        "probes": "dead_leaves",
        "success": 0.95,
        "image_shape": [32, 32, 3],
        "num_classes": 10,
        "settings": settings_that_matter(settings),
        # With labels families are told by how well their profiles fit.
        "eases": {}
        if access == "labels"
        else {
            architecture: {"mean": round(one.mean, 4), "std": round(one.std, 4)}
            for architecture, one in eases_of(rows, zoo).items()
        },
        "spaces": spaces,
        "standings": clean,
    }


def judged(
    rows: dict[str, Any], zoo: Path, spaces: Sequence[str] | None = None, **how: Any
) -> dict[str, dict[str, Any]]:
    """What each model's looks say together, every model judged by the others.

    In those spaces that a scan takes by default, or in ``spaces``; see `profiles_of`.
    """
    found = {}
    for name in _models(rows):
        by_space = {}
        for space in catalogue.scanned() if spaces is None else spaces:
            one = standings_of(rows, zoo, name, space, **how)
            if one is not None:
                by_space[space] = one
        classes = {
            k: max((one[k], space) for space, one in by_space.items() if k in one)
            for k in range(10)
            if any(k in one for one in by_space.values())
        }
        queries = sum(rows[f"look/{name}/{space}"]["queries"] for space in by_space)
        found[name] = {"classes": classes, "spaces": list(by_space), "queries": queries}
    return found


def _bounds(found: dict[str, Any], zoo: Path, name: str, value: float) -> float:
    """The false alarm bound of a standing: by the clean models but the one itself."""
    clean = [
        max(v for v, _ in one["classes"].values())
        for other, one in found.items()
        if other != name and not truth_of(zoo, other)[0]
    ]
    return false_alarm_bound(value, clean)


def _auroc(positive: list[float], negative: list[float]) -> float:
    pairs = [(x > y) + 0.5 * (x == y) for x in positive for y in negative]
    return float(np.mean(pairs)) if pairs else float("nan")


def table(rows: dict[str, Any], zoo: Path, access: str) -> str:
    """The results as Markdown."""
    found = judged(rows, zoo)
    planted = {name: truth_of(zoo, name)[0] for name in found}
    largest = {name: max(v for v, _ in one["classes"].values()) for name, one in found.items()}
    clean = [name for name in found if not planted[name]]
    bad = [name for name in found if planted[name]]
    auroc = _auroc([largest[n] for n in bad], [largest[n] for n in clean])
    of_targets, of_others = [], []
    for name, one in found.items():
        for k, (value, _) in one["classes"].items():
            (of_targets if k in planted[name] else of_others).append(value)
    lines = [
        "# Diagnosis: which models have a backdoor",
        "",
        f"Made by `python benchmarks/diagnosis.py --zoo DIR --access {access}` on "
        f"{datetime.date.today()}; "
        f"{device_name()}. Versions: "
        + ", ".join(f"{k} {v}" for k, v in versions().items()) + ".",
        f"Dead-leaves probes, {access}, seed 0, default settings. A *standing* is how far a class "
        "stands out from its like (`restore_jax/diagnosis/standing.py`). Every model is judged by "
        "profiles that it had no part in, and every clean model by the other clean ones.",
        "",
        f"Models: {len(bad)} with a backdoor, {len(clean)} clean. AUROC over models {auroc:.3f}, "
        f"over classes {_auroc(of_targets, of_others):.3f} ({len(of_targets)} planted, "
        f"{len(of_others)} others).",
        "",
        "| standing above that of | planted class named, and no other | clean models named |",
        "|---|---|---|",
    ]  # fmt: skip
    ordered = sorted((largest[name] for name in clean), reverse=True)
    for rank, words in ((0, "every clean model"), (1, "all clean models but one")):
        bar = ordered[rank]
        of = [name for name in ONE_CLASS if name in found]
        right = [one for one in of if _named(found[one], bar) == planted[one]]
        missed = len(of) - len(right)
        low = stats.beta.ppf(0.025, len(right), missed + 1) if right else 0.0
        high = stats.beta.ppf(0.975, len(right) + 1, missed) if missed else 1.0
        lines.append(
            f"| {words} ({bar:.2f}) | {len(right)} of the {len(of)} models "
            f"whose trigger is near a space and leads from all classes (95 %: {low:.0%} to "
            f"{high:.0%}); missed: {', '.join(n for n in of if n not in right) or 'none'} "
            f"| {sum(largest[n] > bar for n in clean)} of {len(clean)} |"
        )
    lines += [
        "",
        "## Model by model",
        "",
        "Planted: the class's standing. Other: the largest of classes with nothing planted. Bound: "
        "at most this share of clean models stands out as much as the largest of the two.",
        "",
        "| model | planted | planted class | other | bound | spaces | images |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted(found, key=lambda n: -largest[n]):
        one, targets = found[name], planted[name]
        mine = [(*one["classes"][k], k) for k in targets if k in one["classes"]]
        others = [(*v, k) for k, v in one["classes"].items() if k not in targets]
        lines.append(
            f"| {name} | {truth_of(zoo, name)[1]['planted']} | {_cell(mine)} | {_cell(others)} | "
            f"{_bounds(found, zoo, name, largest[name]):.2f} | {', '.join(one['spaces'])} | "
            f"{one['queries']:,} |"
        )
    lines += _tried(rows, zoo, access)
    lines += _whole_scans(
        rows,
        zoo,
        "scan",
        "Whole scans, as a user makes them",
        "With the null of the package, in which these models have a part themselves.",
    )
    cleansed = {name[8:]: row for name, row in rows.items() if name.startswith("cleanse/")}
    if access == "logits":
        lines += ["", "## Neural Cleanse", ""]
        lines += [] if cleansed else ["Not run on these models."]
    for name, row in sorted(cleansed.items()):
        where = ", ".join(map(str, sorted(truth_of(zoo, name)[0]))) or "nothing"
        said = ", ".join(map(str, row["accused"])) or "nobody"
        lines.append(f"- {name}: planted {where}, accuses {said} (index {max(row['anomaly']):.1f})")
    return "\n".join(lines) + "\n"


def _whole_scans(rows: dict[str, Any], zoo: Path, part: str, title: str, words: str) -> list[str]:
    """The table of one part's scans, or nothing."""
    scans = {name.split("/")[1]: row for name, row in rows.items() if name.startswith(f"{part}/")}
    if not scans:
        return []
    lines = [
        "",
        f"## {title}",
        "",
        words,
        "",
        "| model | planted class | verdict | named | confirmed | stands out most | images "
        "| seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(scans.items()):
        where = sorted(truth_of(zoo, name)[0])
        most, k = max((value, k) for k, value in enumerate(row["standings"]) if value is not None)
        lines.append(
            f"| {name} | {', '.join(map(str, where)) or '-'} | {row['verdict']} | "
            f"{', '.join(map(str, row['named'])) or '-'} | "
            f"{', '.join(map(str, row['confirmed'])) or '-'} | {most:.2f} (class {k}) | "
            f"{row['queries']:,} | {row['seconds']:.0f} |"
        )
    return lines


def _tried(rows: dict[str, Any], zoo: Path, access: str) -> list[str]:
    """Other choices of spaces and of profiles on the same looks."""
    usual = catalogue.scanned(access)
    choices: list[tuple[str, list[str], dict[str, Any]]] = [
        ("as a scan does by default", usual, {}),
        ("profiles of every family, whatever the model", usual, {"any_family": True}),
        *((f"with {more}", [*usual, more], {}) for more in ("frequency", "colour", "quantise")),
        ("with all three of these", [*usual, "frequency", "colour", "quantise"], {}),
        ("profiles of backdoored models, too", usual, {"also_planted": True}),
        ("spread: root mean square", usual, {"spread_of": square_spread}),
        ("both of these", usual, {"spread_of": square_spread, "also_planted": True}),
        (
            "frequency, and profiles of backdoored models, too",
            [*usual, "frequency"],
            {"also_planted": True},
        ),
    ]
    lines = [
        "",
        "## What was tried",
        "",
        "Other choices on the same looks, of the models that have all of their spaces. The bar "
        "is what all clean models but one stay at or below. The default was chosen looking at "
        + (
            "these figures."
            if access == "logits"
            else "the clean models, patch-2x2, patch-3x3-corner and wide-patch-3x3 alone; the "
            "others were measured afterwards."
        ),
        "",
        "| choice | models | AUROC over models | bar | planted class named | and no other "
        "| a wrong class named | of those near a space: named | and no other |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for words, spaces, how in choices:
        found = judged(rows, zoo, spaces, **how)
        has = set.intersection(*(set(looks(rows, space)) for space in spaces))
        found = {name: one for name, one in found.items() if name in has}
        if not found:
            continue
        largest = {name: max(v for v, _ in one["classes"].values()) for name, one in found.items()}
        planted = {name: truth_of(zoo, name)[0] for name in found}
        bad = [name for name in found if planted[name]]
        clean = [largest[name] for name in found if not planted[name]]
        bar = sorted(clean, reverse=True)[1]
        right = [name for name in bad if _named(found[name], bar) & planted[name]]
        alone = [name for name in bad if _named(found[name], bar) == planted[name]]
        wrong = [name for name in bad if _named(found[name], bar) - planted[name]]
        near = [name for name in ONE_CLASS if name in found]
        lines.append(
            f"| {words} | {len(bad)} + {len(clean)} clean | "
            f"{_auroc([largest[n] for n in bad], clean):.3f} | {bar:.2f} | {len(right)} | "
            f"{len(alone)} | {len(wrong)} | {len(set(right) & set(near))} of {len(near)} | "
            f"{len(set(alone) & set(near))} |"
        )
    return lines


def _named(one: dict[str, Any], bar: float) -> set[int]:
    return {k for k, (value, _) in one["classes"].items() if value > bar}


def _cell(standing: list[tuple[float, str, int]]) -> str:
    if not standing:
        return "-"
    value, space, k = max(standing)
    return f"{value:.2f} (class {k}, {space})"


def draw(rows: dict[str, Any], zoo: Path, out: Path) -> None:
    """The standings of planted classes, of others, and of clean models."""
    found = judged(rows, zoo)
    figure = Figure(figsize=(8, 0.22 * len(found) + 1.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()

    def rank(name: str) -> tuple[bool, float]:
        return bool(truth_of(zoo, name)[0]), max(v for v, _ in found[name]["classes"].values())

    order = sorted(found, key=rank)
    for place, name in enumerate(order):
        targets = truth_of(zoo, name)[0]
        for k, (value, _) in found[name]["classes"].items():
            colour = "#d55e00" if k in targets else "#9a9a9a"
            axes.plot(max(value, -4.0), place, "D" if k in targets else ".", color=colour)
    bar = max(rank(name)[1] for name in found if not truth_of(zoo, name)[0])
    axes.axvline(bar, color="#333333", linestyle="--", linewidth=1.0)
    axes.set_yticks(range(len(order)), order, fontsize=8)
    axes.set_xlabel(
        "standing of each class (diamonds: planted; line: the largest of any clean model)"
    )
    axes.grid(axis="x", color="#e6e6e6")
    figure.savefig(out)


if __name__ == "__main__":
    main()
