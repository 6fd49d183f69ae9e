"""How long a sampler takes to compile, as usual and with `quick_compilation`, and how it then runs.

    python benchmarks/compiling.py

Seconds are those of the processor, which other work on the machine changes little. Of each problem
both programs are compiled in turn, in a process of their own each time, and run on the same keys.
Writes ``benchmarks/results/compiling.md`` and ``.json``.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from restore_jax import importance_splitting, standard_normal
from restore_jax.environment import device_name, versions
from restore_jax.splitting import quick_compilation

RESULTS = Path(__file__).parent / "results"
REPEATS, RUNS = 2, 9


def main() -> None:
    """Measures everything, or one program, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.one[0], args.one[1] == "quick")))
        return
    rows: dict[str, Any] = {}
    for name in CASES:
        for _ in range(REPEATS):
            for how in ("usual", "quick"):
                one = [sys.executable, __file__, "--one", name, how]
                said = subprocess.run(one, check=True, capture_output=True, text=True).stdout
                rows.setdefault(name, {}).setdefault(how, []).append(json.loads(said))
                print(name, how, said.strip(), flush=True)
    found = {
        "date": datetime.date.today().isoformat(),
        "device": device_name(),
        "versions": versions(),
        "options": quick_compilation(),
        "rows": rows,
    }
    (RESULTS / "compiling.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "compiling.md").write_text(table(found))


def _short() -> Any:
    return importance_splitting(lambda x, args: x.sum(-1) / 2, standard_normal(4), threshold=5.0)


def _readme() -> Any:
    return importance_splitting(lambda x, args: x.sum(-1) / 10, standard_normal(100), threshold=5.0)


CASES: dict[str, Callable[[], Any]] = {
    "a score of one line, d = 4": _short,
    "the example of the README, d = 100": _readme,
}


def measured(name: str, quick: bool) -> dict[str, float]:
    """Processor seconds to compile, for one run and for eight at once, and log10 p of a run."""
    run, keys = CASES[name]().run, jax.random.split(jax.random.key(0), 8)
    options: dict[str, Any] = dict(quick_compilation()) if quick else {}
    jax.block_until_ready(jax.jit(jnp.negative)(keys.size))
    found = {}
    for words, function, key in (("one", run, keys[0]), ("eight", jax.vmap(run, (0, None)), keys)):
        began = time.process_time()
        lowered = jax.jit(function, compiler_options=options).lower(key, ())
        traced = time.process_time()
        compiled = lowered.compile()
        found[f"trace_{words}"] = traced - began
        found[f"compile_{words}"] = time.process_time() - traced
        seconds = []
        for _ in range(RUNS):
            began = time.process_time()
            result = jax.block_until_ready(compiled(key, ()))
            seconds.append(time.process_time() - began)
        found[f"run_{words}"] = statistics.median(seconds)
        found[f"log_prob_{words}"] = float(jnp.ravel(result.log_prob)[0])
    return found


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Compiling the sampler",
        "",
        f"Made by `python benchmarks/compiling.py` on {found['date']}; {found['device']}; "
        + ", ".join(f"{k} {v}" for k, v in found["versions"].items())
        + f". Processor seconds, means of {REPEATS} processes; of runs, medians of {RUNS} in "
        "each. *Quick*: `compiler_options=quick_compilation()`. The first run of a process has "
        "to be traced, too (the same for both).",
        "",
        "| problem | program | tracing, s | compiling, s: usual | quick | quick / usual "
        "| a run, ms: usual | quick | same bits |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["rows"].items():
        for words, program in (("one", "one run"), ("eight", "eight, by `vmap`")):
            usual, quick = row["usual"], row["quick"]
            middle = {
                (how, what): statistics.mean(one[f"{what}_{words}"] for one in row[how])
                for how in ("usual", "quick")
                for what in ("trace", "compile", "run")
            }
            same = {one[f"log_prob_{words}"] for one in (*usual, *quick)}
            least, most = (
                f(b[f"compile_{words}"] / a[f"compile_{words}"]
                  for a, b in zip(usual, quick, strict=True)) for f in (min, max)
            )  # fmt: skip
            lines.append(
                f"| {name} | {program} | {middle['usual', 'trace']:.1f} "
                f"| {middle['usual', 'compile']:.1f} | {middle['quick', 'compile']:.1f} "
                f"| {middle['quick', 'compile'] / middle['usual', 'compile']:.2f} "
                f"({least:.2f} to {most:.2f}) | {middle['usual', 'run'] * 1e3:.0f} "
                f"| {middle['quick', 'run'] * 1e3:.0f} | {'yes' if len(same) == 1 else 'no'} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
