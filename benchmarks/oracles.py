"""Foreign models: the packaged network through every door, and what asking from the host costs.

The first part asks one network in seven ways, as a checkpoint inside the compiled loop and as a
file, a function or a URL from the host: the same seeds should find the same triggers. The second
part makes a search, and then nothing but the runtime's own calls on the batches that the search
sent, in turns; and shows the runtime images in batches of several sizes. Runtimes have threads that
go on spinning, so each is timed in a process of its own. On one core (``taskset -c 0``) what is
measured is the processor's time, to which other programs add little.
"""

import argparse
import contextlib
import datetime
import importlib
import importlib.metadata
import importlib.util
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import processor

import restore_jax
from restore_jax import checkpoints
from restore_jax.environment import versions
from restore_jax.oracles import (
    Asker,
    HostAnswers,
    HostedOracle,
    Journal,
    Ledger,
    ModelError,
    ModelOptions,
    Oracle,
    margins,
    open_model,
)
from restore_jax.oracles.answers import preprocessing
from restore_jax.oracles.options import Description
from restore_jax.racing import make_scorer, needed, threshold
from restore_jax.spaces import SPACES, make_space
from restore_jax.splitting import Status, count, host_driven

ROOT = Path(__file__).parents[1]
SHAPE = (32, 32, 3)
TOLERANCE = 1e-4
CHECKPOINTS: dict[int, Any] = {}
"""What the checkpoint said of each of its recoveries, and the scores."""
RUNS = [(3, 0), (3, 1), (6, 0)]
"""Targets and seeds."""
DOORS = {
    "checkpoint": "",
    "ONNX": "onnx",
    "TorchScript": "ts",
    "torch.export": "pt2",
    "Keras": "keras",
    "Python function": "",
    "HTTP": "",
}
"""The file that holds the network, by its ending."""
SCANNED = ("checkpoint", "ONNX", "TorchScript")
RUNTIMES = ("ONNX", "TorchScript", "torch.export")
PARTS = ("sampling", "racing and stamping", "chunks and checks", "asking")
TIMED, SUCCESS, BUDGET = 3, 0.95, 8_000
"""The class that the search is for, the share of probes to be led, and images it may send."""
MOST_SIZE = 1024
LOOPS = ("loop", "loop with a journal")
CORES = len(os.sched_getaffinity(0))
SIZES = (16, 64, 128, 256, MOST_SIZE)
FUNCTION = '''
"""The packaged network as somebody's function of NumPy arrays."""

import jax
import numpy as np

from restore_jax import checkpoints

_saved = checkpoints.load(checkpoints.PACKAGED["shipped"])
_weights = _saved.network.fold(_saved.params, _saved.batch_stats)
_apply = jax.jit(_saved.network.apply_folded)


def predict(images):
    filled = np.pad(images, ((0, -len(images) % 32), (0, 0), (0, 0), (0, 0)))
    parts = [_apply(_weights, part) for part in filled.reshape(-1, 32, 32, 32, 3)]
    return np.concatenate(parts)[: len(images)]


predict.image_shape = (32, 32, 3)
'''


def main() -> None:
    args = parse()
    if args.timed:
        try:
            print(json.dumps(timed(args)))
        except ModelError as error:
            print(f"{args.timed[0]} is left out: {error}", file=sys.stderr)
            print("null")
        return
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "device": processor(),
        "cores": CORES,
        "versions": versions() | runtimes(),
        "command": shlex.join([*pinned(), "python", "benchmarks/oracles.py", *sys.argv[1:]]),
        "repeats": args.repeats,
    }
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        if "doors" in args.parts:
            result["doors"] = every_door(Path(folder))
        if "overhead" in args.parts:
            result["overhead"] = {
                name: found for name in RUNTIMES if (found := in_turns(name, folder, args))
            }
    write(args, result)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--parts", nargs="+", default=("doors", "overhead"), choices=("doors", "overhead"),
        help="what to do (all of it)")  # fmt: skip
    add("--repeats", type=int, default=5, metavar="N", help="of every timing (%(default)s)")
    add("--out", default="benchmarks/results/oracles.md", metavar="FILE",
        help="the results, as Markdown; beside it the same as .json (%(default)s)")  # fmt: skip
    add("--timed", nargs=2, metavar=("RUNTIME", "FOLDER"), help=argparse.SUPPRESS)
    return parser.parse_args()


def write_models(folder: Path) -> None:
    """Writes the packaged network in every format whose package is there."""
    spec = importlib.util.spec_from_file_location("convert", ROOT / "examples" / "convert.py")
    assert spec is not None
    assert spec.loader is not None
    convert: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(convert)
    layers = convert.layers_of(checkpoints.load(checkpoints.PACKAGED["shipped"]))
    for name, ending in DOORS.items():
        try:
            if ending:
                convert.FORMATS[ending].write(layers, SHAPE, folder / f"model.{ending}")
        except ImportError as error:
            print(f"{name} is left out: there is no {error.name}", file=sys.stderr)
    (folder / "packaged_network.py").write_text(FUNCTION)


def spec_of(name: str, folder: str | Path) -> str:
    """What opens the file that `write_models` wrote."""
    ending = DOORS[name]
    scheme = {"ts": "torch", "pt2": "torch"}.get(ending, ending)
    return f"{scheme}:{folder}/model.{ending}"


@contextlib.contextmanager
def opened(name: str, folder: Path) -> Iterator[Oracle]:
    """The network, through one of `DOORS`.

    Raises:
      ModelError: its package is missing.
    """
    options = ModelOptions(image_shape=SHAPE)
    if name == "checkpoint":
        yield open_model("shipped")
    elif name == "Python function":
        sys.path.insert(0, str(folder))
        yield open_model("python:packaged_network:predict", options=options)
    elif name == "HTTP":
        command = [sys.executable, str(ROOT / "examples" / "serve.py"), "--port", "0"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, text=True, **pipes) as server:
            assert server.stdout is not None
            try:
                yield open_model(server.stdout.readline().strip())
            finally:
                server.terminate()
    else:
        yield open_model(spec_of(name, folder), options=options)


def every_door(folder: Path) -> dict[str, Any]:
    """Recoveries and scans through every door, compared with those of the checkpoint."""
    rows: list[dict[str, Any]] = []
    scans: list[dict[str, Any]] = []
    first: dict[Any, Any] = {}
    for name in DOORS:
        try:
            with opened(name, folder) as oracle:
                for target, seed in RUNS:
                    start = time.perf_counter()
                    found = restore_jax.recover(oracle, target, stop="first_hit", seed=seed)
                    seconds = time.perf_counter() - start
                    own = first.setdefault((target, seed), found)
                    print(f"{name}: class {target}, seed {seed}, {seconds:.0f} s", file=sys.stderr)
                    rows.append(
                        {"door": name, "target": target, "seed": seed, "seconds": seconds}
                        | compared(found, own, oracle)
                    )
                if name in SCANNED:
                    scans.append({"door": name} | scanned(oracle, first))
                    print(f"{name}: scanned", file=sys.stderr)
        except ModelError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return {"recoveries": rows, "scans": scans}


def compared(found: Any, own: Any, oracle: Oracle) -> dict[str, Any]:
    """A recovery beside the checkpoint's, whose last particles are shown to this oracle, too."""
    space = make_space("patch", SHAPE)
    images = jax.vmap(space.stamp, (0, None))(own.particles, jnp.asarray(own.probes))
    outputs = np.concatenate([
        np.asarray(oracle.query(some))
        for some in np.array_split(np.asarray(images).reshape(-1, *SHAPE), 5)
    ])  # fmt: skip
    m = len(own.probes)
    lead = np.asarray(margins("logits", outputs, own.target)).reshape(-1, m)
    scores = np.sort(lead, -1)[:, m - needed(own.success, m)]
    theirs, their_scores = CHECKPOINTS.setdefault(id(own), (outputs, scores))
    masks, patterns = (
        [np.asarray(getattr(one.trigger, part)) for one in (found, own)]
        for part in ("mask", "pattern")
    )
    return {
        "found": found.found,
        "queries": found.queries,
        "last_look": oracle.repeat_cost(m),
        "same_mask": bool(np.array_equal(*masks)),
        "same_trigger": bool(np.array_equal(*masks) and np.array_equal(*patterns)),
        "confirmation_success_rate": found.confirmation_success_rate,
        "asked": oracle.asked,
        "logits_differ": float(np.abs(outputs - theirs).max()),
        "scores_differ": float(np.abs(scores - their_scores).max()),
    }


def scanned(oracle: Oracle, first: dict[Any, Any]) -> dict[str, Any]:
    """A scan, and whether its chances and triggers are those of the checkpoint's."""
    start = time.perf_counter()
    found = restore_jax.scan(oracle, space="patch", seed=0)
    seconds = time.perf_counter() - start
    own = first.setdefault("scan", found)
    triggers = [
        {target: np.concatenate([one.recovery.trigger.mask, one.recovery.trigger.pattern], -1)
         for target, one in enumerate(scan.classes) if one.recovery}
        for scan in (found, own)
    ]  # fmt: skip
    return {
        "verdict": found.verdict,
        "targets": list(found.targets),
        "queries": found.queries,
        "seconds": seconds,
        "same_curves": found.spaces == own.spaces,
        "same_triggers": triggers[0].keys() == triggers[1].keys()
        and all(np.array_equal(triggers[0][target], triggers[1][target]) for target in triggers[0]),
    }


def in_turns(name: str, folder: str, args: argparse.Namespace) -> dict[str, Any] | None:
    """`timed`, in a process of its own."""
    if not Path(folder, f"model.{DOORS[name]}").exists():
        return None
    command = [sys.executable, __file__, "--timed", name, folder, "--repeats", str(args.repeats)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    if found:
        print(f"{name}: timed", file=sys.stderr)
    return found


class Watch:
    """A function, and the seconds spent in it."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self.seconds = function, 0.0

    def __call__(self, *args: Any) -> Any:
        """Calls the function."""
        start = clock()
        found = self.function(*args)
        self.seconds += clock() - start
        return found


class Search:
    """The search of `restore_jax.recover`, asked through a file: each part of it with a clock.

    Attributes:
      model: as the oracle's file opens it.
      batches: what it was given, the last time.
      answer: all that happens to stamped images.
    """

    def __init__(self, name: str, folder: str):
        scheme, _, path = spec_of(name, folder).partition(":")
        module: Any = importlib.import_module(f"restore_jax.oracles.{scheme}")
        options = ModelOptions(image_shape=SHAPE)
        self.model = module.load(path, options)
        most = module.most(self.model, options) if hasattr(module, "most") else None
        self.batches: list[np.ndarray] = []

        def ask(images: np.ndarray, sending: Any) -> np.ndarray:
            self.batches.append(images)
            return module.ask(self.model, images, sending)

        self._ask = Watch(ask)
        prepare = preprocessing(options, SHAPE, Description())
        self.answer = HostAnswers(name, self._ask, "logits", 10, prepare, batch=None, most=most)
        self._answer = Watch(self.answer)
        classes = tuple(map(str, range(10)))
        oracle = HostedOracle(name, "logits", SHAPE, classes, self._answer)
        settings, space = SPACES["patch"].settings, make_space("patch", SHAPE)
        m = settings.num_probes
        probes = restore_jax.open_probes("dead_leaves", 0, SHAPE).draw(0, 2 * m)
        probes = probes[Asker(oracle).labels(probes) != TIMED][:m]
        ledger = Ledger(1 << 40)
        self.books: Any = types.SimpleNamespace(ledger=ledger, journal=None, charge=ledger.charge)
        scorer = make_scorer(oracle, space, SUCCESS, m, books=self.books)
        self._score = Watch(scorer.score)
        self._algorithm = host_driven(
            scorer._replace(score=self._score),
            space.search,
            num_particles=settings.num_particles,
            survival=settings.survival,
            num_moves=settings.num_moves,
            moving="all",
            threshold=threshold(oracle, SUCCESS, m),
            max_levels=settings.max_levels,
            max_queries=BUDGET,
        )
        self._args = {
            "weights": (),
            "probes": probes,
            "target": jnp.int32(TIMED),
            "fade": jnp.float32(0),
        }

    def go(self) -> dict[str, float]:
        """Searches; the seconds that this took, and those of each part without the next."""
        watches = (self._score, self._answer, self._ask)
        self.batches.clear()
        for watch in watches:
            watch.seconds = 0.0
        start = clock()
        state = self._algorithm.init(jax.random.key(0), self._args)
        while int(state.status) == Status.RUNNING:
            state = self._algorithm.advance(state, self._args, 1)
        took = [clock() - start, *(watch.seconds for watch in watches)]
        if sum(map(len, self.batches)) != count(state.num_queries):
            sys.exit("the search counts other images than it sent.")
        return {
            "loop": took[0],
            "sampling": took[0] - took[1],
            "racing and stamping": took[1] - took[2],
            "chunks and checks": took[2] - took[3],
            "asking": took[3],
        }


def timed(args: argparse.Namespace) -> dict[str, Any]:
    """A search, in turns with the runtime's own calls on the batches that the search sent."""
    name, folder = args.timed
    search = Search(name, folder)
    search.go()
    runs = bare(name, folder, search.model)
    usual = next(iter(runs))
    many = np.concatenate(search.batches)[:MOST_SIZE]
    batches = [runs[usual][0](batch) for batch in search.batches]
    for lay, call in runs.values():  # a first call compiles
        for size in sorted({len(batch) for batch in search.batches} | set(SIZES)):
            call(lay(many[:size]))
            call(lay(many[:size]))

    took: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    for _ in range(args.repeats):
        parts = search.go()
        parts["runtime"] = clocked(runs[usual][1], batches)
        with journal(search.books):
            parts["loop with a journal"] = search.go()["loop"]
        for part, seconds in parts.items():
            took.setdefault(part, []).append(seconds)
        for layout, (lay, call) in runs.items():
            for size in SIZES:
                pieces = [lay(many[first : first + size]) for first in range(0, len(many), size)]
                rate = len(many) / clocked(call, pieces)
                rates.setdefault(f"{layout}, {size}", []).append(rate)
    pairs = {whole: zip(took[whole], took["runtime"], strict=True) for whole in LOOPS}
    return {
        "images": sum(map(len, search.batches)),
        "calls": len(search.batches),
        "images_at_once": max(map(len, search.batches)),
        "layout": usual,
        "seconds": {part: spread(seconds) for part, seconds in took.items()},
        "ratio_to_runtime": {
            whole: spread([one / other for one, other in pair]) for whole, pair in pairs.items()
        },
        "images_per_second": {batch: spread(rate) for batch, rate in rates.items()},
    }


def clock() -> float:
    """Seconds: of the processor on one core, or else of the wall."""
    return time.process_time() if CORES == 1 else time.perf_counter()


def clocked(call: Callable[[Any], Any], pieces: list[Any]) -> float:
    start = clock()
    for piece in pieces:
        call(piece)
    return clock() - start


def bare(name: str, folder: str, model: Any) -> dict[str, tuple[Any, Any]]:
    """What one would write without this package.

    Returns:
      By layout in memory, the one that the search uses first: how a batch is laid out, which is
      not timed, and the call.
    """
    if name == "ONNX":

        def session(images: np.ndarray) -> Any:
            return model.session.run(None, {"images": images})[0]

        return {"as the file takes it": (np.ascontiguousarray, session)}
    import torch

    path = f"{folder}/model.{DOORS[name]}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if name == "TorchScript":
            network = torch.jit.load(path).eval()
        else:
            network = torch.export.load(path).module()

    def call(images: Any) -> Any:
        with torch.inference_mode():
            return network(images).numpy()

    def last(images: np.ndarray) -> Any:
        return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)

    return {
        "channels last": (last, call),
        "contiguous": (lambda images: last(images).contiguous(), call),
    }


@contextlib.contextmanager
def journal(books: Any) -> Iterator[None]:
    """Answers are kept meanwhile, as the commands do."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Journal(Path(folder, "journal.jsonl"), {}, resume=False)
        books.journal = kept
        try:
            yield
        finally:
            books.journal = None
            kept.close()


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def pinned() -> list[str]:
    """How this process was kept to some of the cores, if it was."""
    if os.cpu_count() == CORES:
        return []
    return ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))))]


def runtimes() -> dict[str, str]:
    found = {}
    for package in ("onnxruntime", "torch", "keras"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def write(args: argparse.Namespace, result: dict[str, Any]) -> None:
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    text = [
        f"# One network through every door, on {result['device']}, {result['cores']} "
        f"core{'s' if result['cores'] > 1 else ''}",
        "",
        f"{result['date']}; the packaged network; probes, particles and levels as "
        "`restore_jax.recover` has them.",
    ]
    if "doors" in result:
        text += ["", "## The same answers", "", *doors_table(result["doors"])]
    if "overhead" in result:
        text += ["", "## What asking from the host costs", "", *overhead_tables(result)]
    used = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    text += [
        "",
        f"Versions: {used}.",
        "",
        f"Made by `{result['command']}`.",
    ]
    out.write_text("\n".join(text) + "\n")
    print("\n".join(text))


def table(columns: list[str], rows: list[list[Any]]) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def yes(fact: bool) -> str:
    return "yes" if fact else "no"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def doors_table(doors: dict[str, Any]) -> list[str]:
    rows = [
        [
            row["door"], f"{row['target']}, {row['seed']}", yes(row["found"]),
            percent(row["confirmation_success_rate"]), f"{row['queries']:,}",
            yes(row["same_trigger"]), f"{row['logits_differ']:.1e}", f"{row['scores_differ']:.1e}",
        ]
        for row in doors["recoveries"]
    ]  # fmt: skip
    scans = [
        [
            row["door"], row["verdict"], ", ".join(map(str, row["targets"])),
            f"{row['queries']:,}", yes(row["same_curves"]), yes(row["same_triggers"]),
        ]
        for row in doors["scans"]
    ]  # fmt: skip
    columns = ["", "class, seed", "found", "fresh probes led", "queries", "same trigger",
               "logits differ by", "scores differ by"]  # fmt: skip
    worst = max(row["logits_differ"] for row in doors["recoveries"])
    return [
        '`restore_jax.recover(..., stop="first_hit")`; the same trigger is the checkpoint\'s, bit '
        "for bit. Logits and scores: the last particles of "
        "the checkpoint's run on its probes, shown to each door; the largest difference "
        f"{'is below' if worst < TOLERANCE else 'is NOT below'} {TOLERANCE:g}. From the host the "
        "last look at the search's own 20 probes counts, and so does an image that opening a file "
        "takes where it does not say how many classes there are.",
        "",
        *table(columns, rows),
        "",
        '`restore_jax.scan(..., space="patch", seed=0)`; the curves are every class\'s levels, '
        "draws and intervals:",
        "",
        *table(["", "verdict", "classes", "queries", "the checkpoint's curves",
                "the checkpoint's triggers"], scans),
    ]  # fmt: skip


def overhead_tables(result: dict[str, Any]) -> list[str]:
    timings = result["overhead"]
    if not timings:
        return ["No runtime is installed."]
    ratios, parts, sizes = [], [], []
    for name, found in timings.items():
        seconds = {part: value["median"] for part, value in found["seconds"].items()}
        ratios.append([
            name, found["images_at_once"],
            *(f"{seconds[part]:.2f}" for part in ("runtime", *LOOPS)),
            *(between(found["ratio_to_runtime"][whole], ".3f") for whole in LOOPS),
        ])  # fmt: skip
        each = 1e6 / found["images"]
        parts.append([name, *(f"{each * seconds[part]:.1f}" for part in (*PARTS, "runtime"))])
        rates = found["images_per_second"]
        for layout in dict.fromkeys(batch.rpartition(",")[0] for batch in rates):
            cells = (between(rates[f"{layout}, {size}"], ",.0f") for size in SIZES)
            sizes.append([f"{name}, {layout}", *cells])
    images = next(iter(timings.values()))["images"]
    kind = "the processor's time on one core" if result["cores"] == 1 else "wall time"
    return [
        f"One search (class {TIMED}, {images:,} images), everything around it but compilation "
        "included, and the runtime called on the very same batches, already laid out in memory as "
        f"the search lays them; in turns, {result['repeats']} repeats, {kind}: medians, of ratios "
        "with the least and the most.",
        "",
        *table(["", "images at a time, at most", "runtime, s", "loop, s", "loop with a journal, s",
                "loop / runtime", "loop with a journal / runtime"], ratios),
        "",
        "Where the loop's time goes, in microseconds per image; asking is the runtime, and laying "
        "out images for it:",
        "",
        *table(["", *PARTS, "runtime alone"], parts),
        "",
        f"The runtime alone on {MOST_SIZE:,} images, so many at a time, images/s:",
        "",
        *table(["", *map(str, SIZES)], sizes),
    ]  # fmt: skip


def between(value: dict[str, float], form: str) -> str:
    least, most = format(value["min"], form), format(value["max"], form)
    return f"{value['median']:{form}} ({least}–{most})"


if __name__ == "__main__":
    main()
