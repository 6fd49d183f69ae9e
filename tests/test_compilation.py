"""Compiled programs are kept for the next process, where the user's cache folder is."""

import os
import subprocess
import sys

import pytest

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
