"""JAX's strict settings change nothing that matters: the sampler and a recovery still work."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "setting",
    [
        "jax_enable_x64",
        pytest.param("jax_check_tracer_leaks", marks=pytest.mark.slow),
    ],
)
def test_a_strict_setting_changes_nothing_that_matters(setting):
    done = subprocess.run(
        [sys.executable, str(HERE / "strict_by_hand.py"), setting],
        capture_output=True, text=True, timeout=900, cwd=HERE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "fine"
