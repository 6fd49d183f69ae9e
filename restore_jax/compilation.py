"""How the programs that run a network are compiled, and where they are kept."""

import collections
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp

Given = TypeVar("Given")
Made = TypeVar("Made")

OF_A_THREAD = "jax_debug_nans"
"""A setting of JAX that other threads do not know of."""

# XLA:CPU gives convolutions to YNNPACK, which leaves those of few input channels, and most of
# the backward pass, to one core; XLA's own routine (Eigen) shares all of them out.
_EIGEN_CONVOLUTIONS: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}


_COMPILING = (
    "/jax/core/compile/backend_compile_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
)
_seconds = 0.0


def _count(event: str, duration_secs: float, **_: str | int) -> None:
    global _seconds
    if event in _COMPILING:
        _seconds += duration_secs


jax.monitoring.register_event_duration_secs_listener(_count)


def compiling_seconds() -> float:
    """Seconds that this process has spent compiling, by JAX's own clock."""
    return _seconds


_ONE_CORE: dict[str, str | bool] = {"xla_cpu_multi_thread_eigen": False}
# Neither sums whose order is free nor a routine chosen by timing.
_DETERMINISTIC: dict[str, str | bool] = {"xla_gpu_deterministic_ops": True}


@functools.cache
def compiler_options(one_core: bool = False, deterministic: bool = False) -> dict[str, str | bool]:
    """XLA's options for a network's programs, for `jax.jit` or ``Lowered.compile``.

    Args:
      one_core: whether the program shall keep to one core, because others run beside it.
      deterministic: whether a GPU shall give the same bits each time; a CPU does anyway.

    Returns:
      Options that pay on this backend and that this XLA knows; there may be none.
    """
    if jax.default_backend() == "cpu":
        wanted = _EIGEN_CONVOLUTIONS | (_ONE_CORE if one_core else {})
    else:
        wanted = _DETERMINISTIC if deterministic else {}
    return {name: value for name, value in wanted.items() if _known(name, value)}


def _known(name: str, value: str | bool) -> bool:
    """Whether this XLA knows an option."""
    try:
        jax.jit(jnp.negative).lower(0.0).compile({name: value})
    except Exception:  # which one depends on the XLA that does not know it
        return False
    return True


def cores() -> int:
    """How many cores this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return allowed or 1


def chunk_size(image_shape: tuple[int, ...]) -> int:
    """How many images [H, W, C] a network is best shown at once, a power of two.

    On a CPU so few that what the network makes of them stays in the cache: 32 of 32x32 pixels,
    8 of 64x64. On a GPU so many that it is kept busy.
    """
    of_32 = 32 if jax.default_backend() == "cpu" else 4096
    pixels = image_shape[0] * image_shape[1]
    return 2 ** max(0, round(math.log2(of_32 * 32 * 32 / pixels)))


def in_chunks(function: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
    """A network's outputs f32[b, K] of images f32[b, H, W, C], `chunk_size` of them at a time."""
    size, number = chunk_size(images.shape[1:]), images.shape[0]
    if number <= size:
        return function(images)
    padded = jnp.pad(images, ((0, -number % size), (0, 0), (0, 0), (0, 0)))
    outputs = jax.lax.map(function, padded.reshape(-1, size, *images.shape[1:]))
    return outputs.reshape(-1, *outputs.shape[2:])[:number]


def side_by_side(
    call: Callable[[Given], Made], given: Iterable[Given], first_alone: bool = True
) -> list[Made]:
    """What a compiled program makes of each of several things, as many at once as there are cores.

    On a GPU, which has one queue, they take turns.

    Args:
      call: asks the program, and waits for its answer.
      given: what it is called with, in order; each is taken from there before it is begun.
      first_alone: whether the others wait for the first one, so that a program that was never
        called is compiled once, in this thread.

    Returns:
      The answers, in order. If one of them or ``given`` raises, what has not begun is not begun.

    Example:
      >>> side_by_side(lambda number: number**2, range(4))
      [0, 1, 4, 9]
    """
    things = iter(given)
    made = [call(thing) for thing in itertools.islice(things, 1 if first_alone else 0)]
    strict = bool(getattr(jax.config, OF_A_THREAD))

    def beside(thing: Given) -> Made:
        with jax.debug_nans(strict):
            return call(thing)

    most = cores() if jax.default_backend() == "cpu" else 1
    workers, begun = ThreadPoolExecutor(most), collections.deque[Future[Made]]()
    try:
        for thing in things:
            begun.append(workers.submit(beside, thing))
            if len(begun) > most:
                made.append(begun.popleft().result())
        return [*made, *(one.result() for one in begun)]
    finally:
        workers.shutdown(cancel_futures=True)


def keep_programs() -> None:
    """Keeps compiled programs in the user's cache folder, for the next process.

    ``$XDG_CACHE_HOME/restore-jax`` or ``~/.cache/restore-jax``, readable by the user alone: who
    writes there decides what is run. JAX writes each program beside its place and renames it, so
    that several processes may share the folder. A folder that is set already (in JAX's
    configuration, ``JAX_COMPILATION_CACHE_DIR``) stays; without a folder that can be written
    nothing is kept.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "restore-jax"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return
    if os.access(folder, os.W_OK | os.X_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # A command compiles some hundred small programs besides, seconds in all.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
