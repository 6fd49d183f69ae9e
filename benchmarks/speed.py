"""How fast everything is, and how fast it could be: scoring, training, compiling, growing.

Everything runs on the same cores. Contestants of one table run in this one process, in turns, so
that whatever else the machine does meets all alike; ratios are of neighbours in time; compilation
and a first call are left out but where they are what is measured.
"""

import argparse
import contextlib
import copy
import datetime
import importlib.util
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import roofline
from profiling import profiled
from timing import Contestant, processor, ratio, take_turns
from zoo import ZOO

from restore_jax import checkpoints
from restore_jax.backdoors import make_poisoning
from restore_jax.compilation import chunk_size, compiler_options
from restore_jax.data.dead_leaves import dead_leaves
from restore_jax.environment import device_name, versions
from restore_jax.models import Network, make_network, winograd
from restore_jax.oracles import TracedOracle, chunks
from restore_jax.racing import make_scorer
from restore_jax.racing import scoring as scoring_of_races
from restore_jax.spaces.patch import patch
from restore_jax.splitting import Status, count, importance_splitting
from restore_jax.training import Recipe, make_trainer

ROOT = Path(__file__).resolve().parent.parent
NEVER = 1e9
FORMER = "resnet8, as packaged until 0.1"
LOOP, RACING = "loop, every candidate on all probes", "loop, racing"
VMAPPED = "{} loops by vmap"
LANES = (2, 4, 16)
REST = "loop around a linear model"
FORWARD = "forward pass alone"
PLAIN = "forward pass alone, XLA's own convolutions"
TORCHSCRIPT = "TorchScript, frozen, channels last"
EAGER = "PyTorch eager, channels last"
ONNX = "ONNX Runtime"
LIKE = "torch.compile, channels last, bfloat16"
"""On a GPU this package computes in bfloat16, and this is like it; it makes CUDA graphs."""
PARTS = ("scoring", "training", "compiling", "scaling", "whole")


def main() -> None:
    args = parse()
    # Measured parts are kept, so that one may be run again without the others.
    kept = args.out.with_suffix(".json")
    result = json.loads(kept.read_text()) if kept.exists() else {}
    measured = {
        "scoring": scoring,
        "training": training,
        "compiling": compiling,
        "scaling": scaling,
        "whole": whole,
        "sizes": sizes,
    }
    for part in args.parts:
        print(f"== {part}", file=sys.stderr, flush=True)
        result[part] = measured[part](args) | header(part, args)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(result, indent=1) + "\n")
    from speed_report import write

    write(result, args.out)


def parse() -> argparse.Namespace:
    gpu = jax.default_backend() != "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--parts", nargs="+", choices=(*PARTS, "sizes"), default=PARTS,
        help="what to measure (all but sizes: other chunks and race widths)")  # fmt: skip
    add("--particles", type=int, default=4096 if gpu else 128, metavar="N")
    add("--probes", type=int, default=16, metavar="N", help="images a candidate is shown")
    add("--repeats", type=int, default=7, metavar="N")
    add("--data-dir", metavar="DIR", help="CIFAR-10, for the part whole")
    add("--epochs", type=int, default=16, metavar="N", help="for the part whole")
    add("--arch", default="resnet18", help="for the part whole")
    add("--out", type=Path, default=ROOT / "benchmarks/results/speed.md", metavar="FILE",
        help="the results, as Markdown; beside it .json and .png")  # fmt: skip
    add("--bounded", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bounded:
        bounded(*args.bounded)
        sys.exit()
    return args


def header(part: str, args: argparse.Namespace) -> dict[str, Any]:
    device = processor() if jax.default_backend() == "cpu" else device_name()
    words = ["--parts", part]
    if part == "whole":
        words += ["--arch", args.arch, "--epochs", str(args.epochs), "--data-dir", "DIR"]
    used = dict(versions())
    for name in ("torch", "onnxruntime"):
        if name in sys.modules:
            used[name] = sys.modules[name].__version__
    return {
        "date": datetime.date.today().isoformat(),
        "device": device,
        "cores": len(os.sched_getaffinity(0)),
        "versions": used,
        "command": shlex.join(["python", "benchmarks/speed.py", *words]),
    }


def arithmetic() -> Any:
    """The dtype that the package computes with on this device."""
    return jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32


# Scoring


def scoring(args: argparse.Namespace) -> dict[str, Any]:
    limits = roofline.ceilings(arithmetic())
    networks = {}
    for name in (FORMER, "resnet20", "resnet18"):
        print(f"-- {name}", file=sys.stderr, flush=True)
        networks[name] = score_one(name, args, limits)
    return {
        "dtype": jnp.dtype(arithmetic()).name,
        "particles": args.particles,
        "probes": args.probes,
        "flops": limits.flops,
        "bandwidth": limits.bandwidth,
        "product": roofline.product_side(),
        "networks": networks,
    }


def score_one(name: str, args: argparse.Namespace, limits: roofline.Ceilings) -> dict[str, Any]:
    network, params, stats, metadata = open_network(name)
    folded = network.fold(params, stats)
    chunk = chunk_size(network.image_shape)
    particles = args.particles if name != "resnet18" else args.particles // 4
    contestants = [
        splitting_loop(LOOP, network, folded, particles, args.probes),
        splitting_loop(RACING, network, folded, particles, args.probes, race=True),
    ]
    images = contestants[0].images
    profile = profiled(contestants[0].go)
    weights = 0.01 * jax.random.normal(jax.random.key(5), (math.prod(network.image_shape), 10))
    contestants.append(
        splitting_loop(REST, network, weights, particles, args.probes, answer=linear)
    )
    if name == FORMER:
        gpu = jax.default_backend() == "gpu"
        contestants += [
            vmapped_loops(network, folded, lanes, particles // lanes, args.probes)
            for lanes in (LANES if gpu else LANES[1:2])
        ]
    contestants.append(forward_pass(FORWARD, network, folded, images, chunk))
    fewest, winograd.FEWEST = winograd.FEWEST, NEVER
    plain = network.fold(params, stats)
    batch = jnp.zeros((chunk, *network.image_shape))
    layers = roofline.layers(network.apply_folded, plain, batch)
    if any(leaf.ndim == 3 for leaf in jax.tree.leaves(folded)):
        contestants.append(forward_pass(PLAIN, network, plain, images, chunk))
    winograd.FEWEST = fewest
    contestants += peers(name, network, (params, stats), metadata, images)
    take_turns(contestants, args.repeats)
    by_name = {one.name: one for one in contestants}
    rival = by_name.get(LIKE, by_name.get(TORCHSCRIPT))
    bound = chunk / roofline.least_time(layers, limits)
    return {
        "chunk": chunk,
        "particles": particles,
        "gigaflops_per_chunk": sum(layer.flops for layer in layers) / 1e9,
        "megabytes_per_chunk": sum(layer.moved for layer in layers) / 1e6,
        "limited_by_memory": sum(
            layer.moved / limits.bandwidth > layer.flops / limits.flops for layer in layers
        ),
        "layers": len(layers),
        "bound": bound,
        "rival": rival.name if rival else None,
        "rates": {
            one.name: one.spread()
            | {
                "images": one.images,
                "of_forward": ratio(one, by_name[FORWARD]),
                "of_rival": ratio(one, rival) if rival else None,
                "of_bound": one.rate() / bound,
            }
            for one in contestants
            if one.name != REST
        },
        "profile": profile,
        "rest": ratio(by_name[LOOP], by_name[REST]),
        "overhead": {loop: ratio(by_name[FORWARD], by_name[loop]) for loop in (LOOP, RACING)},
        "forward_of": {
            peer: ratio(by_name[FORWARD], by_name[peer])
            for peer in (LIKE, TORCHSCRIPT, ONNX, EAGER)
            if peer in by_name
        },
    }


def open_network(name: str) -> tuple[Network, Any, Any, dict[str, Any]]:
    """One of the networks, with the weights that were packaged or with random ones."""
    if name == FORMER:
        loaded = checkpoints.load(ZOO / "packaged-0.1", arithmetic())
        return loaded.network, loaded.params, loaded.batch_stats, loaded.metadata
    network = make_network(name, dtype=arithmetic())
    metadata = {"normalisation": {"mean": [0.5], "std": [0.25]}}
    return network, *jax.jit(network.init)(jax.random.key(0)), metadata


def searched(
    network: Network, answer: Callable[[Any, Any], Any], weights: Any, particles: int, probes: int,
    *, race: bool = False, max_levels: int = 3, image_shape: Any = None,
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    """A search that never ends, and what its score reads."""
    shape = image_shape or network.image_shape
    classes = tuple(str(k) for k in range(10))
    oracle = TracedOracle("benchmark", "logits", shape, classes, weights, answer, {})
    space = patch(shape)
    algorithm = importance_splitting(
        make_scorer(oracle, space, 0.95, probes, race=race),
        space.search,
        num_particles=particles,
        survival=0.5,
        num_moves=2,
        moving="all",
        threshold=NEVER,
        max_levels=max_levels,
        stop="estimate",
    )
    inputs = {
        "weights": weights,
        "probes": dead_leaves(jax.random.key(0), probes, shape),
        "target": jnp.int32(3),
        "fade": jnp.float32(0),
    }
    return algorithm, inputs


def splitting_loop(
    name: str, network: Network, folded: Any, particles: int, probes: int,
    *, answer: Any = None, **how: Any,
) -> Contestant:  # fmt: skip
    """One level of a search: proposals, stamping, scores, accept and reject, bookkeeping."""
    answer = answer or network.apply_folded
    algorithm, inputs = searched(network, answer, folded, particles, probes, **how)
    start = jax.jit(algorithm.init)(jax.random.key(0), inputs)
    advance = jax.jit(lambda state, inputs: algorithm.advance(state, inputs, 1))
    compiled = advance.lower(start, inputs).compile(compiler_options())
    for word in ("callback", "infeed", "outfeed"):
        if word in compiled.as_text():
            sys.exit(f"the compiled search has a {word} in it: the host is asked.")

    def go() -> Any:
        return jax.block_until_ready(compiled(start, inputs))

    end = go()
    if int(end.status) != Status.RUNNING or int(end.index) != 1:
        sys.exit(f"the search ended after {int(end.index)} levels: it was not to.")
    return Contestant(name, count(end.num_queries) - count(start.num_queries), go)


def vmapped_loops(
    network: Network, folded: Any, lanes: int, particles: int, probes: int
) -> Contestant:
    """One level of several searches, each for a target of its own, as one program."""
    algorithm, inputs = searched(network, network.apply_folded, folded, particles, probes)
    targets = jnp.arange(lanes, dtype=jnp.int32) % 10
    axes = {name: 0 if name == "target" else None for name in inputs}
    inputs |= {"target": targets}
    start = jax.jit(jax.vmap(algorithm.init, (None, axes)))(jax.random.key(0), inputs)
    level = jax.vmap(lambda state, inputs: algorithm.advance(state, inputs, 1), (0, axes))
    compiled = jax.jit(level).lower(start, inputs).compile(compiler_options())
    end = compiled(start, inputs)
    images = sum(
        count(after) - count(before)
        for after, before in zip(end.num_queries, start.num_queries, strict=True)
    )
    return Contestant(
        VMAPPED.format(lanes), images, lambda: jax.block_until_ready(compiled(start, inputs))
    )


def forward_pass(name: str, network: Network, folded: Any, images: int, chunk: int) -> Contestant:
    """The compiled network, called again and again on one chunk."""
    batch = dead_leaves(jax.random.key(0), min(chunk, 64), network.image_shape)
    batch = jax.block_until_ready(jnp.resize(batch, (chunk, *network.image_shape)))
    apply = jax.jit(network.apply_folded).lower(folded, batch).compile(compiler_options())
    calls = max(1, round(images / chunk))

    def go() -> None:
        for _ in range(calls):
            logits = apply(folded, batch)
        jax.block_until_ready(logits)

    return Contestant(name, calls * chunk, go)


def peers(
    name: str, network: Network, trained: Any, metadata: dict[str, Any], images: int
) -> list[Contestant]:
    """The same network and weights in PyTorch and ONNX Runtime, those that are installed."""
    exact = make_network(network.name, image_shape=network.image_shape, **normalised(metadata))
    probes = np.array(dead_leaves(jax.random.key(1), 64, network.image_shape))
    expected = np.asarray(jax.jit(exact.apply)(*trained, probes))

    def check(logits: np.ndarray, whose: str, most: float = 1e-3) -> None:
        furthest = np.abs(logits - expected).max() / max(1.0, np.abs(expected).max())
        if not furthest < most:
            sys.exit(f"{whose}'s logits differ by {furthest:.2g}: not the same network.")

    found = []
    if importlib.util.find_spec("torch"):
        found += torch_peers(network, trained, metadata, probes, check, images)
    else:
        print("PyTorch is not installed: left out", file=sys.stderr)
    if importlib.util.find_spec("onnxruntime") and jax.default_backend() == "cpu":
        session = onnx_session(exact, trained, metadata)
        call = lambda: session.run(None, {"images": probes})[0]  # noqa: E731
        check(call(), ONNX)
        found.append(repeated(ONNX, call, len(probes), images))
    return found


def normalised(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(metadata["normalisation"][name]) for name in ("mean", "std")}


def repeated(name: str, call: Callable[[], Any], at_once: int, images: int) -> Contestant:
    calls = max(1, round(images / at_once))

    def go() -> None:
        for _ in range(calls):
            call()

    return Contestant(name, calls * at_once, go)


def torch_peers(
    network: Network, trained: Any, metadata: dict[str, Any], probes: Any, check: Any, images: int
) -> list[Contestant]:
    import torch
    from torch_networks import torch_network

    gpu = jax.default_backend() == "gpu"
    if gpu and not torch.cuda.is_available():
        return []
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    # The check is of float32; a GPU would multiply in TF32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    model = torch_network(metadata, *trained).to("cuda" if gpu else "cpu")
    model = model.to(memory_format=torch.channels_last)
    pixels = torch.from_numpy(probes).permute(0, 3, 1, 2)
    pixels = pixels.to(next(model.buffers()).device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        frozen = torch.jit.freeze(torch.jit.trace(model, pixels))
        for one, whose in ((model, EAGER), (frozen, TORCHSCRIPT)):
            check(one(pixels).float().cpu().numpy(), whose)
    rivals = [(frozen, pixels, TORCHSCRIPT), (model, pixels, EAGER)]
    if gpu:
        rivals = [
            (one, pixels.repeat(4096 // len(pixels), 1, 1, 1), whose) for one, _, whose in rivals
        ]
        rivals += torch_in_bfloat16(model, pixels, check)

    def caller(one: Any, pixels: Any) -> Callable[[], Any]:
        def call() -> None:
            with torch.inference_mode():
                one(pixels)
                if gpu:
                    torch.cuda.synchronize()

        return call

    return [repeated(whose, caller(one, given), len(given), images) for one, given, whose in rivals]


def torch_in_bfloat16(model: Any, pixels: Any, check: Any) -> list[tuple[Any, Any, str]]:
    """The network in bfloat16, as it is and by `torch.compile`, on whole chunks."""
    import torch

    half = copy.deepcopy(model).to(torch.bfloat16)
    few = pixels.to(torch.bfloat16)
    many = few.repeat(4096 // len(few), 1, 1, 1).contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(half, mode="max-autotune")
    with torch.inference_mode():
        for one, whose in ((half, f"{EAGER}, bfloat16"), (compiled, LIKE)):
            # Eight bits a number, some twenty layers.
            check(one(few).float().cpu().numpy(), whose, 0.1)
        compiled(many)
    return [(half, many, f"{EAGER}, bfloat16"), (compiled, many, LIKE)]


def onnx_session(exact: Network, trained: Any, metadata: dict[str, Any]) -> Any:
    import onnxruntime

    spec = importlib.util.spec_from_file_location("convert", ROOT / "examples" / "convert.py")
    assert spec is not None
    assert spec.loader is not None
    convert: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(convert)
    params, stats = trained
    like = types.SimpleNamespace(network=exact, params=params, batch_stats=stats, metadata=metadata)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        convert.write_onnx(convert.layers_of(like), exact.image_shape, path)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


# Training


def training(args: argparse.Namespace) -> dict[str, Any]:
    contestants = [ours("JAX, SGD", "sgd"), ours("JAX, Muon (the default)", "muon")]
    if importlib.util.find_spec("torch"):
        contestants += torch_training()
    take_turns(contestants, args.repeats)
    rivals = contestants[2:]
    best = max(rivals, key=Contestant.rate) if rivals else None
    return {
        "batch": 250,
        "rates": {
            one.name: one.spread() | {"of_rival": ratio(one, best) if best else None}
            for one in contestants
        },
        "rival": best.name if best else None,
    }


def ours(name: str, optimizer: str, steps: int = 5) -> Contestant:
    """An epoch of a few steps as `train` makes them: augmented, poisoned, normalised."""
    network = make_network("resnet8", dtype=arithmetic())
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (250 * steps, 32, 32, 3), np.uint8)
    labels = draw.integers(0, 10, 250 * steps).astype(np.int32)
    recipe = Recipe(epochs=100, optimizer=optimizer, learning_rate=0.01)
    trainer = make_trainer(network, recipe, make_poisoning([], []), images, labels)
    start = trainer.init(jax.random.key(0))

    def go() -> None:
        for *_, state in trainer.epoch(start):
            jax.block_until_ready(state)

    return Contestant(name, 250 * steps, go)


def torch_training(steps: int = 5) -> list[Contestant]:
    """Eager steps of SGD on images that are ready: forward, backward, update."""
    import torch
    from torch_networks import torch_network

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    network = make_network("resnet8")
    params, stats = jax.jit(network.init)(jax.random.key(0))
    found = []
    for layout, memory in (
        ("channels last", torch.channels_last),
        ("contiguous", torch.contiguous_format),
    ):
        model = torch_network({"normalisation": {"mean": [0.5], "std": [0.25]}}, params, stats)
        model = model.to(device).to(memory_format=memory).train()
        model.stem.weight.requires_grad_(False)
        images = torch.rand(250, 3, 32, 32, device=device).contiguous(memory_format=memory)
        labels = torch.randint(0, 10, (250,), device=device)
        optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], 1e-3, momentum=0.9, nesterov=True
        )

        def go(
            model: Any = model,
            images: Any = images,
            labels: Any = labels,
            optimizer: Any = optimizer,
        ) -> None:
            for _ in range(steps):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(images), labels, label_smoothing=0.2)
                loss.backward()
                optimizer.step()
            float(loss.detach())

        found.append(Contestant(f"PyTorch eager, SGD, {layout}", 250 * steps, go))
    return found


# Compiling


def compiling(args: argparse.Namespace) -> dict[str, Any]:
    """`recover --trigger 1` in processes of their own, without kept programs and with."""
    rows: dict[str, list[dict[str, float]]] = {"nothing kept": [], "programs kept": []}
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "XDG_CACHE_HOME": folder}
            environment.pop("JAX_COMPILATION_CACHE_DIR", None)
            for number, row in enumerate(rows.values()):
                out = Path(folder) / f"out{number}"
                command = ["-m", "restore_jax", "recover", "--trigger", "1", "--out", str(out)]
                quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                subprocess.run([sys.executable, *command], env=environment, check=True, **quiet)
                row.append(json.loads((out / "recovery.json").read_text())["seconds"])
    return {
        "seconds": {
            name: {key: sorted(one[key] for one in row) for key in row[0]}
            for name, row in rows.items()
        }
    }


# Scaling


def linear(weights: Any, images: Any) -> Any:
    """The cheapest model there is: what is left is the search's own cost."""
    return images.reshape(images.shape[0], -1) @ weights


def scaling(args: argparse.Namespace) -> dict[str, Any]:
    gpu = jax.default_backend() != "cpu"
    network, params, stats, _ = open_network(FORMER)
    folded = network.fold(params, stats)
    many = (128, 1024, 8192, 65536) if gpu else (16, 32, 64, 128, 256)
    base = 1024 if gpu else 32
    lines: dict[str, list[tuple[int, float]]] = {"particles": [], "probes": [], "side": []}
    for particles in many:
        lines["particles"].append((particles, level_seconds(network, folded, particles, 16)))
    for probes in (8, 16, 32, 64, 128, 256):
        lines["probes"].append((probes, level_seconds(network, folded, base, probes)))
    for side in (16, 32, 64, 128):
        sized = make_network("resnet8", image_shape=(side, side, 3), dtype=arithmetic())
        weights = sized.fold(*jax.jit(sized.init)(jax.random.key(0)))
        lines["side"].append((side, level_seconds(sized, weights, base // 2, 16)))
    memory = {
        "levels": [(k, temporary(1024, 64, k)) for k in (10, 100, 1000)],
        "particles": [(n, temporary(n, 64, 100)) for n in (1024, 4096, 16384, 65536)],
    }
    command = [sys.executable, __file__, "--bounded", "65536", "64"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        "base": base,
        "seconds_per_level": lines,
        "megabytes": memory,
        "bounded": json.loads(report),
    }


def level_seconds(network: Network, folded: Any, particles: int, probes: int) -> float:
    """The median of three."""
    one = splitting_loop(LOOP, network, folded, particles, probes)
    take_turns([one], 3)
    return one.images / one.rate()


def linear_search(particles: int, probes: int, max_levels: int) -> tuple[Any, Any]:
    shape = (32, 32, 3)
    weights = 0.01 * jax.random.normal(jax.random.key(5), (32 * 32 * 3, 10))
    how = {"image_shape": shape, "max_levels": max_levels, "race": True}
    return searched(None, linear, weights, particles, probes, **how)  # type: ignore[arg-type]


def temporary(particles: int, probes: int, max_levels: int) -> float:
    """MB that a whole compiled search needs, its arguments and its result included."""
    algorithm, inputs = linear_search(particles, probes, max_levels)
    found = jax.jit(algorithm.run).lower(jax.random.key(0), inputs).compile().memory_analysis()
    assert found is not None
    sizes = (found.temp_size_in_bytes, found.argument_size_in_bytes, found.output_size_in_bytes)
    return sum(sizes) / 1e6


def bounded(particles: int, probes: int) -> None:
    """Two levels of a search that large, and the process's memory before and after."""

    def resident(what: str) -> float:
        # Not `getrusage`: its maximum begins with that of the process that started this one.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))

    algorithm, inputs = linear_search(particles, probes, 2)
    run = jax.jit(algorithm.run).lower(jax.random.key(0), inputs).compile()
    before, start = resident("VmRSS"), time.perf_counter()
    result = jax.block_until_ready(run(jax.random.key(0), inputs))
    report = {
        "particles": particles,
        "probes": probes,
        "queries": count(result.num_queries),
        "seconds": time.perf_counter() - start,
        "megabytes_before": before,
        "most_megabytes": resident("VmHWM"),
    }
    print(json.dumps(report))


# Chunks and race widths


def sizes(args: argparse.Namespace) -> dict[str, Any]:
    """Searches of several sizes with other chunks and race widths than those that were chosen."""
    gpu = jax.default_backend() == "gpu"
    network, params, stats, _ = open_network("resnet20")
    folded = network.fold(params, stats)
    usual = chunk_size(network.image_shape)
    ways = {"all probes at once": (usual, args.probes)}
    for factor in (0.25, 1, 4):
        for width in (2, 4, 8):
            ways[f"{round(factor * usual)} images, {width} probes"] = (round(factor * usual), width)
    tables: dict[str, Any] = {}
    for particles in (96, 256, 1000, 4096) if gpu else (96, 256):
        contestants = []
        for name, (chunk, width) in ways.items():
            with chosen(chunk, width):
                contestants.append(
                    splitting_loop(name, network, folded, particles, args.probes, race=True)
                )
        forward = forward_pass(FORWARD, network, folded, contestants[0].images, usual)
        take_turns([*contestants, forward], args.repeats)
        tables[str(particles)] = {
            one.name: one.spread() | {"of_forward": ratio(one, forward), "images": one.images}
            for one in contestants
        }
    return {"chunk": usual, "probes": args.probes, "tables": tables}


@contextlib.contextmanager
def chosen(chunk: int, width: int) -> Iterator[None]:
    """Another size of chunk and another race width."""
    before = chunks.chunk_size, scoring_of_races.RACE_WIDTH
    chunks.chunk_size, scoring_of_races.RACE_WIDTH = (lambda shape: chunk), width
    try:
        yield
    finally:
        chunks.chunk_size, scoring_of_races.RACE_WIDTH = before


# Training and recovering as a user does


def whole(args: argparse.Namespace) -> dict[str, Any]:
    """Trains a network with both triggers and recovers one: on a GPU alone, but where asked."""
    if jax.default_backend() != "gpu" and args.arch == "resnet18":
        return {"measured": False}
    with tempfile.TemporaryDirectory() as folder:
        run, found = Path(folder) / "run", Path(folder) / "found"
        words = ["train", "--arch", args.arch, "--epochs", str(args.epochs), "--out", str(run)]
        words += ["--data-dir", args.data_dir, "--json"]
        start = time.perf_counter()
        trained = spoken(words)
        seconds = time.perf_counter() - start
        recovered = spoken(
            ["recover", "--trigger", "1", "--model", str(run), "--out", str(found), "--json"]
        )
    keep = ("found", "queries", "seconds")
    return {
        "measured": True,
        "arch": args.arch,
        "epochs": args.epochs,
        "train": {key: trained[key] for key in ("asr", "clean_accuracy", "history", "device")}
        | {"seconds": seconds},
        "recover": {key: recovered[key] for key in keep},
    }


def spoken(words: list[str]) -> Any:
    """What a command prints as JSON."""
    command = [sys.executable, "-m", "restore_jax", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
