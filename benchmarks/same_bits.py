"""Whether recoveries are what they were, bit for bit.

    python benchmarks/same_bits.py [--record] [--only WORDS]

recovers triggers of the packaged model in many ways, and compares trigger, probability and number
of queries with ``results/same_bits.json``, or with ``--record`` writes them there. Digests hold for
one kind of processor and one version of JAX: record before a change, compare after it.
"""

import argparse
import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from restore_jax import Oracle, Recovery, Settings, open_model, recover
from restore_jax.compilation import keep_programs
from restore_jax.environment import device_name, versions

PATH = Path(__file__).parent / "results" / "same_bits.json"
CHUNK = 64


def digest(*arrays: Any) -> str:
    total = hashlib.blake2b(digest_size=12)
    for array in map(np.ascontiguousarray, arrays):
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def row(recovery: Recovery) -> dict[str, Any]:
    trigger = recovery.trigger
    return {
        "trigger": digest(trigger.mask, trigger.pattern, trigger.target, trigger.additive),
        "log10_prob": recovery.log10_prob,
        "queries": recovery.queries,
    }


@functools.cache
def inside(access: str) -> Oracle:
    return open_model("shipped", access)


def outside(access: str) -> Oracle:
    """The packaged model as a function that JAX cannot trace."""
    model = open_model("shipped", "logits")
    ask = jax.jit(lambda images: model.answer(model.weights, images))

    def from_host(images: Any) -> np.ndarray:
        answers = []
        for first in range(0, len(images), CHUNK):
            some = np.asarray(images[first : first + CHUNK], np.float32)
            padded = np.zeros((CHUNK, *model.image_shape), np.float32)
            padded[: len(some)] = some
            answers.append(np.asarray(ask(padded))[: len(some)])
        return np.concatenate(answers)

    return open_model(from_host, access, class_names=model.class_names)


def ways() -> Iterator[tuple[str, Callable[[], Recovery]]]:
    """The name of each recovery, and what makes it."""
    for access in ("logits", "probabilities", "labels"):
        for stop, seeds in (("first_hit", 1), ("estimate", int(access == "logits"))):
            for trigger in ("1", "2"):
                for seed in range(seeds):
                    how = {"trigger": trigger, "stop": stop, "seed": seed}
                    yield (
                        f"{access} {stop} trigger {trigger} seed {seed}",
                        lambda access=access, how=how: recover(inside(access), **how),
                    )
    for access in ("logits", "labels"):
        yield (
            f"host {access} first_hit",
            lambda access=access: recover(outside(access), 3, stop="first_hit", seed=1),
        )
    small = Settings(num_particles=32, max_levels=20)
    yield (
        "host logits estimate",
        lambda: recover(outside("logits"), 6, budget=12_000, settings=small),
    )
    for space, target, budget in (("sparse", 3, 45_000), ("gaussian", 6, 18_000)):
        how = {"protocol": "reference", "space": space, "budget": budget}
        yield f"reference {space}", lambda t=target, how=how: recover(inside("logits"), t, **how)
    how = {"space": "auto", "stop": "first_hit", "budget": 30_000}
    yield "auto absent class", lambda how=how: recover(inside("logits"), 1, **how)
    how = {"space": "scattered", "stop": "first_hit", "budget": 20_000}
    yield "scattered first_hit", lambda how=how: recover(inside("logits"), 3, **how)
    how = {"space": "stripes", "budget": 10_000}
    yield "stripes estimate", lambda how=how: recover(inside("logits"), 6, **how)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write what is found")
    parser.add_argument("--only", default="", help="ways whose names contain this")
    args = parser.parse_args()
    keep_programs()
    recorded = json.loads(PATH.read_text()) if PATH.exists() else {"found": {}}
    found, differ = {}, []
    for name, make in ways():
        if args.only not in name:
            continue
        began = time.perf_counter()
        found[name] = row(make())
        same = found[name] == recorded["found"].get(name)
        differ += [] if same else [name]
        print(f"{time.perf_counter() - began:6.1f} s  {'same' if same else 'OTHER'}  {name}",
              flush=True)  # fmt: skip
    if args.record:
        content = {"versions": versions(), "device": device_name(), "found": found}
        PATH.write_text(json.dumps(content, indent=1) + "\n")
        return 0
    print(f"{len(found) - len(differ)} of {len(found)} are the same, bit for bit")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
