"""What one estimate promises: a stated precision, the whole tail, and merged runs.

    python benchmarks/precision.py

measures, on problems of known probability (`problems.PROBLEMS`), whether `until_precise` gives the
standard error that it was asked for, without bias, with intervals that cover; whether a run that
keeps its levels knows the tail at ten scores on its way; and what 64 merged runs are worth, and
whether runs that missed a part of the event are noticed. Writes ``results/precision.md`` and
``.json`` after every row.
"""

import argparse
import datetime
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import problems
from problems import Problem
from scipy import integrate, stats

from restore_jax.environment import device_name, versions
from restore_jax.splitting import (
    count,
    importance_splitting,
    log_prob_of,
    merge,
    metropolis,
    pcn,
    until_precise,
)

RESULTS = Path(__file__).parent / "results"
SETTINGS = ((0.2, 400), (0.1, 1000), (0.05, 1000), (0.1, 400))
"""Standard errors, each with the particles of a run: four runs are less precise than that."""
NAMES = (
    "linear, d = 2, 1e-3", "linear, d = 2, 1e-8", "four branches, d = 2", "parabola, d = 5",
    "corner of a cube, d = 6", "two modes, d = 10", "outside a ball, d = 20, 1e-8",
    "linear, d = 100, 1e-8", "plateaus, 64 coins",
)  # fmt: skip
TAILS = ("linear, d = 2, 1e-8", "four branches, d = 2")
MERGED = ("linear, d = 2, 1e-8", "four branches, d = 2", "two modes, d = 10")
RUNS = 64


def sampler(problem: Problem, **options: Any) -> Any:
    """The sampler for a problem, its level given as args."""
    return importance_splitting(
        lambda x, level: problem.formula(x, jnp) - level, problem.space, **options
    )


def keys(number: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), number)


def precise(name: str, target: float, size: int, replicates: int) -> dict[str, Any]:
    """One problem and target."""
    problem = problems.PROBLEMS[name]()
    algorithm = sampler(problem, num_particles=size)
    run = jax.jit(jax.vmap(until_precise(algorithm, target), (0, None)))
    start = time.perf_counter()
    found = jax.block_until_ready(run(keys(replicates), problem.level))
    log_prob = np.asarray(found.log_prob, np.float64)
    ratio = np.exp(log_prob - problem.log_prob)
    low, high = (np.asarray(end) for end in found.interval(0.95))
    return {
        "problem": name,
        "target": target,
        "particles": size,
        "replicates": replicates,
        "sd": float(log_prob.std(ddof=1)),
        "stated": float(np.median(found.log_prob_std)),
        "bias": float(ratio.mean() - 1.0),
        "bias_error": float(ratio.std(ddof=1) / math.sqrt(replicates)),
        "covered": int(np.sum((low <= problem.log_prob) & (problem.log_prob <= high))),
        "runs": [int(x) for x in np.quantile(found.num_runs, [0, 0.5, 1])],
        "evaluations": float(np.median(count(found))),
        "disagree": int(np.sum(np.asarray(found.homogeneity) < 0.01)),
        "seconds": time.perf_counter() - start,
    }


def tail_truths(name: str, at: np.ndarray) -> np.ndarray:
    """The exact log-probabilities of reaching some heights."""
    if name.startswith("linear"):
        return stats.norm.logsf(at)
    assert name.startswith("four branches")
    found = []
    for height in at:  # the branches, so much farther out: see `problems.four_branches`
        band = lambda v, height=height: 4.5 + height + 0.2 * v * v  # noqa: E731
        line = 5.0 + height
        inside, _ = integrate.quad(
            lambda v, band=band: 2 * stats.norm.sf(band(v)) * stats.norm.pdf(v), -line, line,
            epsabs=0,
        )  # fmt: skip
        found.append(math.log(inside + 2 * stats.norm.sf(line)))
    return np.array(found)


def tail(name: str, replicates: int) -> dict[str, Any]:
    """Ten scores on the way to one problem's event, from every run."""
    problem = problems.PROBLEMS[name]()
    run = jax.jit(jax.vmap(sampler(problem, keep=True).run, (0, None)))
    results = run(keys(replicates), problem.level)
    heights = np.linspace(0.5, problem.level, 10) if problem.level else np.linspace(-3.0, 0.0, 10)
    truths = tail_truths(name, heights)
    found = jax.jit(jax.vmap(log_prob_of, (0, None)))(
        results, jnp.asarray(heights - problem.level, jnp.float32)
    )
    low, high = (np.asarray(end) for end in found.interval(0.95))
    ratios = np.exp(np.asarray(found.log_prob, np.float64) - truths)
    return {
        "problem": name,
        "replicates": replicates,
        "heights": heights.tolist(),
        "log10": (truths / math.log(10)).tolist(),
        "covered": np.sum((low <= truths) & (truths <= high), axis=0).tolist(),
        "bias": (ratios.mean(axis=0) - 1.0).tolist(),
        "bias_error": (ratios.std(axis=0, ddof=1) / math.sqrt(replicates)).tolist(),
    }


def merged(name: str, replicates: int) -> dict[str, Any]:
    """What 64 runs of one problem are worth together."""
    problem = problems.PROBLEMS[name]()
    run = jax.jit(jax.vmap(sampler(problem).run, (0, None)))
    singles, logs, covered, disagree = [], [], 0, 0
    for k in range(replicates):
        results = run(keys(RUNS, k), problem.level)
        singles.append(np.asarray(results.log_prob, np.float64))
        one = merge(results)
        low, high = one.interval(0.95)
        logs.append(one.log_prob)
        covered += low <= problem.log_prob <= high
        disagree += not one.agree
    ratio = np.exp(np.array(logs) - problem.log_prob)
    return {
        "problem": name,
        "replicates": replicates,
        "sd_single": float(np.std(np.exp(np.concatenate(singles) - problem.log_prob), ddof=1)),
        "sd_merged": float(np.std(ratio, ddof=1)),
        "covered": covered,
        "disagree": disagree,
    }


def stuck(replicates: int) -> dict[str, Any]:
    """Two equal modes, and runs so short and shy that each ends in one of them."""
    problem = problems.two_modes(10, 5.0, 5.0)
    space = problem.space._replace(kernel=metropolis([pcn], init_strength=0.3, bounds=(0.3, 0.3)))
    lonely = importance_splitting(
        lambda x, args: problem.formula(x, jnp), space, num_particles=40, num_moves=3
    )
    run = jax.jit(jax.vmap(lonely.run, (0, None)))
    noticed = [not merge(run(keys(RUNS, k), ())).agree for k in range(replicates)]
    return {"replicates": replicates, "noticed": int(np.sum(noticed))}


def report(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    rows = found["precise"]
    covered, made = sum(r["covered"] for r in rows), sum(r["replicates"] for r in rows)
    sizes = sorted({r["particles"] for r in rows})
    far = [r for r in rows if abs(r["bias"]) > 3 * r["bias_error"]]
    off = [r for r in rows if abs(r["sd"] / r["target"] - 1.0) > 0.2]
    lines = [
        "# A stated precision, the whole tail, and merged runs",
        "",
        f"Made by `python benchmarks/precision.py` on {datetime.date.today()}; {device_name()}, "
        f"{os.cpu_count()} cores. Versions: {known}. Seeds: split from keys 0, 1, ...",
        "",
        "## `until_precise`",
        "",
        f"Default moves. In all {len(rows)} rows: intervals of 95 % "
        f"held the truth in {covered} of {made} ({covered / max(made, 1):.1%}); the mean was off "
        f"by more than three standard errors in {len(far)}; the standard deviation of log p "
        f"missed the target by more than a fifth in {len(off)}"
        + (": " + "; ".join(f"{r['problem']} at {r['target']}" for r in off) if off else "")
        + ".",
        "",
        *(
            f"Runs of {size:,} particles: covered {sum(r['covered'] for r in part)} of "
            f"{sum(r['replicates'] for r in part)}, off by more than three standard errors "
            f"{sum(abs(r['bias']) > 3 * r['bias_error'] for r in part)} of {len(part)}."
            for size in sizes
            for part in [[r for r in rows if r["particles"] == size]]
        ),
        "",
        "| problem | particles | target | sd(log p), seen | stated, median | mean / truth - 1 | "
        "covered | runs: least, median, most | evaluations, median |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {r['problem']} | {r['particles']:,} | {r['target']} | {r['sd']:.3f} | "
            f"{r['stated']:.3f} | {r['bias']:+.3f} ± {r['bias_error']:.3f} | "
            f"{r['covered']} of {r['replicates']} | {', '.join(map(str, r['runs']))} | "
            f"{r['evaluations']:,.0f} |"
            for r in rows
        ),
        "",
        "## The tail, from runs with `keep=True`",
        "",
        "1,000 particles. Each score's interval of 95 %, by itself.",
        "",
        "| problem | log10 p | covered | mean / truth - 1 |",
        "|---|---|---|---|",
        *(
            f"| {r['problem']} | {log10:.2f} | {c} of {r['replicates']} | {b:+.3f} ± {e:.3f} |"
            for r in found["tail"]
            for log10, c, b, e in zip(
                r["log10"], r["covered"], r["bias"], r["bias_error"], strict=True
            )
        ),
    ]
    if found["merged"]:
        lines += [
            "",
            f"## {RUNS} runs merged",
            "",
            "1,000 particles each. Deviations are of the estimate over the truth.",
            "",
            "| problem | one run | merged | ratio (independent: 8) | covered | said to disagree |",
            "|---|---|---|---|---|---|",
            *(
                f"| {r['problem']} | {r['sd_single']:.3f} | {r['sd_merged']:.4f} | "
                f"{r['sd_single'] / r['sd_merged']:.1f} | {r['covered']} of {r['replicates']} | "
                f"{r['disagree']} |"
                for r in found["merged"]
            ),
        ]
    if found["stuck"]:
        lines += [
            "",
            "Runs of 40 particles that take small steps towards two equal modes, most of which end "
            f"in one of them: {found['stuck']['noticed']} of {found['stuck']['replicates']} "
            "mergers said that the runs disagree.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--add", action="store_true", help="keep the rows that are there")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--problems", nargs="+", choices=NAMES, default=NAMES, help="of these")
    parser.add_argument("--targets", nargs="+", type=float, default=(0.2, 0.1, 0.05))
    args = parser.parse_args()
    path = args.out / "precision.json"
    found: dict[str, Any] = {"precise": [], "tail": [], "merged": [], "stuck": None}
    if args.add and path.exists():
        found = json.loads(path.read_text())

    def kept() -> None:
        args.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        (args.out / "precision.md").write_text(report(found))
        jax.clear_caches()

    def missing(part: str, **which: Any) -> bool:
        return not any(all(row[k] == v for k, v in which.items()) for row in found[part])

    for name in TAILS:
        if missing("tail", problem=name):
            found["tail"].append(tail(name, args.replicates))
            kept()
    for target, size in SETTINGS:
        for name in args.problems if target in args.targets else ():
            if missing("precise", problem=name, target=target, particles=size):
                row = precise(name, target, size, args.replicates)
                found["precise"].append(row)
                print(row, flush=True)
                kept()

    for name in MERGED:
        if name in args.problems and missing("merged", problem=name):
            found["merged"].append(merged(name, args.replicates // 2))
            kept()
    if not found["stuck"]:
        found["stuck"] = stuck(args.replicates // 2)
        kept()


if __name__ == "__main__":
    main()
