"""The sampler against its peers from the package registry: same problems, same evaluations.

    python benchmarks/rare_events_peers.py

runs the sampler with its default arguments on twelve problems of known probability, gives every
peer the sampler's mean number of score evaluations, and writes
``benchmarks/results/rare_events_peers.md`` and ``.json``. Each peer gets an environment of its own,
made with venv and pip at the first run and kept in ``--environments``.
"""

import argparse
import datetime
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from problems import PROBLEMS

from restore_jax.environment import device_name, versions
from restore_jax.splitting import Status, count, importance_splitting

HERE = Path(__file__).parent
RESULTS = HERE / "results"
OURS = "restore-jax"
NAMES = (
    "linear, d = 2, 1e-3",
    "linear, d = 2, 1e-8",
    "linear, d = 2, 1e-30",
    "linear, d = 100, 1e-3",
    "linear, d = 100, 1e-8",
    "linear, d = 100, 1e-16",
    "outside a ball, d = 20, 1e-8",
    "four branches, d = 2",
    "two modes, d = 10",
    "plateaus, 64 coins",
    "corner of a cube, d = 6",
    "parabola, d = 5",
)
MAX_LEVELS = 400
WIN = 0.8
"""A ratio of RMSEs that is no accident: two equal ones of 100 replicates differ by 10 %."""

COMPLETE = 0.9
"""The share of its replicates that must have given an estimate for an RMSE to be compared."""

OFF = 0.1
"""How far a peer's mean evaluations may be from the sampler's without a word."""


class Peer(NamedTuple):
    """A package to compare with.

    Attributes:
      name: as written in the results.
      script: in ``benchmarks/peers``.
      installs: arguments of ``pip install``, one call each.
    """

    name: str
    script: str
    installs: tuple[tuple[str, ...], ...]


PEERS = (
    Peer(
        "OpenTURNS",
        "openturns_subset.py",
        (("openturns==1.27.post1", "numpy==2.4.6", "scipy==1.17.1"),),
    ),
    Peer(
        "UQpy",
        "uqpy_subset.py",
        (
            # UQpy pins torch 2.2, gigabytes with it, of which subset simulation uses nothing but
            # the import; so it is installed without its dependencies and they are named here.
            # setuptools 80 is the last with the pkg_resources that it imports.
            ("torch==2.13.0", "numpy==1.26.4", "scipy==1.17.1", "matplotlib==3.8.4",
             "scikit-learn==1.4.2", "fire==0.6.0", "beartype==0.18.5", "setuptools==80.9.0"),
            ("--no-deps", "UQpy==4.2.1", "torchinfo==1.8.0"),
        ),
    ),
    Peer(
        "BlackJAX",
        "blackjax_nested.py",
        (("blackjax==1.7.1", "jax==0.10.2", "jaxlib==0.10.2", "numpy==2.4.6", "scipy==1.17.1"),),
    ),
)  # fmt: skip


def environment(peer: Peer, folder: Path) -> Path:
    """The Python of a peer's environment, made now unless it is there with these versions."""
    home = folder / peer.name.lower()
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    mark, wanted = home / "installed.json", json.dumps(peer.installs)
    if not (mark.exists() and mark.read_text() == wanted):
        print(f"installing {peer.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        for arguments in peer.installs:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], check=True)
        mark.write_text(wanted)
    return python


def run_ours(name: str, replicates: int, seed: int) -> dict[str, Any]:
    """The sampler with its default arguments, all replicates in one vmapped call."""
    problem = PROBLEMS[name]()
    algorithm = importance_splitting(
        lambda x, args: problem.score(x), problem.space, threshold=0.0, max_levels=MAX_LEVELS
    )
    keys = jax.random.split(jax.random.key(seed), replicates)
    run = jax.jit(jax.vmap(algorithm.run, (0, None))).lower(keys, ()).compile()
    start = time.process_time()
    result = jax.block_until_ready(run(keys, ()))
    seconds = time.process_time() - start
    log_prob = np.asarray(result.log_prob, np.float64)
    good = (np.asarray(result.status) == Status.REACHED) & np.isfinite(log_prob)
    ends = [Status(int(end)).name.lower() for end in np.asarray(result.status)[~good]]
    return {
        "method": "importance_splitting",
        "size": int(result.scores.shape[-1]),
        "log_prob": [float(x) if ok else None for x, ok in zip(log_prob, good, strict=True)],
        "evaluations": np.asarray(count(result)).tolist(),
        "seconds": seconds,
        "score_seconds": None,
        "versions": versions(),
        "notes": {end: ends.count(end) for end in set(ends)},
    }


def run_peer(
    peer: Peer, python: Path, name: str, evaluations: float, replicates: int, args: Any
) -> dict[str, Any]:
    """One peer on one problem, in a process of its own that is ended if it hangs."""
    command = [
        *(python, HERE / "peers" / peer.script, "--problem", name),
        *("--evaluations", str(evaluations), "--replicates", str(replicates)),
        *("--seed", str(args.seed), "--seconds", str(args.seconds)),
    ]
    # The pilots have their own time, up to as much as the run.
    limit = 2 * args.seconds + 300
    environ = os.environ | {"PYTHONWARNINGS": "ignore", "JAX_PLATFORMS": "cpu"}
    failed: dict[str, Any] = {
        "method": peer.script,
        "size": None,
        "log_prob": [],
        "evaluations": [],
        "seconds": None,
        "score_seconds": None,
        "versions": {},
    }
    try:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            timeout=limit,
            env=environ,
        )
    except subprocess.TimeoutExpired:
        return failed | {"notes": {f"ended after {limit:.0f} s, pilots included": replicates}}
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return failed | {"notes": {f"the script failed: {reason}": replicates}}
    return json.loads(done.stdout.strip().splitlines()[-1])


def summarize(outcome: dict[str, Any], truth: float) -> dict[str, Any]:
    """The figures of one method on one problem.

    Replicates without an estimate, an estimate of 0 among them, are left out of the RMSE.
    """
    errors = np.array([x - truth for x in outcome["log_prob"] if x is not None])
    run = len(outcome["log_prob"])
    evaluations = outcome["evaluations"]
    micro = 1e6 / sum(evaluations) if evaluations else math.nan
    per = lambda seconds: None if seconds is None else seconds * micro  # noqa: E731
    inside = outcome["score_seconds"]
    return {
        "replicates": run,
        "failed": run - len(errors),
        "rmse": float(np.sqrt(np.mean(errors**2))) if len(errors) else None,
        "bias": float(errors.mean()) if len(errors) else None,
        "mean_evaluations": float(np.mean(evaluations)) if evaluations else None,
        "microseconds": per(outcome["seconds"]),
        "microseconds_outside_score": (
            None if inside is None else per(outcome["seconds"] - inside)
        ),
    }


def comparable(row: dict[str, Any], replicates: int) -> bool:
    """Whether a row's RMSE may stand against another's."""
    enough = row["replicates"] >= max(2, replicates / 10)
    return enough and row["replicates"] - row["failed"] >= COMPLETE * row["replicates"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--replicates", type=int, default=100)
    parser.add_argument("--only", default="", help="problems whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="per problem and peer; then fewer replicates"
    )
    parser.add_argument(
        "--environments",
        type=Path,
        default=HERE.parent / "runs" / "environments",
        help="where the peers' environments are, or will be",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--name", default="rare_events_peers", help="of the files (%(default)s)")
    args = parser.parse_args()
    names = [name for name in NAMES if args.only in name]
    if args.replicates < 2 or not names:
        parser.error("it takes two replicates and one problem at the least")
    # Of the options, those that say something of the results; folders do not.
    command = ["python", "benchmarks/rare_events_peers.py"]
    for option in ("replicates", "only", "seed", "seconds", "name"):
        if getattr(args, option) != parser.get_default(option):
            command += [f"--{option}", str(getattr(args, option))]
    args.out.mkdir(parents=True, exist_ok=True)
    pythons = {peer.name: environment(peer, args.environments) for peer in PEERS}
    rows: list[dict[str, Any]] = []
    for name in names:
        truth = PROBLEMS[name]().log_prob
        outcome = run_ours(name, args.replicates, args.seed)
        evaluations = float(np.mean(outcome["evaluations"]))
        outcomes = {OURS: outcome}
        for peer in PEERS:
            outcomes[peer.name] = run_peer(
                peer, pythons[peer.name], name, evaluations, args.replicates, args
            )
        for package, outcome in outcomes.items():
            row = {"problem": name, "truth": truth, "package": package}
            row |= summarize(outcome, truth) | outcome
            spent = row["mean_evaluations"]
            row["evaluations_ratio"] = None if spent is None else spent / evaluations
            rows.append(row)
            print(f"{name:<30} {package:<12} RMSE {figure(row['rmse'], '.3f')}  "
                  f"replicates {row['replicates']}, failed {row['failed']}  "
                  f"evaluations {figure(row['mean_evaluations'], ',.0f')}  "
                  f"{figure(row['microseconds'], '.3g')} µs each  {row['notes'] or ''}",
                  flush=True)  # fmt: skip
        # After every problem: the whole takes hours, and what is there is there.
        lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
        (args.out / f"{args.name}.json").write_text(f"[\n{lines}\n]\n")
        text = "\n".join(report(rows, args, command))
        (args.out / f"{args.name}.md").write_text(text + "\n")


def figure(value: float | None, form: str) -> str:
    """A number for a table, or a dash."""
    return "–" if value is None else format(value, form)


def ratios(rows: list[dict[str, Any]], replicates: int) -> dict[str, tuple[float, str]]:
    """By problem: our RMSE over the best peer's, and whose that is.

    Infinite where ours is not comparable, NaN where no peer's is.
    """
    found = {}
    for name in dict.fromkeys(row["problem"] for row in rows):
        mine, *others = (row for row in rows if row["problem"] == name)
        others = [row for row in others if comparable(row, replicates)]
        best = min(others, key=lambda row: row["rmse"], default=None)
        if best is None:
            found[name] = (math.nan, "none")
        elif not comparable(mine, replicates):
            found[name] = (math.inf, best["package"])
        else:
            found[name] = (mine["rmse"] / best["rmse"], best["package"])
    return found


def speed(rows: list[dict[str, Any]], package: str) -> str:
    """Our seconds per evaluation over a peer's, the median over problems with the range."""
    seconds = {(row["problem"], row["package"]): row["microseconds"] for row in rows}
    found = [
        mine / seconds[name, package]
        for (name, whose), mine in seconds.items()
        if whose == OURS and seconds[name, package]
    ]
    if not found:
        return f"no figure against {package}"
    middle, low, high = np.median(found), min(found), max(found)
    return f"{middle:.2g} against {package} ({low:.2g}–{high:.2g}, {len(found)} problems)"


def report(rows: list[dict[str, Any]], args: argparse.Namespace, command: list[str]) -> list[str]:
    """The results as Markdown."""
    found = ratios(rows, args.replicates)
    known = {name: ratio for name, (ratio, _) in found.items() if not math.isnan(ratio)}
    alone = [name for name in found if name not in known]
    wins = [name for name, ratio in known.items() if ratio <= WIN]
    losses = [name for name, ratio in known.items() if ratio > 1]
    lines = [
        f"# The sampler and its peers on {device_name()}, {os.cpu_count()} cores",
        "",
        f"{datetime.date.today()}; {platform.processor() or platform.machine()}; "
        f"{args.replicates} replicates each, seed {args.seed}. Every peer gets the sampler's mean "
        "number of score evaluations on the problem, by its particles per level or live points, "
        "which pilots set; the pilots are not counted, and the evaluations shown are rows really "
        "given to the score. The sampler runs with its default arguments.",
        "",
        "*RMSE* is the root mean square error of the natural log of the estimated probability. A "
        "replicate that failed, or whose estimate is 0, has no such error: it is left out of the "
        "RMSE, in favour of the method that failed, and counted beside it. Where more than "
        f"{1 - COMPLETE:.0%} failed, or the time limit left fewer than a tenth of the replicates, "
        "the RMSE is in brackets and not compared. Where a peer's evaluations are more than "
        f"{OFF:.0%} off the sampler's, since no size costs as much or its cost varies too much for "
        "pilots to tell, it says so. *Ratio* is the sampler's RMSE over the best "
        "peer's, below 1 if the sampler is better; an RMSE of r replicates has a standard error "
        f"of about 1/√(2r) of itself, {1 / math.sqrt(2 * args.replicates):.0%} here.",
        "",
        "## In short",
        "",
        f"- The ratio is at most {WIN} on {len(wins)} of {len(found)} problems.",
    ]
    if known:
        worst = max(known, key=known.__getitem__)
        lines.append(f"- The largest ratio is {known[worst]:.2f} ({worst}, {found[worst][1]}).")
    lost = "; ".join(f"{name} ({known[name]:.2f}, {found[name][1]})" for name in losses)
    lines.append(f"- Problems on which a peer is better: {lost or 'none'}.")
    if alone:
        lines.append(f"- No peer to compare with, and so no ratio: {'; '.join(alone)}.")
    lines += [
        "- Processor time per evaluation, the sampler's over the peer's, median over problems "
        "(range): "
        + "; ".join(speed(rows, peer.name) for peer in PEERS)
        + ". All of a run counts, what is inside the score too, compilation apart. The sampler and "
        "BlackJAX run their replicates as one compiled, vmapped call, the others one after the "
        "other.",
        "",
        "## By problem",
        "",
        "| problem | log10 p | " + " | ".join([OURS, *(peer.name for peer in PEERS)])
        + " | ratio to the best peer |",
        "|---|---|" + "---|" * (2 + len(PEERS)),
    ]  # fmt: skip
    for name, (ratio, best) in found.items():
        mine = [row for row in rows if row["problem"] == name]
        cells = " | ".join(rmse(row, args.replicates) for row in mine)
        shown = "–" if math.isnan(ratio) else f"{ratio:.2f} ({best})"
        lines.append(f"| {name} | {mine[0]['truth'] / math.log(10):.2f} | {cells} | {shown} |")
    lines += [
        "",
        "## All",
        "",
        "| problem | package | method | particles or live points | replicates | failed | RMSE "
        "| mean error | evaluations | µs per evaluation | of which outside the score | notes |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        notes = "; ".join(f"{text}: {times}" for text, times in row["notes"].items())
        lines.append(
            f"| {row['problem']} | {row['package']} | {row['method']} | "
            f"{figure(row['size'], 'd')} | {row['replicates']} | {row['failed']} | "
            f"{rmse(row, args.replicates)} | {figure(row['bias'], '+.3f')} | "
            f"{figure(row['mean_evaluations'], ',.0f')} | {figure(row['microseconds'], '.3g')} | "
            f"{figure(row['microseconds_outside_score'], '.3g')} | {notes.replace('|', '/')} |"
        )
    lines += ["", "Versions:", ""]
    for package in dict.fromkeys(row["package"] for row in rows):
        named = next((r["versions"] for r in rows if r["package"] == package and r["versions"]), {})
        listed = ", ".join(f"{name} {version}" for name, version in named.items())
        lines.append(f"- {package}: {listed or 'nothing ran'}.")
    return [*lines, "", f"Made by `{' '.join(map(shlex.quote, command))}`."]


def rmse(row: dict[str, Any], replicates: int) -> str:
    """An RMSE for a table, with what speaks against it: see the report's second paragraph."""
    shown = figure(row["rmse"], ".3f")
    if row["rmse"] is not None and not comparable(row, replicates):
        shown = f"({shown})"
    ratio = row["evaluations_ratio"]
    if row["rmse"] is not None and abs(ratio - 1) > OFF:
        shown += f" at {ratio:.2g} × the evaluations"
    return shown + (f", {row['failed']} failed" if row["failed"] else "")


if __name__ == "__main__":
    main()
