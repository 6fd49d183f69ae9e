"""A run on several devices, of one process or two; called by test_splitting_devices.py.

    python devices_by_hand.py DEVICES [PROCESS PORT]

prints one JSON object: what runs over meshes of 1, 2, ... DEVICES found.
"""

import json
import sys

import jax
import numpy as np

DEVICES = int(sys.argv[1])
TWO_PROCESSES = len(sys.argv) > 2
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", DEVICES // 2 if TWO_PROCESSES else DEVICES)
if TWO_PROCESSES:
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[3]}", 2, int(sys.argv[2]))

from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402
from splitting_problems import (  # noqa: E402
    coins_space,
    heads,
    heads_args,
    linear_score,
    quick_jit,
)

from restore_jax.splitting import count, importance_splitting, standard_normal  # noqa: E402

OPTIONS = {"num_particles": 160, "num_moves": 9, "max_levels": 40}


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        if equation.primitive.name == "jit":
            yield from primitives(equation.params["jaxpr"].jaxpr)


def found(score, space, args, sharding, **options):
    algorithm = importance_splitting(score, space, sharding=sharding, **{**OPTIONS, **options})
    key = jax.random.key(0)
    result = quick_jit(algorithm.run)(key, args)
    whiles = list(primitives(jax.make_jaxpr(algorithm.run)(key, args).jaxpr)).count("while")
    mine = [np.asarray(piece.data) for piece in result.particles.addressable_shards]
    return {
        "whiles": whiles,
        "queries": count(result),
        "log_prob": float(result.log_prob),
        "log_prob_std": float(result.log_prob_std),
        "levels": np.asarray(result.levels)[: int(result.num_levels)].tolist(),
        "pieces": [piece.tolist() for piece in mine],
    }


def main():
    report = {}
    for number in [DEVICES] if TWO_PROCESSES else [0, 1, 2, DEVICES]:
        sharding = None
        if number:
            mesh = Mesh(np.array(jax.devices()[:number]), ("particles",))
            sharding = NamedSharding(mesh, PartitionSpec("particles"))
        report[number] = {
            "coins": found(heads, coins_space(12), heads_args(11), sharding),
            "clones": found(
                heads, coins_space(12), heads_args(11), sharding, moving="clones",
                survival=0.75, num_moves=5,
            ),
        }  # fmt: skip
        if number in (0, DEVICES):
            score, space = linear_score, standard_normal(3)
            report[number]["normal"] = found(score, space, np.float32(4.0), sharding)
    print(json.dumps(report))


main()
