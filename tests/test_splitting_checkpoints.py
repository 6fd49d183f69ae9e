"""Runs on disk: what is killed goes on bit for bit, what does not fit is refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from splitting_problems import all_move, gaussian_space, linear_score

from restore_jax.splitting import (
    RunError,
    Scorer,
    host_driven,
    load,
    merge,
    run_with_checkpoints,
    save,
)
from restore_jax.splitting.checkpoints import GENERATIONS

# As the processes that these tests start.
pytestmark = pytest.mark.usefixtures("hardly_optimised")

HERE = Path(__file__).parent
PROGRAM = """
import sys, jax
from splitting_problems import all_move, gaussian_space, linear_score
from restore_jax.splitting import run_with_checkpoints
jax.config.update("jax_disable_most_optimizations", True)
algorithm = all_move(linear_score, gaussian_space(2), threshold=5.0, keep=True)
run_with_checkpoints(algorithm, jax.random.key(0), 0.0, sys.argv[1],
                     on_level=lambda info: print(int(info.index), flush=True))
"""


def build(**options):
    return all_move(linear_score, gaussian_space(2), **{"threshold": 5.0, "keep": True} | options)


def same(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f") for a, b in leaves)


@pytest.fixture(scope="module")
def whole():
    return jax.jit(build().run)(jax.random.key(0), 0.0)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A finished run's folder."""
    folder = tmp_path_factory.mktemp("run")
    run_with_checkpoints(build(), jax.random.key(0), 0.0, folder)
    return folder


def started(folder):
    environment = os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_what_comes_out_is_one_runs_result_bit_for_bit(begun, whole):
    again = run_with_checkpoints(build(), jax.random.key(0), 0.0, begun)
    assert same(again, whole)
    assert len([child for child in begun.iterdir() if child.name.isdigit()]) == GENERATIONS


def killed_again_and_again(folder, kills, seed):
    """Kills a run at random moments until that many kills have hit; returns how many did."""
    moments, hits = np.random.default_rng(seed), 0
    for _ in range(kills):
        process = started(folder)
        first = process.stdout.readline()
        time.sleep(float(moments.uniform(0.0, 0.4)))
        process.kill()
        process.wait()
        hits += bool(first) and process.returncode == -signal.SIGKILL
    return hits


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, whole):
    killed_again_and_again(tmp_path, 1, 0)
    assert same(run_with_checkpoints(build(), jax.random.key(0), 0.0, tmp_path), whole)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [5, pytest.param(30, id="full")])
def test_a_run_killed_many_times_goes_on_bit_for_bit(tmp_path, kills, hardly_optimised, whole):
    # Once a run is whole it has nothing left to kill: a few runs, each in a folder of its own.
    hits, number = 0, 0
    while hits < kills and number < kills:
        folder = tmp_path / str(number)
        hits += killed_again_and_again(folder, 3, number)
        found = run_with_checkpoints(build(), jax.random.key(0), 0.0, folder)
        assert same(found, whole)
        number += 1
    assert hits >= kills


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_what_it_has_saved(tmp_path, number, hardly_optimised, whole):
    process = started(tmp_path)
    process.stdout.readline()
    process.send_signal(number)
    process.communicate()
    if process.returncode != 0:  # it may just have been done
        assert process.returncode in (1, 130, -signal.SIGINT, 128 + signal.SIGTERM)
    assert int(load(tmp_path, build()).index) >= 1
    assert same(run_with_checkpoints(build(), jax.random.key(0), 0.0, tmp_path), whole)


def test_of_a_damaged_state_the_one_before_is_taken(tmp_path, whole):
    algorithm = build()
    states = [algorithm.init(jax.random.key(0), 0.0)]
    for _ in range(2):
        states.append(algorithm.step(states[-1], 0.0)[0])
        save(states[-1], tmp_path, algorithm)
    assert int(load(tmp_path, algorithm).index) == 2
    # Of some of them a part is never read.
    for path in (tmp_path / "2" / "state").rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    assert int(load(tmp_path, algorithm).index) == 1
    for path in (tmp_path / "1" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(RunError, match="all that was saved"):
        load(tmp_path, algorithm)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 4.0}, "threshold differs"),
        ({"survival": 0.25}, "rank differs"),
        ({"num_moves": 3}, "num_moves differs"),
        ({"keep": False}, "keep differs"),
    ],
)
def test_another_algorithm_is_refused(begun, options, message):
    with pytest.raises(RunError, match=message):
        load(begun, build(**options))


def test_another_space_is_refused(begun):
    other = all_move(linear_score, gaussian_space(3), threshold=5.0, keep=True)
    with pytest.raises(RunError, match="of another algorithm"):
        load(begun, other)


def test_another_key_or_args_are_refused(begun):
    for key, args, name in ((1, 0.0, "key"), (0, 0.5, "args")):
        with pytest.raises(RunError, match=f"begun with other {name}"):
            run_with_checkpoints(build(), jax.random.key(key), args, begun)


def test_nothing_saved_is_said(tmp_path):
    with pytest.raises(RunError, match="there is no saved run in"):
        load(tmp_path / "nowhere", build())


def test_a_vmapped_state_is_refused(tmp_path):
    states = jax.vmap(build().init, (0, None))(jax.random.split(jax.random.key(0), 2), 0.0)
    with pytest.raises(RunError, match="one lane"):
        save(states, tmp_path, build())


def test_saved_runs_are_merged(begun):
    merged = merge([build().result(load(begun, build())) for _ in range(2)])
    assert merged.num_runs == 2
    assert np.isfinite(merged.log_prob)


def test_a_score_on_the_host_is_saved_as_well(tmp_path):
    score = Scorer(lambda key, x, level, active, args: (x[:, 0], active.sum()), 1)
    algorithm = host_driven(score, gaussian_space(1), num_particles=40, num_moves=3, threshold=2.0)
    whole = algorithm.run(jax.random.key(0), ())
    saved = run_with_checkpoints(algorithm, jax.random.key(0), (), tmp_path, every_levels=2)
    assert same(saved, whole)
    assert jnp.isfinite(saved.log_prob)
