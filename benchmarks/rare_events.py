"""The sampler on problems whose probability is known, in several configurations.

    python benchmarks/rare_events.py

runs every problem of `problems.PROBLEMS` in every configuration of `CONFIGURATIONS`, 200
replicates by `jax.vmap`, some also with every choice of moves in `MOVES`, and writes
``benchmarks/results/rare_events.md`` and ``.json``: bias, error, what the error costs in
evaluations, and how often the 95 % interval holds the truth.
"""

import argparse
import datetime
import json
import math
import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import problems
from problems import Problem

from restore_jax.environment import device_name, versions
from restore_jax.splitting import (
    SearchSpace,
    Status,
    count,
    ideal_log_prob_std,
    importance_splitting,
    metropolis,
)
from restore_jax.splitting.directions import half_spaces
from restore_jax.splitting.priors import pcn, redraw

RESULTS = Path(__file__).parent / "results"


LAST_PARTICLE = "last particle, 8x"
DEFAULT = "default: waste-free 9x, 0.25"
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "waste-free 19x, 0.25": {"num_moves": 19},
    "waste-free 4x, 0.25": {"num_moves": 4},
    "waste-free 9x, 0.1": {"survival": 0.1},
    "all move 20x, 0.1": {"moving": "all", "num_particles": 200, "survival": 0.1, "num_moves": 20},
    "clones move 4x, 0.75": {
        "moving": "clones", "num_particles": 400, "survival": 0.75, "num_moves": 4,
        "max_levels": 300,
    },
    LAST_PARTICLE: {
        "moving": "clones", "num_particles": 100, "survival": 0.99, "num_moves": 8,
        "max_levels": 8000,
    },
}  # fmt: skip
ENOUGH_MOVES = "all move 20x, 0.1"
"""The configuration that is to come near what theory gives for its survival."""
IN_MANY_DIMENSIONS = (DEFAULT, "waste-free 4x, 0.25")
MOVES: dict[str, list[Any]] = {
    "pCN": [pcn],
    "pCN, redraw": [pcn, redraw],
    "pCN, redraw, half-space": [pcn, redraw, half_spaces(1)],
    "all four (default)": [pcn, redraw, half_spaces(1), half_spaces(4)],
}
FOR_MOVES = (
    "linear, d = 2, 1e-8", "linear, d = 100, 1e-8", "outside a ball, d = 20, 1e-8",
    "four branches, d = 2", "two modes, d = 10", "plateaus, 64 coins", "parabola, d = 5",
)  # fmt: skip


def compiled(problem: Problem, space: Any, options: dict[str, Any]) -> Any:
    """Replicates as one program ``(keys, level) -> result``."""
    algorithm = importance_splitting(
        lambda x, level: problem.formula(x, jnp) - level, space, **{"max_levels": 200, **options}
    )
    return jax.jit(jax.vmap(algorithm.run, (0, None)))


def measure(problem: Problem, run: Any, num_particles: int, replicates: int) -> dict[str, Any]:
    """One problem in one configuration."""
    keys = jax.random.split(jax.random.key(0), replicates)
    start = time.perf_counter()
    result = jax.block_until_ready(run(keys, problem.level))
    seconds = time.perf_counter() - start
    reached = np.asarray(result.status) == Status.REACHED
    log_prob = np.where(reached, np.asarray(result.log_prob, np.float64), -np.inf)
    ratio = np.exp(log_prob - problem.log_prob)
    low, high = (np.asarray(end) for end in result.interval(0.95))
    evaluations = float(np.mean(count(result)))
    deviation = float(log_prob[reached].std(ddof=1))
    ideal = ideal_log_prob_std(result.survival, num_particles)
    return {
        "reached": int(reached.sum()),
        "replicates": replicates,
        "finite": bool(np.all(np.isfinite(np.asarray(result.log_prob)[reached]))),
        "mean_ratio": float(ratio.mean()),
        "mean_ratio_error": float(ratio.std(ddof=1) / math.sqrt(replicates)),
        "sd_log_prob": deviation,
        "median_stated_sd": float(np.median(np.asarray(result.log_prob_std)[reached])),
        "ideal_sd": float(np.mean(np.asarray(ideal)[reached])),
        "coverage": float(np.mean((low <= problem.log_prob) & (problem.log_prob <= high))),
        "evaluations": evaluations,
        "cost": deviation * math.sqrt(evaluations),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--only", default="", help="problems whose name holds this")
    parser.add_argument("--skip", default=None, help="leave out problems whose name holds this")
    parser.add_argument("--add", action="store_true", help="keep the results of other problems")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    programs: dict[Any, Any] = {}
    rows: list[dict[str, Any]] = []
    by_moves: list[dict[str, Any]] = []
    if args.add:
        before = json.loads((args.out / "rare_events.json").read_text())
        rows, by_moves = before["configurations"], before["moves"]

    def add(rows: list[Any], name: str, label: str, space: Any, options: dict[str, Any]) -> None:
        key = (problem.family or name, label)
        if key not in programs:
            programs[key] = compiled(problem, space, options)
        # Seconds a replicate in thousands of dimensions: fewer of them there.
        replicates = min(args.replicates, 20) if problem.prior.dim > 1000 else args.replicates
        n = options.get("num_particles", 1000)
        row = measure(problem, programs[key], n, replicates)
        rows.append({"problem": name, "truth": problem.log_prob, "configuration": label} | row)
        print(f"{name:<30} {label:<26} ratio {row['mean_ratio']:.3f} ± "
              f"{row['mean_ratio_error']:.3f}  sd {row['sd_log_prob']:.3f}  stated "
              f"{row['median_stated_sd']:.3f}  coverage {row['coverage']:.1%}  "
              f"cost {row['cost']:.1f}  {row['seconds']:.0f} s", flush=True)  # fmt: skip

    # The long ones in thousands of dimensions come last.
    for name in sorted(problems.PROBLEMS, key=lambda name: "3072" in name):
        if args.only not in name or (args.skip is not None and args.skip in name):
            continue
        problem = problems.PROBLEMS[name]()
        rows[:] = [row for row in rows if row["problem"] != name]
        by_moves[:] = [row for row in by_moves if row["problem"] != name]
        for label, options in CONFIGURATIONS.items():
            # One particle at a time: thousands of levels, minutes where the event is rarest.
            slow = label == LAST_PARTICLE and (problem.log_prob < -25 or problem.prior.dim > 64)
            if (problem.prior.dim <= 1000 or label in IN_MANY_DIMENSIONS) and not slow:
                add(rows, name, label, problem.space, options)
        for label, proposals in MOVES.items() if name in FOR_MOVES else ():
            kernel = metropolis(proposals, adapt_weights=True)
            add(by_moves, name, label, SearchSpace(problem.space.sample, kernel), {})
        if problem.family is None:  # a process can map only so many programs
            programs.clear()
            jax.clear_caches()
        # After every problem: what has been measured is there even if this is stopped.
        args.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"configurations": rows, "moves": by_moves}, indent=1)
        (args.out / "rare_events.json").write_text(text + "\n")
        (args.out / "rare_events.md").write_text("\n".join(report(rows, by_moves, args)) + "\n")


def report(
    rows: list[dict[str, Any]], by_moves: list[dict[str, Any]], args: argparse.Namespace
) -> list[str]:
    """The results as Markdown."""
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    enough = [
        (r["sd_log_prob"] / r["ideal_sd"], r["problem"])
        for r in rows
        if r["configuration"] == ENOUGH_MOVES
    ]
    lines = [
        f"# Rare events of known probability on {device_name()}, {os.cpu_count()} cores",
        "",
        f"{datetime.date.today()}; {platform.processor() or platform.machine()}; "
        f"{args.replicates} replicates each (20 in 3072 dimensions), seeds split from key 0. *Cost*"
        " is sd(log p) times the square root of the evaluations: what a given accuracy costs, "
        "whatever the number of particles. *Ideal sd* is that of independent particles.",
        "",
        f"No estimate was 0, infinite or NaN where the event was reached: "
        f"{all(r['finite'] for r in rows)}. With enough moves ({ENOUGH_MOVES}) sd(log p) over the "
        "ideal one: " + ", ".join(f"{ratio:.2f} ({name})" for ratio, name in enough) + ".",
        "",
        "## By configuration",
        "",
        *_summary([r for r in rows if "3072" not in r["problem"]], "configuration"),
        "",
        "In 3072 dimensions:",
        "",
        *_summary([r for r in rows if "3072" in r["problem"]], "configuration"),
        "",
        "## By moves, in the default configuration",
        "",
        *_summary(by_moves, "moves"),
        "",
        "| problem | " + " | ".join(MOVES) + " |",
        "|---" * (len(MOVES) + 1) + "|",
    ]
    for name in FOR_MOVES:
        costs = {r["configuration"]: r["cost"] for r in by_moves if r["problem"] == name}
        if costs:
            lines.append(f"| {name} | " + " | ".join(f"{costs[m]:.1f}" for m in MOVES) + " |")
    lines += [
        "",
        "## All",
        "",
        "| problem | log10 p | configuration | reached | mean of estimate / truth | sd(log p) | "
        "stated sd, median | ideal sd | coverage of 95 % | evaluations | cost |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows + by_moves:
        lines.append(
            f"| {r['problem']} | {r['truth'] / math.log(10):.2f} | {r['configuration']} | "
            f"{r['reached']} | {r['mean_ratio']:.3f} ± {r['mean_ratio_error']:.3f} | "
            f"{r['sd_log_prob']:.3f} | {r['median_stated_sd']:.3f} | {r['ideal_sd']:.3f} | "
            f"{r['coverage']:.1%} | {r['evaluations']:,.0f} | {r['cost']:.1f} |"
        )
    command = " ".join(map(shlex.quote, ["python", "benchmarks/rare_events.py", *sys.argv[1:]]))
    return [*lines, "", f"Versions: {known}.", "", f"Made by `{command}`."]


def _summary(rows: list[dict[str, Any]], what: str) -> list[str]:
    """A table with a row per configuration, over all problems of ``rows``."""
    rows = [r for r in rows if r["reached"] > 1]
    if not rows:
        return ["(not measured)"]
    lines = [
        f"| {what} | cost, median over problems (range) | against the best, median (worst) "
        "| coverage, pooled (range) | mean ratio beyond 3 standard errors |",
        "|---|---|---|---|---|",
    ]
    best = {
        name: min(r["cost"] for r in rows if r["problem"] == name)
        for name in {r["problem"] for r in rows}
    }
    for label in dict.fromkeys(r["configuration"] for r in rows):
        mine = [r for r in rows if r["configuration"] == label]
        costs, covers = [r["cost"] for r in mine], [r["coverage"] for r in mine]
        against = [r["cost"] / best[r["problem"]] for r in mine]
        biased = sum(abs(r["mean_ratio"] - 1) > 3 * r["mean_ratio_error"] for r in mine)
        lines.append(
            f"| {label} | {np.median(costs):.0f} ({min(costs):.0f}–{max(costs):.0f}) | "
            f"{np.median(against):.2f} ({max(against):.2f}) | "
            f"{np.mean(covers):.1%} ({min(covers):.1%}–{max(covers):.1%}) | "
            f"{biased} of {len(mine)} |"
        )
    return lines


if __name__ == "__main__":
    main()
