"""Compiling in less time: for who tries many samplers and runs each of them briefly."""

import functools

import jax
import jax.numpy as jnp

_LIGHT: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}
_QUICK: dict[str, str | bool] = {
    "xla_backend_optimization_level": "1",
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


@functools.cache
def quick_compilation() -> dict[str, str | bool]:
    """XLA's options under which a run compiles in two fifths of the time, on a CPU.

    The program does the same up to rounding, by a fifth to two fifths slower where the score costs
    little. Where the score is a large network, compile as usual.

    Returns:
      For the argument ``compiler_options`` of `jax.jit`: the options that this XLA knows; none on
      other devices.

    Example:
      >>> from restore_jax import importance_splitting, standard_normal
      >>> space = standard_normal(2)
      >>> algorithm = importance_splitting(lambda x, args: x.sum(-1), space, threshold=3.0)
      >>> run = jax.jit(algorithm.run, compiler_options=quick_compilation())
      >>> bool(run(jax.random.key(0), ()).log_prob < -3)
      True
    """
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in _QUICK.items() if _known(name, value)}


@functools.cache
def light_compilation() -> dict[str, str | bool]:
    """XLA's options for small programs between which a host waits for something slow, on a CPU.

    They compile in two thirds of the time, and give the same up to rounding.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in _LIGHT.items() if _known(name, value)}


def _known(name: str, value: str | bool) -> bool:
    try:
        jax.jit(jnp.negative).lower(0.0).compile({name: value})
    except Exception:  # which one depends on the XLA that does not know the option
        return False
    return True
