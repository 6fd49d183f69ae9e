import os
from pathlib import Path

import jax
import pytest

# Most of the suite's time is compilation, and many tests compile the same programs; those that
# start a process do, too.
CACHE = str(Path(__file__).parents[1] / ".pytest_cache/xla")
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_configure(config):
    # The everyday tests compute little: XLA's cheapest effort compiles them in two thirds of the
    # time. The slow ones are compiled as users compile.
    if config.option.markexpr == "not slow":
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def hardly_optimised():
    """For files whose slow tests compute little, too: they share the everyday ones' programs."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
