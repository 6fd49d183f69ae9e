"""Queries until a trigger makes the event: restore_jax beside three published black-box searches.

    python benchmarks/triggers.py --models DIR... --data-dir DIR

runs every method on every planted trigger of the packaged model and of the checkpoints given, on
the same probes per seed, and writes ``benchmarks/results/triggers.md`` and ``.json`` after every
run, so that what is killed leaves the rows it had.

The methods: ``ours`` (`restore_jax.recover`, stopped at the first hit), ``annealing`` (DeBackdoor),
``evolution`` (B3D) and ``random`` (draws from the prior, raced); see ``peers/``.
"""

import argparse
import datetime
import functools
import json
import math
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from peers import evolution_strategies, random_search, simulated_annealing
from peers.trigger_search import Outcome

from restore_jax import Oracle, make_space, open_model, recover
from restore_jax.data import cifar10, shapes
from restore_jax.environment import device_name, versions
from restore_jax.oracles import Asker, Inconclusive
from restore_jax.recovery import attack_success_rate, planted_in
from restore_jax.run import Run
from restore_jax.spaces import SPACES as SPACES_KNOWN

RESULTS = Path(__file__).parent / "results"
PEERS: dict[str, Callable[..., Outcome]] = {
    "annealing": simulated_annealing.search,
    "evolution": evolution_strategies.search,
    "random": random_search.search,
}
SPACES = {
    "patch": "patch", "pixels": "scattered", "blend": "blend", "stripes": "stripes",
    "warp": "warp", "colour": "colour", "smooth": "smooth", "frequency": "frequency",
    "quantise": "quantise",
}  # fmt: skip
"""The space that holds each kind of planted trigger."""
STOP = "first_hit"
"""When `recover` stops."""
TEST_IMAGES = 2000
"""Of the test split, the first: enough for an ASR to about a hundredth."""


class Case(NamedTuple):
    """One planted trigger of one model, and the space searched for it.

    Attributes:
      model: its name in the tables.
      oracle: the model, with logits.
      asker: asks it outside the searches.
      trigger: the planted trigger's name.
      target: the class it leads to.
      space: the space's name.
    """

    model: str
    oracle: Oracle
    asker: Asker
    trigger: str
    target: int
    space: str


def cases(models: list[str], space: str | None) -> Iterator[Case]:
    """The planted triggers of the models; ``space`` None: the one of each trigger's kind."""
    for spec in models:
        oracle = open_model(spec)
        asker = Asker(oracle)
        for name, planted in planted_in(oracle).items():
            fitting = SPACES[planted.to_json().get("kind", "patch")]
            yield Case(Path(spec).name, oracle, asker, name, planted.target, space or fitting)


def ours(case: Case, seed: int, budget: int) -> dict[str, Any]:
    """A recovery's row."""
    recovery = recover(
        case.oracle,
        case.target,
        space=case.space,
        stop=STOP,
        seed=seed,
        budget=budget,
    )
    return {
        "reached": recovery.status == "reached",
        "found": recovery.found,
        "queries": recovery.cost.queries_by_stage["search"],
        "queries_total": recovery.queries,
        "best": recovery.probe_success_rate,
        "trigger": recovery.trigger,
    }


def peer(search: Callable[..., Outcome], case: Case, seed: int, budget: int) -> dict[str, Any]:
    """A peer's row, on the probes that `recover` takes with this seed, in the same space."""
    settings, shape = SPACES_KNOWN[case.space].settings_for(STOP), case.oracle.image_shape
    m = settings.num_probes
    run = Run(case.oracle, budget=100 * m, seed=seed)
    probes = run.feed(frozenset({case.target})).take(m, run.ledger.left)
    space = make_space(case.space, shape, **settings.options)
    outcome = search(jax.random.key(seed), case.oracle, space, case.target, probes, budget)
    return {
        "reached": outcome.reached,
        "found": None,
        "queries": outcome.queries,
        "queries_total": outcome.queries + run.ledger.spent,
        "best": outcome.best,
        "trigger": outcome.trigger,
    }


def one(case: Case, method: str, seed: int, budget: int, test_data: Any | None) -> dict[str, Any]:
    """One run's row; the ASR is measured of a trigger that made the event, on the test data."""
    began = time.perf_counter()
    search = ours if method == "ours" else functools.partial(peer, PEERS[method])
    row = search(case, seed, budget)
    seconds = time.perf_counter() - began
    trigger = row.pop("trigger")
    rate = None
    if test_data is not None and row["reached"]:
        rate = attack_success_rate(case.oracle, trigger, *test_data, asker=case.asker)
    row = {
        "model": case.model,
        "trigger": case.trigger,
        "target": case.target,
        "space": case.space,
        "method": method,
        "seed": seed,
        "budget": budget,
        **row,
        "trigger_pixels": int(np.sum(np.asarray(trigger.mask) > 0)),
        "test_success_rate": rate,
        "seconds": seconds,
    }
    print(
        f"{case.model} {case.trigger}  {method:<9} seed {seed}"
        f"  {'reached' if row['reached'] else 'not reached':<11}  {row['queries']:>9,} queries"
        f"  best {row['best']:.2f}  {row['trigger_pixels']} px  test {rate}  {seconds:.0f} s",
        flush=True,
    )
    return row


def until_event(rows: list[dict[str, Any]]) -> list[float]:
    """Queries until the event, infinite where it was not reached."""
    return [row["queries"] if row["reached"] else math.inf for row in rows]


def spread(values: list[float], digits: int, most: int | None = None) -> str:
    """Median and range; what is infinite is more than ``most``."""

    def text(value: float) -> str:
        return f"over {most:,}" if math.isinf(value) else f"{value:,.{digits}f}"

    if not values:
        return ""
    return f"{text(np.median(values))} ({text(min(values))} to {text(max(values))})"


def ratio(mine: list[float], theirs: list[float], budget: int) -> str:
    """Our median queries until the event over a peer's: a bound where one is infinite."""
    if not mine or not theirs:
        return ""
    a, b = float(np.median(mine)), float(np.median(theirs))
    if math.isinf(a) and math.isinf(b):
        return ""
    bound = "over " if math.isinf(a) else "under " if math.isinf(b) else ""
    return f"{bound}{min(a, budget) / min(b, budget):.2g}"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table, one line per model, trigger and method."""
    lines = [
        "| model | trigger | space | method | reached | queries to the event | ours / theirs "
        "| all queries | best share of probes | pixels "
        "| ASR on test images | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        name = (row["model"], row["trigger"], row["space"], row["method"])
        groups.setdefault(name, []).append(row)
    for name, some in groups.items():
        budget = some[0]["budget"]
        mine = [] if name[-1] == "ours" else until_event(groups.get((*name[:-1], "ours"), []))
        rates = [row["test_success_rate"] for row in some if row["test_success_rate"] is not None]
        cells = [
            *name,
            f"{sum(row['reached'] for row in some)} of {len(some)}",
            spread(until_event(some), 0, budget),
            ratio(mine, until_event(some), budget),
            spread([row["queries_total"] for row in some], 0),
            spread([row["best"] for row in some], 2),
            spread([row["trigger_pixels"] for row in some], 0),
            spread(rates, 3),
            spread([row["seconds"] for row in some], 0),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def overall(rows: list[dict[str, Any]]) -> list[str]:
    """One line per method, over all models, triggers and seeds."""
    lines = [
        "| method | reached | median queries to the event | found: ASR >= 90 % | median ASR |",
        "|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        some = [row for row in rows if row["method"] == method]
        rates = [row["test_success_rate"] for row in some if row["test_success_rate"] is not None]
        good = sum(rate >= 0.9 for rate in rates)
        lines.append(
            f"| {method} | {sum(row['reached'] for row in some)} of {len(some)} | "
            f"{np.median(until_event(some)):,.0f} | {good} of {len(some)} | "
            f"{np.median(rates) if rates else math.nan:.3f} |"
        )
    return lines


def write(out: Path, rows: list[dict[str, Any]], command: str, budget: int, dataset: str) -> None:
    """Writes the table and the rows."""
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Triggers: queries until the event",
        "",
        f"`{command}` on {datetime.date.today()}, {device_name()}, {os.cpu_count()} cores "
        f"({platform.system()}); {found}.",
        "",
        f"The event: a trigger leads 95 % of the probes to the target. At most {budget:,} images "
        "per run; the same probes for every method, drawn with the run's seed. Medians, with the "
        "range over seeds in brackets; a run that did not reach the event counts as one that needs "
        f"more than {budget:,}. Queries to the event are the search's alone. All queries of ours "
        "add screening the probes, choosing among the triggers that made the event, pruning and "
        "confirming; of a peer, which returns the first such trigger, screening. evolution "
        "searches masks over all pixels, so that its trigger need not be one of the space. Pixels "
        "are those of the trigger returned, and ASR is that of the triggers whose search made the "
        f"event, on up to {TEST_IMAGES:,} test images of other classes, of {dataset}: probes are "
        "dead leaves, and a trigger that makes the event on them need not work on other images. "
        "Seconds include compilation, most of which only the first run of a method on a model "
        "pays.",
        "",
        *overall(rows),
        "",
        *table(rows),
        "",
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text("\n".join(lines))
    content = {"command": command, "device": device_name(), "versions": versions(), "rows": rows}
    out.with_suffix(".json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def main() -> None:
    """Runs everything and writes the results."""
    methods = ["ours", *PEERS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=[], metavar="DIR", help="checkpoints too")
    parser.add_argument("--data-dir", help="the TFDS folder that holds cifar10/, for the ASR")
    parser.add_argument("--dataset", choices=("cifar10", "shapes"), default="cifar10",
                        help="that the models know, for the ASR (%(default)s)")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5, help="per case and method (%(default)s)")
    parser.add_argument("--budget", type=int, default=100_000, help="images per run (%(default)s)")
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--space", choices=list(SPACES_KNOWN), help="not the planted kind's own")
    parser.add_argument(
        "--only", nargs="+", metavar="MODEL/TRIGGER", help='e.g. "shipped/1"; a model: all of its'
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "triggers")
    args = parser.parse_args()
    models = ["shipped", *args.models]
    if len({Path(spec).name for spec in models}) < len(models):
        parser.error("two --models have the same folder name, by which the tables call them.")

    test_data = None
    if args.dataset == "shapes":
        test_data = shapes.load("test")
    elif args.data_dir:
        images, labels = cifar10.load("test", args.data_dir)
        test_data = images[:TEST_IMAGES], labels[:TEST_IMAGES]
    # Folders by their names, for what they are called on one machine says nothing elsewhere.
    told = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    command = shlex.join(["python", "benchmarks/triggers.py", *told])
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        for case in cases(models, args.space):
            if args.only and not {case.model, f"{case.model}/{case.trigger}"} & set(args.only):
                continue
            for seed in range(args.seeds):
                for method in args.methods:
                    try:
                        row = one(case, method, seed, args.budget, test_data)
                    except Inconclusive as error:
                        print(f"{case.model} {case.trigger}  {method} seed {seed}: {error}")
                        continue
                    rows.append(row)
                    write(args.out, rows, command, args.budget, args.dataset)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
