"""What every peer's script does: its command line, counting, sizing, and the answer.

    python SCRIPT --problem NAME --evaluations E --replicates R --seed S [--seconds T]

prints one JSON object with

    log_prob: one natural-log estimate per replicate, null where there is none
    evaluations: the rows that each replicate gave to the score
    seconds, score_seconds: over all replicates, and the part spent inside the score
    size: particles per level, or live points, found by pilots whose cost is not counted
    method, versions: what was run
    notes: why replicates failed or are missing, with how many
"""

import argparse
import collections
import importlib.metadata
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from problems import PROBLEMS, Prior, Problem

TOLERANCE = 0.03
"""A pilot whose mean evaluations are that close to those asked for ends the sizing."""

PILOTS = 8
"""Sizes tried at most."""

PILOT_REPLICATES = 16
"""Replicates per pilot: the number of levels varies, and with it what a replicate costs."""


class NoEstimate(Exception):
    """A replicate ended without an estimate of the event's probability; says why."""


class OutOfTime(Exception):
    """The score was called after the deadline."""


class Score:
    """A problem's score that counts its rows and its seconds, and stops at a deadline."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.rows = 0
        self.seconds = 0.0
        self.deadline = math.inf

    def __call__(self, x: Any) -> Any:
        """Scores [n] of the rows x [n, dim]."""
        if time.perf_counter() > self.deadline:
            raise OutOfTime
        start = time.process_time()
        scores = self.problem.score(x)
        self.rows += len(x)
        self.seconds += time.process_time() - start
        return scores


Estimate = Callable[[Score, Prior, int, int], float]
"""``(score, prior, size, seed) -> estimated probability``; raises `NoEstimate` if it has none."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One peer on one problem of known probability.")
    parser.add_argument("--problem", required=True, choices=PROBLEMS, metavar="NAME")
    parser.add_argument("--evaluations", type=float, required=True, help="per replicate, the mean")
    parser.add_argument("--replicates", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300.0, help="no replicate starts later")
    return parser.parse_args()


def seeds(seed: int, stream: int) -> Callable[[int], int]:
    """31-bit seeds for replicates 0, 1, ...; no two streams or base seeds share them."""

    def of(replicate: int) -> int:
        words = np.random.SeedSequence([seed, stream, replicate]).generate_state(1)
        return int(words[0]) >> 1

    return of


def settle(
    mean_evaluations: Callable[[int], float], evaluations: float, first: int, multiple: int
) -> int:
    """The size, a multiple of ``multiple``, that costs as many evaluations as asked for.

    Cost is nearly proportional to size, except where a peer's runs end early or go on at some
    sizes; so the guesses are proportional until they leave the bracket, then halve it.
    """
    size, below, above = multiple * max(1, round(first / multiple)), 0, math.inf
    tried: dict[int, float] = {}
    while len(tried) < PILOTS and size not in tried:
        ratio = mean_evaluations(size) / evaluations
        tried[size] = abs(math.log(ratio))
        if abs(ratio - 1) < TOLERANCE:
            break
        below, above = (size, above) if ratio < 1 else (below, size)
        guess = size / ratio
        if not below < guess < above:
            guess = math.sqrt(max(below, 1) * above) if above < math.inf else 2 * size
        size = multiple * max(1, round(guess / multiple))
    return min(tried, key=tried.__getitem__)


def one_by_one(method: str, packages: Iterable[str], estimate: Estimate, multiple: int) -> None:
    """A peer that makes one estimate after the other: sizes it, runs it and prints the answer."""
    args = arguments()
    problem = PROBLEMS[args.problem]()
    score = Score(problem)
    notes: collections.Counter[str] = collections.Counter()

    def replicates(size: int, most: int, stream: int, seconds: float) -> tuple[list, list]:
        """Estimates and evaluations of up to ``most`` replicates begun within ``seconds``."""
        estimates: list[float | None] = []
        evaluations: list[int] = []
        seed = seeds(args.seed, stream)
        notes.clear()
        start = time.perf_counter()
        score.seconds = 0.0
        score.deadline = start + args.seconds
        while len(estimates) < most:
            # Two at the least, or there would be no mean to size by.
            if len(estimates) >= 2 and time.perf_counter() > start + seconds:
                break
            score.rows = 0
            try:
                probability = estimate(score, problem.prior, size, seed(len(estimates)))
                if not probability > 0:
                    raise NoEstimate("estimate of 0")
            except Exception as error:  # whatever a peer raises is its answer
                if time.perf_counter() > score.deadline:
                    break
                estimates.append(None)
                name = "" if isinstance(error, NoEstimate) else f"{type(error).__name__}: "
                notes[f"{name}{error}".splitlines()[0]] += 1
            else:
                estimates.append(math.log(probability))
            evaluations.append(score.rows)
        return estimates, evaluations

    def pilot(size: int) -> float:
        # Other seeds than the run's, or the run would be fitted to its own number of levels.
        nonlocal rounds
        rounds += 1
        _, evaluations = replicates(size, PILOT_REPLICATES, rounds, args.seconds / 10)
        if not evaluations:
            raise NoEstimate("one replicate takes longer than the time limit")
        return float(np.mean(evaluations))

    rounds = 0
    try:
        size = settle(pilot, args.evaluations, round(args.evaluations / 10), multiple)
    except NoEstimate as error:
        answer(args, method, packages, size=None, notes={str(error): 1})
        return
    start = time.process_time()
    estimates, evaluations = replicates(size, args.replicates, 0, args.seconds)
    seconds = time.process_time() - start
    if len(estimates) < args.replicates:
        notes["not run within the time limit"] = args.replicates - len(estimates)
    answer(
        args,
        method,
        packages,
        size=size,
        notes=dict(notes),
        log_prob=estimates,
        evaluations=evaluations,
        seconds=seconds,
        score_seconds=score.seconds,
    )


def answer(
    args: argparse.Namespace,
    method: str,
    packages: Iterable[str],
    *,
    size: int | None,
    notes: dict[str, int],
    log_prob: list[float | None] | None = None,
    evaluations: list[int] | None = None,
    seconds: float | None = None,
    score_seconds: float | None = None,
) -> None:
    """Prints the JSON object, on a line of its own and last."""
    versions = {"python": platform.python_version()}
    versions |= {package: importlib.metadata.version(package) for package in packages}
    result = {
        "problem": args.problem,
        "asked": {"evaluations": args.evaluations, "replicates": args.replicates},
        "seed": args.seed,
        "method": method,
        "size": size,
        "log_prob": log_prob or [],
        "evaluations": evaluations or [],
        "seconds": seconds,
        "score_seconds": score_seconds,
        "versions": versions,
        "notes": notes,
    }
    print(json.dumps(result, allow_nan=False))
