"""Compiled programs are kept for the next process, where the user's cache folder is; chunks."""

import os
import subprocess
import sys

import jax
import pytest

from restore_jax.compilation import chunk_size

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
