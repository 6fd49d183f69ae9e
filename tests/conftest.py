import mmap
import os
from pathlib import Path

import jax
import jaxlib
import pytest


def configure(name, value):
    """Sets one of JAX's options here and in the processes that tests start."""
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)


# Most of the suite's time is compilation, and many tests compile the same programs; those that
# start a process do, too.
configure("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache/xla"))
configure("jax_persistent_cache_min_compile_time_secs", 0.0)
# Programs without line numbers are made in four fifths of the time, and do the same.
configure("jax_traceback_in_locations_limit", 0)

# By XLA's older emitters, in one piece, programs that are hardly optimised are compiled in a third
# of the time, and others in about the same. All tests do so, and so share programs.
QUICK = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")


def known_to_xla(flag):
    """Whether this XLA has the flag: one that it does not know would end the process."""
    library = Path(jaxlib.__file__).parent / "libjax_common.so"
    if not library.exists():
        return False
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
        return code.find(flag.strip("-").split("=")[0].encode()) >= 0


def pytest_configure(config):
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags += [flag for flag in QUICK if flag not in flags and known_to_xla(flag)]
    os.environ["XLA_FLAGS"] = " ".join(flags)
    # The everyday tests compute little: programs that XLA hardly optimises are made in a fifth of
    # the time. Those of the slow ones are optimised as users' are.
    if config.option.markexpr == "not slow":
        configure("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def hardly_optimised():
    """For files whose slow tests compute little, too: they share the everyday ones' programs."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
