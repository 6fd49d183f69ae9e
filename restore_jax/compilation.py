"""How the programs that run a network are compiled, and where they are kept."""

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

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


@functools.cache
def compiler_options() -> dict[str, str | bool]:
    """XLA's options for a network's programs, for `jax.jit` or ``Lowered.compile``.

    Returns:
      Options that pay on this backend and that this XLA knows; there may be none.
    """
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(jnp.negative).lower(0.0).compile(_EIGEN_CONVOLUTIONS)
    except Exception:  # which one depends on the XLA that does not know the option
        return {}
    return dict(_EIGEN_CONVOLUTIONS)


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
