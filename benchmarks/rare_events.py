"""The sampler on problems whose probability is known, in several configurations.

    python benchmarks/rare_events.py

runs every problem of `PROBLEMS` in every configuration of `CONFIGURATIONS`, 200 replicates by
`jax.vmap`, and writes ``benchmarks/results/rare_events.md`` and ``.json``: bias, error, what the
error costs in evaluations, and how often the 95 % interval holds the truth.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, stats

from restore_jax.environment import device_name, versions
from restore_jax.splitting import (
    SearchSpace,
    Status,
    count,
    ideal_log_prob_std,
    importance_splitting,
    standard_normal,
    uniform_box,
)

RESULTS = Path(__file__).parent / "results"


class Problem(NamedTuple):
    """A score whose event is ``score >= 0``, the prior, and the natural log of its probability."""

    space: SearchSpace
    score: Callable[[Any], Any]
    log_prob: float


def linear(dim: int, log10: float) -> Problem:
    """A half-space of a standard normal."""
    level = -float(stats.norm.ppf(10.0**log10))
    return Problem(
        standard_normal(dim),
        lambda x: jnp.sum(x, -1) / math.sqrt(dim) - level,
        float(stats.norm.logsf(level)),
    )


def norm(dim: int, log10: float) -> Problem:
    """Outside a ball."""
    square = float(stats.chi2(dim).isf(10.0**log10))
    return Problem(
        standard_normal(dim),
        lambda x: jnp.sum(jnp.square(x), -1) - square,
        float(stats.chi2(dim).logsf(square)),
    )


def four_branches(shift: float) -> Problem:
    """A series system: outside a curved band, or beyond either of two lines across it.

    The usual four-branch function (Waarts 2000) in rotated coordinates, ``shift`` further out.
    """
    band = lambda v: 3.0 + shift + 0.2 * v * v  # noqa: E731
    line = 3.5 + shift

    def score(x: Any) -> Any:
        u, v = x[:, 0], x[:, 1]
        return jnp.maximum(jnp.abs(u) - band(v), jnp.abs(v) - line)

    inside, _ = integrate.quad(
        lambda v: 2 * stats.norm.sf(band(v)) * stats.norm.pdf(v), -line, line, epsabs=0
    )
    return Problem(standard_normal(2), score, math.log(inside + 2 * stats.norm.sf(line)))


def two_modes(dim: int, near: float, far: float) -> Problem:
    """Two opposite half-spaces of different probability."""
    truth = float(np.logaddexp(stats.norm.logsf(near), stats.norm.logsf(far)))
    return Problem(
        standard_normal(dim),
        lambda x: jnp.maximum(x[:, 0] - near, -x[:, 0] - far),
        truth,
    )


def plateaus(coins: int, least: int) -> Problem:
    """At least so many heads: an integer score."""
    return Problem(
        standard_normal(coins),
        lambda x: (jnp.sum(x > 0, -1) - least).astype(jnp.float32),
        float(stats.binom(coins, 0.5).logsf(least - 1)),
    )


def corner(dim: int, side: float) -> Problem:
    """A corner of the unit cube."""
    return Problem(
        uniform_box(jnp.zeros(dim), jnp.ones(dim)),
        lambda u: jnp.min(u, -1) - (1.0 - side),
        dim * math.log(side),
    )


def parabola(dim: int, level: float, bend: float) -> Problem:
    """Above a paraboloid."""
    truth, _ = integrate.quad(
        lambda s: stats.norm.sf(level + bend * s) * stats.chi2(dim - 1).pdf(s), 0, 80, epsabs=0
    )
    return Problem(
        standard_normal(dim),
        lambda x: x[:, 0] - level - bend * jnp.sum(jnp.square(x[:, 1:]), -1),
        math.log(truth),
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "linear, d = 2, 1e-3": lambda: linear(2, -3),
    "linear, d = 2, 1e-8": lambda: linear(2, -8),
    "linear, d = 2, 1e-16": lambda: linear(2, -16),
    "linear, d = 2, 1e-30": lambda: linear(2, -30),
    "linear, d = 100, 1e-8": lambda: linear(100, -8),
    "outside a ball, d = 20, 1e-8": lambda: norm(20, -8),
    "four branches, d = 2": lambda: four_branches(1.5),
    "two modes, d = 10": lambda: two_modes(10, 5.0, 5.3),
    "plateaus, 64 coins": lambda: plateaus(64, 56),
    "corner of a cube, d = 6": lambda: corner(6, 0.04),
    "parabola, d = 5": lambda: parabola(5, 3.5, 0.2),
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "all move 10x, 0.5": {"num_particles": 128, "survival": 0.5, "num_moves": 10},
    "all move 5x, 0.25": {"num_particles": 256, "survival": 0.25, "num_moves": 5},
    "waste-free 4, 0.25": {"num_particles": 1000, "survival": 0.25, "num_moves": 3},
    "waste-free 10, 0.25": {"num_particles": 1000, "survival": 0.25, "num_moves": 9},
    "waste-free 10, 0.1": {"num_particles": 1000, "survival": 0.1, "num_moves": 9},
    "waste-free 20, 0.1": {"num_particles": 1000, "survival": 0.1, "num_moves": 19},
}


def measure(problem: Problem, options: dict[str, Any], replicates: int) -> dict[str, Any]:
    """One problem in one configuration."""
    algorithm = importance_splitting(
        lambda x, args: problem.score(x), problem.space, max_levels=200, **options
    )
    run = jax.jit(jax.vmap(algorithm.run, (0, None)))
    keys = jax.random.split(jax.random.key(0), replicates)
    start = time.perf_counter()
    result = jax.block_until_ready(run(keys, ()))
    seconds = time.perf_counter() - start
    reached = np.asarray(result.status) == Status.REACHED
    log_prob = np.where(reached, np.asarray(result.log_prob, np.float64), -np.inf)
    ratio = np.exp(log_prob - problem.log_prob)
    low, high = (np.asarray(end) for end in result.interval(0.95))
    evaluations = float(np.mean(count(result)))
    deviation = float(log_prob[reached].std(ddof=1))
    ideal = ideal_log_prob_std(result.survival, options["num_particles"])
    return {
        "reached": int(reached.sum()),
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
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = []
    for name, build in PROBLEMS.items():
        if args.only not in name:
            continue
        problem = build()
        for label, options in CONFIGURATIONS.items():
            waste_free = label.startswith("waste-free")
            row = measure(problem, options | {"waste_free": waste_free}, args.replicates)
            rows.append({"problem": name, "truth": problem.log_prob, "configuration": label} | row)
            print(f"{name:<30} {label:<20} ratio {row['mean_ratio']:.3f} ± "
                  f"{row['mean_ratio_error']:.3f}  sd {row['sd_log_prob']:.3f}  stated "
                  f"{row['median_stated_sd']:.3f}  coverage {row['coverage']:.1%}  "
                  f"cost {row['cost']:.1f}", flush=True)  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rare_events.json").write_text(json.dumps(rows, indent=1) + "\n")
    (args.out / "rare_events.md").write_text("\n".join(report(rows, args)) + "\n")


def report(rows: list[dict[str, Any]], args: argparse.Namespace) -> list[str]:
    """The results as Markdown."""
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        f"# Rare events of known probability on {device_name()}, {os.cpu_count()} cores",
        "",
        f"{datetime.date.today()}; {platform.processor() or platform.machine()}; "
        f"{args.replicates} replicates each, seeds split from key 0. *Cost* is sd(log p) times the "
        "square root of the evaluations: what a given accuracy costs, whatever the number of "
        "particles. *Ideal sd* is that of independent particles.",
        "",
        "## By configuration, over all problems",
        "",
        "| configuration | cost, median over problems (range) | against the best "
        "| coverage, pooled (range) | mean ratio beyond 3 standard errors |",
        "|---|---|---|---|---|",
    ]
    by_label = {c: [r for r in rows if r["configuration"] == c] for c in CONFIGURATIONS}
    best = {
        name: min(r["cost"] for r in rows if r["problem"] == name)
        for name in {r["problem"] for r in rows}
    }
    for label, mine in by_label.items():
        costs, covers = [r["cost"] for r in mine], [r["coverage"] for r in mine]
        against = np.median([r["cost"] / best[r["problem"]] for r in mine])
        biased = sum(abs(r["mean_ratio"] - 1) > 3 * r["mean_ratio_error"] for r in mine)
        lines.append(
            f"| {label} | {np.median(costs):.0f} ({min(costs):.0f}–{max(costs):.0f}) | "
            f"{against:.2f} | {np.mean(covers):.1%} ({min(covers):.1%}–{max(covers):.1%}) | "
            f"{biased} of {len(mine)} |"
        )
    lines += [
        "",
        "## All",
        "",
        "| problem | log10 p | configuration | reached | mean of estimate / truth | sd(log p) | "
        "stated sd, median | ideal sd | coverage of 95 % | evaluations | cost |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['problem']} | {r['truth'] / math.log(10):.2f} | {r['configuration']} | "
            f"{r['reached']} | {r['mean_ratio']:.3f} ± {r['mean_ratio_error']:.3f} | "
            f"{r['sd_log_prob']:.3f} | {r['median_stated_sd']:.3f} | {r['ideal_sd']:.3f} | "
            f"{r['coverage']:.1%} | {r['evaluations']:,.0f} | {r['cost']:.1f} |"
        )
    command = " ".join(map(shlex.quote, ["python", "benchmarks/rare_events.py", *sys.argv[1:]]))
    return [*lines, "", f"Versions: {known}.", "", f"Made by `{command}`."]


if __name__ == "__main__":
    main()
