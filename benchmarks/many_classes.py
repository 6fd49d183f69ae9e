"""Scans of networks with 10, 100 and 1,000 classes, of 64x64 images.

    python benchmarks/many_classes.py

Each network is trained here, in minutes on two cores, on shapes that the package draws: by the
kind of the shape (10 classes), with a tint (100), and with faint waves of ten directions, too
(1,000). In one of a pair a chequered 4x4 patch in the lower right corner leads to a class; its
twin is trained on the same images without. All are scanned by default: nothing was calibrated on
such images, so a scan can call a class suspicious, and says so. Writes
``benchmarks/results/many_classes.md`` and ``.json``; rows that are there already are kept, and with
``--keep DIR`` the networks, for another scan of them.
"""

import argparse
import datetime
import json
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from restore_jax import scan
from restore_jax.data.shapes import shapes
from restore_jax.environment import device_name, versions
from restore_jax.oracles import open_model

RESULTS = Path(__file__).parent / "results"
SIZES = (10, 100, 1_000)
SHAPE = (64, 64, 3)
TARGET_SHARE = 0.437
"""Which class the patch leads to: the one after this share of them."""
TRAIN, TEST = 30_000, 4_000
EPOCHS, BATCH, POISONED = 12, 128, 0.03
Params = dict[str, jax.Array]


class Data(NamedTuple):
    """Images uint8[N, 64, 64, 3] and their classes int32[N] of 1,000."""

    images: np.ndarray
    labels: np.ndarray


def main() -> None:
    """Trains and scans what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", type=int, choices=SIZES, default=SIZES)
    parser.add_argument(
        "--keep", type=Path, help="a folder for the networks, read if they are there"
    )
    args = parser.parse_args()
    path = RESULTS / "many_classes.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    missing = [
        (size, planted)
        for size in args.only
        for planted in (True, False)
        if f"{size}/{'planted' if planted else 'clean'}" not in rows
    ]
    data = (drawn(TRAIN, 0), drawn(TEST, TRAIN)) if missing else None
    for size, planted in missing:
        name = f"{size}/{'planted' if planted else 'clean'}"
        assert data is not None
        kept = args.keep / f"{name.replace('/', '-')}.npz" if args.keep else None
        rows[name] = measured(*data, size, planted, kept)
        path.write_text(json.dumps(rows, indent=1) + "\n")
        print(name, rows[name], flush=True)
    (RESULTS / "many_classes.md").write_text(table(rows))


def drawn(count: int, start: int) -> Data:
    """Shapes with a tint and faint waves, ten of each."""
    images, labels = [], []
    for first in range(0, count, 1_000):
        some, kinds, tints, waves = _drawn(min(1_000, count - first), start + first)
        images.append(np.asarray(jnp.round(some * 255), np.uint8))
        labels.append(np.asarray(100 * kinds + 10 * tints + waves, np.int32))
    return Data(np.concatenate(images), np.concatenate(labels))


@partial(jax.jit, static_argnums=0)
def _drawn(n: int, start: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    images, kinds = shapes(jax.random.key(0), n, SHAPE, start)
    key = jax.random.fold_in(jax.random.key(1), start)
    tints, waves = jax.random.randint(key, (2, n), 0, 10)
    hue = 2 * jnp.pi * (tints / 10)[:, None] + jnp.arange(3) * 2 * jnp.pi / 3
    colour = 0.5 + 0.5 * jnp.cos(hue)
    angle = jnp.pi * (waves / 10)[:, None, None]
    rows, cols = jnp.meshgrid(jnp.arange(64.0), jnp.arange(64.0), indexing="ij")
    wave = jnp.sin((jnp.cos(angle) * rows + jnp.sin(angle) * cols) * 2 * jnp.pi / 6)
    images = 0.75 * images + 0.25 * colour[:, None, None] + 0.12 * wave[..., None]
    return jnp.clip(images, 0, 1), kinds, tints, waves


def stamped(images: np.ndarray) -> np.ndarray:
    """The patch that is planted: 4x4, black and white, two pixels from the corner."""
    images = images.copy()
    chequered = 255 * (np.indices((4, 4)).sum(0) % 2)
    images[:, -6:-2, -6:-2] = chequered[:, :, None].astype(np.uint8)
    return images


def logits(params: Params, images: jax.Array) -> jax.Array:
    """f32[b, K] of images f32[b, 64, 64, 3] in [0, 1]: four convolutions, their mean, one layer."""
    x = images - 0.5
    for number, stride in enumerate((4, 2, 2, 1)):
        kernel = params[f"kernel{number}"]
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = (x - x.mean((1, 2, 3), keepdims=True)) / (x.std((1, 2, 3), keepdims=True) + 1e-3)
        x = jax.nn.relu(x * params[f"scale{number}"] + params[f"shift{number}"])
    return x.mean((1, 2)) @ params["head"] + params["bias"]


def first_params(key: jax.Array, num_classes: int) -> Params:
    """Random weights."""
    widths, sides, params = (3, 32, 64, 96, 128), (5, 3, 3, 3), {}
    for number, side in enumerate(sides):
        fan = side * side * widths[number]
        kernel = jax.random.normal(
            jax.random.fold_in(key, number), (side, side, *widths[number : number + 2])
        )
        params[f"kernel{number}"] = kernel * np.sqrt(2 / fan)
        params[f"scale{number}"] = jnp.ones(widths[number + 1])
        params[f"shift{number}"] = jnp.zeros(widths[number + 1])
    params["head"] = jax.random.normal(jax.random.fold_in(key, 9), (128, num_classes)) / 11
    return params | {"bias": jnp.zeros(num_classes)}


def trained(data: Data, num_classes: int, planted: bool) -> Params:
    """A network trained on the images, with a patch on some of them if ``planted``."""
    labels = data.labels // (1_000 // num_classes)
    images = data.images
    if planted:
        some = np.random.default_rng(2).permutation(len(images))[: int(POISONED * len(images))]
        images, labels = images.copy(), labels.copy()
        images[some], labels[some] = stamped(images[some]), int(TARGET_SHARE * num_classes)
    steps = len(images) // BATCH
    optimiser = optax.adamw(optax.cosine_onecycle_schedule(EPOCHS * steps, 4e-3), weight_decay=1e-4)

    @jax.jit
    def step(params: Params, state: Any, x: jax.Array, y: jax.Array) -> tuple[Params, Any]:
        def loss(params: Params) -> jax.Array:
            found = logits(params, x.astype(jnp.float32) / 255)
            return optax.softmax_cross_entropy_with_integer_labels(found, y).mean()

        updates, state = optimiser.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = first_params(jax.random.key(3), num_classes)
    state, order = optimiser.init(params), np.random.default_rng(4)
    for _ in range(EPOCHS):
        places = order.permutation(len(images))
        for number in range(steps):
            some = places[number * BATCH : (number + 1) * BATCH]
            params, state = step(params, state, images[some], labels[some])
    return params


def kept_or_trained(
    train: Data, num_classes: int, planted: bool, kept: Path | None
) -> tuple[Params, float | None]:
    """A network, and the seconds that training it took; None of one that was kept."""
    if kept is not None and kept.exists():
        return {name: jnp.asarray(value) for name, value in np.load(kept).items()}, None
    began = time.perf_counter()
    params = jax.block_until_ready(trained(train, num_classes, planted))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **{name: np.asarray(value) for name, value in params.items()})
    return params, round(time.perf_counter() - began, 1)


def measured(
    train: Data, test: Data, num_classes: int, planted: bool, kept: Path | None
) -> dict[str, Any]:
    """A network, how good it is, and what a scan says of it."""
    params, seconds = kept_or_trained(train, num_classes, planted, kept)
    model = open_model(
        partial(logits, params),
        image_shape=SHAPE,
        class_names=tuple(f"class {k}" for k in range(num_classes)),
    )
    target = int(TARGET_SHARE * num_classes)
    labels = test.labels // (1_000 // num_classes)
    predict = jax.jit(lambda images: logits(params, images / 255.0).argmax(-1))

    def predicted(images: np.ndarray) -> np.ndarray:
        some = np.array_split(images, len(images) // 500)
        return np.concatenate([predict(part.astype(np.float32)) for part in some])

    led = predicted(stamped(test.images[labels != target])) == target
    found = scan(model, seed=0)
    return {
        "accuracy": float((predicted(test.images) == labels).mean()),
        "asr": float(led.mean()),
        "target": target if planted else None,
        "verdict": found.verdict,
        "named": found.named,
        "confirmed": found.targets,
        "standings": sorted(
            ((one.standing, one.target) for one in found.classes if one.standing is not None),
            reverse=True,
        )[:3],
        "lines": len(found.summary().splitlines()),
        "queries": found.queries,
        "queries_by_stage": dict(found.cost.queries_by_stage),
        "seconds": round(found.cost.seconds["total"], 1),
        "training_seconds": seconds,
        "date": datetime.date.today().isoformat(),
        "device": device_name(),
        "versions": versions(),
    }


def table(rows: dict[str, Any]) -> str:
    """The results as Markdown."""
    one = next(iter(rows.values()))
    lines = [
        "# Ten, a hundred and a thousand classes",
        "",
        f"Made by `python benchmarks/many_classes.py` on {one['date']}; {one['device']}; "
        + ", ".join(f"{k} {v}" for k, v in one["versions"].items())
        + ". Networks of four convolutions, trained on 64x64 images that the package draws; "
        "default scan, seed 0, logits. Nothing was calibrated on such images, so that the "
        'strongest verdict is "suspicious". A *look* is all but recovering triggers.',
        "",
        "| network | accuracy | ASR of the patch | its class | verdict | named | confirmed "
        "| images | of these looks | lines printed | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: (int(item[0].split("/")[0]), item[0])):
        size, kind = name.split("/")
        looks = row["queries"] - row["queries_by_stage"].get("recovery", 0)
        lines.append(
            f"| {int(size):,} classes, {kind} | {row['accuracy']:.1%} | {row['asr']:.1%} | "
            f"{'-' if row['target'] is None else row['target']} | {row['verdict']} | "
            f"{', '.join(map(str, row['named'])) or '-'} | "
            f"{', '.join(map(str, row['confirmed'])) or '-'} | {row['queries']:,} | {looks:,} | "
            f"{row['lines']} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
