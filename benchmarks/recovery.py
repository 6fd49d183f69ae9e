"""Recoveries over models, accesses and seeds: planted triggers, and classes without one.

    python benchmarks/recovery.py --data-dir DIR

runs the packaged model and the small ones of ``benchmarks/zoo/`` in the parts below, and writes
``benchmarks/results/recovery.md`` and ``.json`` after every run; runs that the file has already are
not made again unless ``--anew``.

- first: the packaged model's triggers, stopped at the first hit, by access;
- twin: the same classes of its clean twin, at the same budgets: whatever is found was not planted;
- estimate: patch models in the default way, with a probability;
- literature: scattered pixels, blend and stripes, each in its own space, stopped at the first hit;
- clean: classes without a trigger, at the budgets of the first part, four times over;
- auto: ``--space auto`` on one model of each kind;
- reference: the earlier protocol on one patch model (ten minutes and more).
"""

import argparse
import datetime
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from zoo import RECOVERY, ZOO

from restore_jax import Oracle, attack_success_rate, checkpoints, open_model, recover
from restore_jax.data import cifar10
from restore_jax.environment import device_name, versions
from restore_jax.oracles import Asker
from restore_jax.recovery import planted_in
from restore_jax.report import recovery_content

RESULTS = Path(__file__).parent / "results"
PARTS = ("first", "twin", "estimate", "literature", "clean", "auto", "reference")
BUDGETS = {"logits": 40_000, "probabilities": 40_000, "labels": 80_000}
"""Images for a first hit: what `recover` may send by default, with labels twice that."""
KEEP = (
    "target", "target_name", "space", "access", "stop", "seed", "queries", "queries_by_stage",
    "budget", "log10_prob", "log10_prob_interval", "best_score", "goal", "probe_success_rate",
    "confirmation_success_rate", "trigger_pixels", "truth", "seconds", "versions", "device",
)  # fmt: skip


class Job(NamedTuple):
    """One recovery.

    Attributes:
      part: one of `PARTS`.
      model: "shipped", "shipped-clean", or a name in the zoo.
      target: the class.
      access, space, stop, budget, seed: as `recover` takes them.
    """

    part: str
    model: str
    target: int
    access: str
    space: str
    stop: str
    budget: int | None
    seed: int


def jobs(seeds: int, clean_seeds: int, small_seeds: int) -> list[Job]:
    """Everything there is to run."""
    zoo = sorted(RECOVERY)
    targets = {
        name: sorted(p.target for p in planted_in(open_model(folder(name))).values())
        for name in ["shipped", *zoo]
    }
    own = {"pixels": "scattered", "blend": "blend", "stripes": "stripes"}
    found: list[Job] = []
    for part, model in (("first", "shipped"), ("twin", "shipped-clean")):
        for target in targets["shipped"]:
            for seed in range(seeds):
                for access, budget in BUDGETS.items():
                    found.append(Job(part, model, target, access, "patch", "first_hit",
                                     budget, seed))  # fmt: skip
                found.append(Job("estimate" if part == "first" else part, model, target, "logits",
                                 "patch", "estimate", None, seed))  # fmt: skip
    for name in zoo:
        for target in targets[name]:
            for seed in range(small_seeds):
                if name in own:
                    found.append(Job("literature", name, target, "logits", own[name], "first_hit",
                                     200_000, seed))  # fmt: skip
                else:
                    for stop in ("first_hit", "estimate"):
                        found.append(Job("estimate", name, target, "logits", "patch", stop,
                                         None, seed))  # fmt: skip
            found.append(Job("auto", name, target, "logits", "auto", "first_hit", None, 0))
    for name in ("shipped", "clean"):
        for target in range(10) if name in targets else ():
            if target not in targets[name]:
                for access, budget in BUDGETS.items():
                    for seed in range(clean_seeds):
                        found.append(Job("clean", name, target, access, "patch", "first_hit",
                                         budget, seed))  # fmt: skip
    if "patch-1" in targets:
        found.append(Job("reference", "patch-1", targets["patch-1"][0], "logits", "sparse",
                         "levels", None, 0))  # fmt: skip
    return sorted(found, key=lambda job: (job.seed, PARTS.index(job.part)))


def folder(name: str) -> str | Path:
    """What `open_model` takes for a model's name."""
    return name if name in checkpoints.PACKAGED else ZOO / name


def one(job: Job, oracle: Oracle, asker: Asker, test_data: Any | None) -> dict[str, Any]:
    """One recovery's row; the ASR on test data is measured where a planted trigger is sought."""
    if job.part == "reference":
        recovery = recover(oracle, job.target, protocol="reference", seed=job.seed)
    else:
        recovery = recover(
            oracle, job.target, space=job.space, stop=job.stop, budget=job.budget, seed=job.seed
        )
    content = recovery_content(recovery)
    rate = None
    if test_data is not None and job.part != "clean":
        rate = attack_success_rate(oracle, recovery.trigger, *test_data, asker=asker)
    row = job._asdict() | {name: content.get(name) for name in KEEP}
    row |= {"budget": content["budget"], "found": recovery.found, "status": recovery.status}
    row |= {"test_success_rate": rate, "part": job.part, "model": job.model, "job": list(job)}
    row["spaces_tried"] = content.get("spaces_tried")
    print(
        f"{job.part:<10} {job.model:<8} {row['target_name']:<11} {job.access:<13} "
        f"{row['space']:<9} {job.stop:<9} seed {job.seed:<2} "
        f"{'found' if row['found'] else 'not found':<9}  {row['queries']:>7,} queries  "
        f"test {rate}  closest {row['probe_success_rate']:.2f}  {row['trigger_pixels']} px  "
        f"{row['seconds']['total']:.0f} s",
        flush=True,
    )
    return row


def spread(values: list[float], digits: int) -> str:
    """Median and range of some values."""
    if not values:
        return ""
    low, middle, high = np.min(values), np.median(values), np.max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def probability(rows: list[dict[str, Any]]) -> str:
    """The probabilities found; where the event was not met, what they are at most (95 %)."""
    found = [row["log10_prob"] for row in rows if row["log10_prob"] is not None]
    bounds = [
        row["log10_prob_interval"][1]
        for row in rows
        if row["log10_prob"] is None and row["log10_prob_interval"] is not None
    ]
    said = [spread(found, 2), f"at most {spread(bounds, 2)}" if bounds else ""]
    return "; ".join(one for one in said if one)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table, one line per model, class, access, space and way to stop."""
    lines = [
        "| model | class | access | space | stop | found | queries | 95th percentile "
        "| log10 probability | closest, probes led | ASR on the test images | ASR >= 99 % "
        "| pixels | IoU as it lies | IoU after shift | shift, rows and columns |",
        "|---" * 16 + "|",
    ]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        job = Job(*row["job"])
        name = (row["model"], row["target_name"], job.access, job.space, job.stop)
        groups.setdefault(name, []).append(row)
    for name, some in groups.items():
        tests = [row["test_success_rate"] for row in some if row["test_success_rate"] is not None]
        truth = [row["truth"] for row in some if row["truth"]]
        shifts = [np.abs(one["shift"]) for one in truth]
        cells = [
            *name,
            f"{sum(row['found'] for row in some)} of {len(some)}",
            spread([row["queries"] for row in some], 0),
            f"{np.percentile([row['queries'] for row in some], 95):,.0f}",
            probability(some),
            spread([row["probe_success_rate"] for row in some], 2),
            spread(tests, 4),
            f"{sum(rate >= 0.99 for rate in tests)} of {len(tests)}" if tests else "",
            spread([row["trigger_pixels"] for row in some], 0),
            spread([one["iou"] for one in truth], 2),
            spread([one["iou_after_shift"] for one in truth], 2),
            " and ".join(f"{np.median([s[i] for s in shifts]):.0f}" for i in (0, 1))
            if truth
            else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the tables and the rows."""
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    titles = {
        "first": "The packaged model: the first trigger that works, by access",
        "twin": "Its clean twin: the same classes, seeds and budgets",
        "estimate": "Patch models: pruned triggers, with a probability and without",
        "literature": "Scattered pixels, blend and stripes",
        "clean": "Classes without a trigger",
        "auto": "`--space auto`",
        "reference": "The earlier protocol",
    }
    lines = [
        "# Recoveries",
        "",
        f"`python benchmarks/recovery.py` on {datetime.date.today()}, {device_name()}, "
        f"{os.cpu_count()} cores ({platform.system()}); {found}.",
        "",
        "Synthetic probes, default settings. Queries are all images sent: screening, search, "
        "choice, pruning and confirmation. ASR on CIFAR-10's test images (JPEG re-encoding) of "
        "other classes, all 9,000 for the packaged models, those of the first 2,000 for the "
        "small ones. Medians, with the range over seeds in brackets; shifts are medians of their "
        "sizes. Where the event was not met, the probability is what it is at most (95 %).",
    ]
    for part, title in titles.items():
        some = [row for row in rows if row["part"] == part]
        if some:
            lines += ["", f"## {title}", "", *table(some)]
    tried = [row for row in rows if row["spaces_tried"]]
    if tried:
        lines += ["", "What `auto` tried, and what each space cost:", ""]
        for row in tried:
            steps = ", ".join(
                f"{one['space']} ({one['queries']:,}{', found' if one['found'] else ''})"
                for one in row["spaces_tried"]
            )
            lines.append(f"- {row['model']}, {row['target_name']}: {steps}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    out.with_suffix(".json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def main() -> None:
    """Runs what has not been run and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="the TFDS folder that holds cifar10/")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=20, help="packaged model (%(default)s)")
    parser.add_argument("--small-seeds", type=int, default=5, help="zoo (%(default)s)")
    parser.add_argument("--clean-seeds", type=int, default=5, help="clean classes (%(default)s)")
    parser.add_argument("--only", help="models whose name holds this")
    parser.add_argument("--access", nargs="+", default=list(BUDGETS), help="of these (all)")
    parser.add_argument("--anew", action="store_true", help="run what has been run, too")
    parser.add_argument("--out", type=Path, default=RESULTS / "recovery")
    args = parser.parse_args()
    images, labels = cifar10.load("test", args.data_dir)
    data = dict.fromkeys(checkpoints.PACKAGED, (images, labels))
    rows: list[dict[str, Any]] = []
    if not args.anew and args.out.with_suffix(".json").exists():
        rows = json.loads(args.out.with_suffix(".json").read_text()).get("rows", [])
    done = {tuple(row["job"]) for row in rows}
    open_models: dict[tuple[str, str], tuple[Oracle, Asker]] = {}
    with tempfile.TemporaryDirectory() as cache:
        if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
            jax.config.update("jax_compilation_cache_dir", cache)
        for job in jobs(args.seeds, args.clean_seeds, args.small_seeds):
            wanted = job.part in args.parts and job.access in args.access
            if not wanted or tuple(job) in done or (args.only and args.only not in job.model):
                continue
            key = (job.model, job.access)
            if key not in open_models:
                oracle = open_model(folder(job.model), job.access)
                open_models[key] = oracle, Asker(oracle)
            test_data = data.get(job.model, (images[:2000], labels[:2000]))
            rows.append(one(job, *open_models[key], test_data))
            write(args.out, rows)


if __name__ == "__main__":
    main()
