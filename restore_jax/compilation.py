"""How the programs that run a network are compiled."""

import functools

import jax
import jax.numpy as jnp

# XLA:CPU gives convolutions to YNNPACK, which leaves those of few input channels, and most of
# the backward pass, to one core; XLA's own routine (Eigen) shares all of them out.
_EIGEN_CONVOLUTIONS: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}


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
