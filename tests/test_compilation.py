"""Compiled programs are kept for the next process, where the user's cache folder is; chunks."""

import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restore_jax import open_model
from restore_jax.compilation import chunk_size, cores, side_by_side

SCRIPT = """
import jax
from restore_jax.compilation import keep_programs
keep_programs()
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.mark.parametrize("named", [True, False])
def test_programs_are_kept_in_the_users_cache_folder_unless_one_is_set(tmp_path, named):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    if named:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "mine")
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    folder = tmp_path / ("mine" if named else "restore-jax")
    assert out.stdout.strip() == str(folder)
    if not named:
        assert folder.stat().st_mode & 0o077 == 0


def test_chunks_hold_about_as_many_pixels_whatever_the_size(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    shapes = [(16, 16, 3), (32, 32, 3), (28, 28, 1), (64, 64, 3), (128, 128, 3), (512, 512, 3)]
    assert [chunk_size(shape) for shape in shapes] == [128, 32, 32, 8, 2, 1]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chunk_size((32, 32, 3)) == 4096


def test_what_goes_side_by_side_comes_back_in_order_and_is_taken_only_when_it_begins():
    taken, at_once, lock, most = [], [0], threading.Lock(), [0]

    def things():
        for number in range(20):
            taken.append(number)
            yield number

    def call(number):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        # As many as there are cores have begun, and one more may wait its turn.
        assert len(taken) <= number + cores() + 2
        with lock:
            at_once[0] -= 1
        return number * 10

    assert side_by_side(call, things()) == [10 * number for number in range(20)]
    assert side_by_side(abs, range(-3, 0), first_alone=False) == [3, 2, 1]
    assert side_by_side(call, []) == []
    assert 1 <= most[0] <= cores()


@pytest.mark.parametrize("where", ["call", "given"])
def test_nothing_more_is_begun_once_something_raises(where):
    begun = []

    def things():
        for number in range(1_000):
            if where == "given" and number == 3:
                raise KeyboardInterrupt
            yield number

    def call(number):
        begun.append(number)
        if where == "call" and number == 3:
            raise ValueError
        return number

    with pytest.raises(ValueError if where == "call" else KeyboardInterrupt):
        side_by_side(call, things())
    assert len(begun) <= 5 + 2 * cores()


def test_what_a_thread_of_jax_does_not_know_goes_with_it():
    def strict(_):
        return jnp.log(jnp.float32(-1.0))

    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        side_by_side(lambda number: strict(number) if number else number, range(3))
    assert np.isnan(side_by_side(strict, range(2))).all()


def test_the_weights_of_a_checkpoint_are_bound_to_no_device():
    """Else a search's state is bound from its second level on, and its program compiled twice."""
    assert not any(leaf.committed for leaf in jax.tree.leaves(open_model("shipped").weights))
