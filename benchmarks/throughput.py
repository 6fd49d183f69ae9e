"""Images per second: inside the splitting loop, in a bare forward pass, and in PyTorch.

The loop (proposals, stamping, the network, accept and reject, levels, bookkeeping) should cost
little more than the network alone. Everything runs in this one process on the same cores, in
turns, so that whatever else the machine does meets all alike; compilation and a first call are
left out of the times.
"""

import argparse
import copy
import dataclasses
import datetime
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax import checkpoints
from restore_jax.compilation import compiler_options
from restore_jax.data.dead_leaves import dead_leaves
from restore_jax.environment import device_name, versions
from restore_jax.models import NETWORKS, Network, make_network, winograd
from restore_jax.models.layers import NORM_EPSILON
from restore_jax.oracles import Oracle
from restore_jax.scoring import make_scorer
from restore_jax.spaces import patch
from restore_jax.splitting import Status, count, importance_splitting

FORWARD = "forward pass alone"
PLAIN = "forward pass alone, XLA's own convolutions, 64 at a time"
FOLDED = "PyTorch eager, norms folded"
AS_TRAINED = "PyTorch eager, norms as trained"
NEVER = 1e9


@dataclasses.dataclass
class Contestant:
    """Something that shows images to the network.

    Attributes:
      name: as the results call it.
      images: how many it shows in one go.
      go: shows them, and returns once the answers are there.
      seconds: one per repeat.
    """

    name: str
    images: int
    go: Callable[[], Any]
    seconds: list[float] = dataclasses.field(default_factory=list)

    def rates(self) -> list[float]:
        """Images per second, per repeat."""
        return [self.images / seconds for seconds in self.seconds]


def main() -> None:
    args = parse()
    network, params, stats = open_network(args)
    folded = network.fold(params, stats)
    probes = dead_leaves(jax.random.key(args.seed), args.probes, network.image_shape)

    chunks: dict[str, int] = {}
    contestants = []
    for name, race in [("loop, every candidate on all probes", False), ("loop, racing", True)]:
        contestant, chunks[name] = splitting_loop(name, race, args, network, folded, probes)
        contestants.append(contestant)
    images = contestants[0].images
    chunk = next(iter(chunks.values()))
    contestants.append(forward_pass(FORWARD, network, folded, probes, images, chunk))
    if any(leaf.ndim == 3 for leaf in jax.tree.leaves(folded)):
        # Beside convolutions with fewer multiplications, XLA's own, in the chunks best for them.
        fewest, winograd.FEWEST = winograd.FEWEST, NEVER
        plain = network.fold(params, stats)
        contestants.append(forward_pass(PLAIN, network, plain, probes, images, 64))
        winograd.FEWEST = fewest
    torch_version = None
    if not args.no_torch:
        torch_version, more = torch_eager(args, network, (params, stats), probes, images)
        contestants += more

    for contestant in contestants:
        contestant.go()
    for repeat in range(args.repeats):
        for contestant in contestants:
            start = time.perf_counter()
            contestant.go()
            contestant.seconds.append(time.perf_counter() - start)
        print(f"repeat {repeat + 1} of {args.repeats} done", file=sys.stderr)

    write(args, contestants, chunks, torch_version)


def parse() -> argparse.Namespace:
    gpu = jax.default_backend() != "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--arch", default="resnet8", choices=NETWORKS, help="the network, with random weights")
    add("--model", metavar="DIR", help="a checkpoint instead")
    add("--particles", type=int, default=4096 if gpu else 128, metavar="N")
    add("--probes", type=int, default=16, metavar="N", help="images a candidate is shown")
    add("--levels", type=int, default=2, metavar="N", help="levels per measurement")
    add("--moves", type=int, default=2, metavar="N", help="moves of all particles per level")
    add("--repeats", type=int, default=7, metavar="N")
    add("--seed", type=int, default=0, metavar="N")
    add("--no-torch", action="store_true", help="leave PyTorch out")
    add("--out", default="benchmarks/results/throughput.md", metavar="FILE",
        help="the results, as Markdown; beside it the same as .json (%(default)s)")  # fmt: skip
    return parser.parse_args()


def arithmetic() -> Any:
    """The dtype that the package computes with on this device."""
    return jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32


def open_network(args: argparse.Namespace) -> tuple[Network, Any, Any]:
    if args.model:
        loaded = checkpoints.load(args.model, arithmetic())
        return loaded.network, loaded.params, loaded.batch_stats
    network = make_network(args.arch, dtype=arithmetic())
    return network, *jax.jit(network.init)(jax.random.key(args.seed))


def splitting_loop(
    name: str, race: bool, args: argparse.Namespace, network: Network, folded: Any, probes: Any
) -> tuple[Contestant, int]:
    """A few levels of a search that never ends, and how many images it shows at a time."""
    shown_at_once = []

    def answer(weights: Any, images: Any) -> Any:
        shown_at_once.append(images.shape[0])
        return network.apply_folded(weights, images)

    classes = tuple(str(k) for k in range(network.num_classes))
    oracle = Oracle("benchmark", "logits", network.image_shape, classes, folded, answer, {})
    space = patch(network.image_shape)
    algorithm = importance_splitting(
        make_scorer(oracle, space, 0.95, args.probes, race=race),
        space.search,
        num_particles=args.particles,
        survival=0.5,
        num_moves=args.moves,
        moving="all",
        threshold=NEVER,
        max_levels=args.levels + 1,
        stop="estimate",
    )
    inputs = {
        "weights": folded,
        "probes": probes,
        "target": jnp.int32(3),
        "fade": jnp.float32(0),
    }
    start = jax.jit(algorithm.init)(jax.random.key(args.seed), inputs)
    advance = jax.jit(
        lambda state, inputs: algorithm.advance(state, inputs, args.levels),
        compiler_options=compiler_options(),
    )

    def go() -> Any:
        return jax.block_until_ready(advance(start, inputs))

    end = go()
    if int(end.status) != Status.RUNNING or int(end.index) != args.levels:
        sys.exit(f"the search ended after {int(end.index)} levels: it was not to.")
    return Contestant(name, count(end.num_queries) - count(start.num_queries), go), shown_at_once[0]


def forward_pass(
    name: str, network: Network, folded: Any, probes: Any, images: int, chunk: int
) -> Contestant:
    """The jitted network, called again and again on one chunk."""
    batch = jax.block_until_ready(jnp.resize(probes, (chunk, *network.image_shape)))
    apply = jax.jit(network.apply_folded).lower(folded, batch).compile(compiler_options())
    calls = max(1, round(images / chunk))

    def go() -> None:
        for _ in range(calls):
            logits = apply(folded, batch)
        jax.block_until_ready(logits)

    return Contestant(name, calls * chunk, go)


def torch_eager(
    args: argparse.Namespace, network: Network, trained: Any, probes: Any, images: int
) -> tuple[str | None, list[Contestant]]:
    """PyTorch's eager mode on the same network, with batch norm folded and as trained."""
    try:
        import torch
    except ImportError:
        print(
            "PyTorch is not installed: left out (pip install -e '.[benchmarks]')", file=sys.stderr
        )
        return None, []
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    pixels = torch.from_numpy(np.array(probes)).permute(0, 3, 1, 2)
    exact = checkpoints.load(args.model).network if args.model else make_network(args.arch)
    ours = np.asarray(jax.jit(exact.apply)(*trained, probes))
    gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    where = {"device": "cuda", "dtype": torch.bfloat16} if gpu else {}
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    contestants = []
    for form, weights in {FOLDED: network.fold(*trained), AS_TRAINED: trained}.items():
        model = torch_network(args, *weights)
        with torch.inference_mode():
            furthest = np.abs(ours - model(pixels).numpy()).max() / max(1.0, np.abs(ours).max())
        if not furthest < 1e-3:
            sys.exit(f"PyTorch's logits differ by {furthest:.2g}: not the same network.")
        for layout, memory in layouts.items():
            laid_out = copy.deepcopy(model).to(**where).to(memory_format=memory)
            for size in (64, 4096) if gpu else (64, 256):
                batch = pixels[torch.arange(size) % len(pixels)].to(**where)
                batch = batch.contiguous(memory_format=memory)
                calls = max(1, round(images / size))

                def go(model: Any = laid_out, batch: Any = batch, calls: int = calls) -> None:
                    with torch.inference_mode():
                        for _ in range(calls):
                            model(batch)
                    if gpu:
                        torch.cuda.synchronize()

                name = f"{form}, {layout}, batch {size}"
                contestants.append(Contestant(name, calls * size, go))
    return torch.__version__, contestants


def torch_network(args: argparse.Namespace, params: Any, stats: Any) -> Any:
    """The network as a `torch.nn.Module`: f32[b, C, H, W] in [0, 1] to logits f32[b, K].

    Args:
      args: whose model says how images are normalised.
      params, stats: the network's, as trained or as `Network.fold` gives them.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    mean, std = (0.5,), (0.25,)
    if args.model:
        saved = checkpoints.read_metadata(checkpoints.resolve(Path(args.model)))["normalisation"]
        mean, std = saved["mean"], saved["std"]

    def tensor(array: Any) -> Any:
        return torch.from_numpy(np.array(array, np.float32))

    def convolution(kernel: Any, bias: Any = None, stride: int = 1, padding: int = 0) -> Any:
        height, width, cin, cout = kernel.shape
        layer = nn.Conv2d(cin, cout, (height, width), stride, padding, bias=bias is not None)
        layer.weight.data = tensor(np.transpose(kernel, (3, 2, 0, 1)))
        if bias is not None:
            layer.bias.data = tensor(bias)
        return layer

    def linear(head: Any) -> Any:
        layer = nn.Linear(*head["kernel"].shape, bias="bias" in head)
        layer.weight.data = tensor(np.transpose(head["kernel"]))
        if "bias" in head:
            layer.bias.data = tensor(head["bias"])
        return layer

    class Sign(nn.Module):
        def __init__(self, sign: Any):
            super().__init__()
            self.register_buffer("sign", tensor(sign).view(-1, 1, 1))

        def forward(self, x: Any) -> Any:
            return x * self.sign

    def conv_norm(fields: Any, stats: Any, stride: int = 1, pool: bool = False) -> Any:
        kernel, bias = fields["conv"]["kernel"], fields["conv"].get("bias")
        kernel = winograd.plain(kernel) if kernel.ndim == 3 else kernel
        layers = [convolution(kernel, bias, stride, (kernel.shape[0] - 1) // 2)]
        if pool:
            layers.append(nn.MaxPool2d(2))
        if "sign" in fields:
            layers.append(Sign(fields["sign"]))
        if "norm" in fields:
            norm = nn.BatchNorm2d(kernel.shape[-1], eps=NORM_EPSILON)
            norm.weight.data = tensor(fields["norm"]["scale"])
            norm.bias.data = tensor(fields["norm"]["bias"])
            norm.running_mean = tensor(stats["norm"]["mean"])
            norm.running_var = tensor(stats["norm"]["var"])
            layers.append(norm)
        return nn.Sequential(*layers)

    class PooledStage(nn.Module):
        def __init__(self, fields: Any, stats: Any):
            super().__init__()
            self.first = conv_norm(fields["first"], stats.get("first"), pool=True)
            self.second = conv_norm(fields["second"], stats.get("second"))

        def forward(self, x: Any) -> Any:
            x = functional.relu(self.first(x))
            return x + functional.relu(self.second(x))

    class Block(nn.Module):
        def __init__(self, fields: Any, stats: Any):
            super().__init__()
            # A later stage begins with a block that projects its shortcut, at stride 2.
            projects = "shortcut" in fields
            stride = 2 if projects else 1
            self.first = conv_norm(fields["first"], stats.get("first"), stride)
            self.second = conv_norm(fields["second"], stats.get("second"))
            self.shortcut = nn.Identity()
            if projects:
                self.shortcut = conv_norm(fields["shortcut"], stats.get("shortcut"), stride)

        def forward(self, x: Any) -> Any:
            y = self.second(functional.relu(self.first(x)))
            return functional.relu(y + self.shortcut(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", tensor(mean).view(-1, 1, 1))
            self.register_buffer("std", tensor(std).view(-1, 1, 1))
            stem = stats.get("stem", {})
            self.pooled = "kernel" in stem
            if self.pooled:
                self.stem = convolution(stem["kernel"], params["stem"]["bias"])
            else:
                self.stem = conv_norm(params["stem"], stem)
            stage = PooledStage if self.pooled else Block
            running = stats.get("stages", {})
            stages = sorted(params["stages"].items())
            self.stages = nn.Sequential(*(stage(f, running.get(k, {})) for k, f in stages))
            self.head = linear(params["head"])

        def forward(self, x: Any) -> Any:
            x = (x - self.mean) / self.std
            if self.pooled:
                x = functional.pad(x, (0, 1, 0, 1))
            x = self.stages(functional.relu(self.stem(x)))
            return self.head(0.125 * x.amax((2, 3)) if self.pooled else x.mean((2, 3)))

    return Net().eval()


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return device_name()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else device_name()


def write(
    args: argparse.Namespace,
    contestants: list[Contestant],
    chunks: dict[str, int],
    torch_version: str | None,
) -> None:
    median = {c.name: statistics.median(c.rates()) for c in contestants}
    best = {
        form: max((name for name in median if name.startswith(form)), key=median.__getitem__)
        for form in (FOLDED, AS_TRAINED)
        if torch_version
    }
    device = processor() if jax.default_backend() == "cpu" else device_name()
    cores = len(os.sched_getaffinity(0))
    used = versions() | ({"torch": torch_version} if torch_version else {})
    command = shlex.join(["python", "benchmarks/throughput.py", *sys.argv[1:]])
    result = {
        "date": datetime.date.today().isoformat(),
        "device": device,
        "cores": cores,
        "network": args.model or f"{args.arch}, random weights",
        "dtype": jnp.dtype(arithmetic()).name,
        "particles": args.particles,
        "probes": args.probes,
        "levels": args.levels,
        "moves": args.moves,
        "repeats": args.repeats,
        "seed": args.seed,
        "images_at_a_time": chunks,
        "versions": used,
        "command": command,
        "images_per_second": {
            c.name: {
                "median": median[c.name],
                "min": min(c.rates()),
                "max": max(c.rates()),
                "images": c.images,
            }
            for c in contestants
        },
        "ratio_to_forward": {name: median[name] / median[FORWARD] for name in median},
        "ratio_to_best": {
            best[form]: {name: median[name] / median[best[form]] for name in median}
            for form in best
        },
    }
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")

    columns = ["", "images/s, median", "min–max", "of the forward pass"]
    columns += [f"of the best {form}" for form in best]
    table = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for c in contestants:
        cells = [c.name, f"{median[c.name]:,.0f}", f"{min(c.rates()):,.0f}–{max(c.rates()):,.0f}"]
        cells += [f"{median[c.name] / median[name]:.2f}" for name in (FORWARD, *best.values())]
        table.append(f"| {' | '.join(cells)} |")
    text = [
        f"# Throughput on {device}, {cores} cores",
        "",
        f"{result['date']}; {result['network']}; {result['dtype']}; {args.particles} particles, "
        f"{args.probes} probes, {args.levels} level(s) of {args.moves} move(s) per measurement, "
        f"{args.repeats} repeats in turns, seed {args.seed}.",
        "",
        *table,
        "",
        "Images of the loop are the queries that it counts; it shows the network "
        f"{' and '.join(map(str, sorted(set(chunks.values()))))} at a time, the forward pass "
        f"{next(iter(chunks.values()))}. Both fold batch norm into the convolutions.",
        "",
        f"Versions: {', '.join(f'{name} {version}' for name, version in used.items())}.",
        "",
        f"Made by `{command}`.",
    ]
    out.write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
