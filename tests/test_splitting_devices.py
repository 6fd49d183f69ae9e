"""Particles laid over devices, of one process or of two: the run is the same."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from splitting_problems import all_move, gaussian_space, linear_score

SCRIPT = Path(__file__).with_name("devices_by_hand.py")


def started(*words):
    kept = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=kept,
    )  # fmt: skip


def report(process):
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def alone():
    return report(started(8))


def rows(run):
    return np.concatenate([np.asarray(piece) for piece in run["pieces"]])


@pytest.mark.slow
@pytest.mark.parametrize("number", ["1", "2", "8"])
def test_one_two_or_eight_devices_make_no_difference(alone, number):
    for problem in ("coins", "clones"):
        one, many = alone["0"][problem], alone[number][problem]
        assert len(many["pieces"]) == int(number)
        assert many["whiles"] == 1
        for field in ("queries", "log_prob", "levels"):
            assert many[field] == one[field], field
        np.testing.assert_array_equal(rows(many), rows(one))
        # A sum over particles, whose order is free.
        assert many["log_prob_std"] == pytest.approx(one["log_prob_std"], rel=1e-5)


@pytest.mark.slow
def test_what_is_learned_from_all_particles_is_learned_over_devices_too(alone):
    one, many = alone["0"]["normal"], alone["8"]["normal"]
    # A sum of floats, whose order is free.
    assert many["log_prob"] == pytest.approx(one["log_prob"], abs=4 * one["log_prob_std"])


@pytest.mark.slow
@pytest.mark.full
def test_two_processes_find_what_one_does(alone):
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    runs = [report(p) for p in [started(4, process, port) for process in (0, 1)]]
    for problem in ("coins", "clones"):
        one = alone["0"][problem]
        for run in runs:
            assert len(run["4"][problem]["pieces"]) == 2, "a half of the particles each"
            for field in ("queries", "log_prob", "levels"):
                assert run["4"][problem][field] == one[field], field
        both = np.concatenate([rows(run["4"][problem]) for run in runs])
        np.testing.assert_array_equal(both, rows(one))
    normal = [run["4"]["normal"]["log_prob"] for run in runs]
    assert normal[0] == normal[1]


def test_devices_that_do_not_divide_the_particles_are_refused():
    class Three:
        num_devices = 3

    with pytest.raises(ValueError, match=r"^the 3 devices of sharding must divide both"):
        all_move(linear_score, gaussian_space(2), num_particles=8, sharding=Three())


def test_a_mesh_of_one_device_is_a_mesh():
    import jax

    sharding = NamedSharding(Mesh(np.array(jax.devices()[:1]), ("particles",)), PartitionSpec())
    algorithm = all_move(linear_score, gaussian_space(2), num_particles=8, sharding=sharding)
    state = jax.jit(algorithm.init)(jax.random.key(0), 0.0)
    assert state.scores.shape == (8,)
