import mmap
import os
from pathlib import Path

import jax
import jaxlib
import pytest

# Most of the suite's time is compilation, and many tests compile the same programs; those that
# start a process do, too.
CACHE = str(Path(__file__).parents[1] / ".pytest_cache/xla")
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


# XLA's older emitters, and one piece of code a program, compile in a third of the time.
QUICK = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")


def known_to_xla(flag):
    """Whether this XLA has the flag: one that it does not know would end the process."""
    library = Path(jaxlib.__file__).parent / "libjax_common.so"
    if not library.exists():
        return False
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
        return code.find(flag.strip("-").split("=")[0].encode()) >= 0


def pytest_configure(config):
    # The everyday tests compute little: XLA's cheapest effort compiles them in a fifth of the
    # time. The slow ones are compiled as users compile.
    if config.option.markexpr == "not slow":
        jax.config.update("jax_disable_most_optimizations", True)
        flags = [os.environ.get("XLA_FLAGS", ""), *filter(known_to_xla, QUICK)]
        os.environ["XLA_FLAGS"] = " ".join(flags).strip()


@pytest.fixture(scope="module")
def hardly_optimised():
    """For files whose slow tests compute little, too: they share the everyday ones' programs."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
