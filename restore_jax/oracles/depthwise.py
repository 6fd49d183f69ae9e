"""Networks of others on a CPU: their depthwise convolutions as sums of shifted images.

XLA has a convolution of each channel by itself as one in groups, which a CPU works through number
by number. What a function computes is read off its trace, and each of these is replaced by as many
shifted images as its kernel has places, each times its weights, added up.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

Array = jax.Array
MOST_PLACES = 81
"""Of a kernel: a larger one would be a long program."""
_CONVOLUTION = "conv_general_dilated"
_CALLS = {
    "jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}  # fmt: skip
"""Primitives that only call what they hold, and under which name they hold it."""


def with_shifts(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose depthwise convolutions are sums, up to rounding; elsewhere than on a CPU
    as it is. It is not to be differentiated.

    >>> def blur(x):
    ...     kernel = jnp.ones((3, 3, 1, 2)) / 9
    ...     return lax.conv_general_dilated(
    ...         x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ...         feature_group_count=2)
    >>> float(with_shifts(blur)(jnp.ones((1, 4, 4, 2)))[0, 1, 1, 0])
    1.0
    """

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if jax.default_backend() != "cpu":
            return function(*args)
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        found = _evaluated(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return call


def _evaluated(jaxpr: Any, consts: list[Any], args: list[Any]) -> list[Any]:
    """What a jaxpr computes."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= dict(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if name == _CONVOLUTION and _is_depthwise(eqn):
            found = [_shifted(given[0], given[1], eqn)]
        elif name in _CALLS:
            inner = eqn.params[_CALLS[name]]
            found = _evaluated(getattr(inner, "jaxpr", inner), getattr(inner, "consts", []), given)
        else:
            # Before JAX 0.10 functions that a primitive calls were apart from its parameters.
            bound = eqn.primitive.get_bind_params(eqn.params)
            functions, params = bound if isinstance(bound, tuple) else ((), bound)
            with eqn.ctx.manager:
                found = eqn.primitive.bind(*functions, *given, **params)
            found = found if eqn.primitive.multiple_results else [found]
        values |= dict(zip(eqn.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _is_depthwise(eqn: Any) -> bool:
    """Whether a convolution is one of each channel by itself, of images, that `_shifted` can do."""
    images, kernel = (atom.aval for atom in eqn.invars)
    how = eqn.params
    places = how["dimension_numbers"]
    channels = images.shape[places.lhs_spec[1]]
    sides = [kernel.shape[axis] for axis in places.rhs_spec[2:]]
    return (
        images.ndim == 4
        and how["feature_group_count"] == channels == kernel.shape[places.rhs_spec[0]] > 1
        and how["batch_group_count"] == 1
        and all(dilation == 1 for dilation in how["lhs_dilation"])
        and min(min(pair) for pair in how["padding"]) >= 0
        and sides[0] * sides[1] <= MOST_PLACES
        and jnp.issubdtype(images.dtype, jnp.floating)
    )


def _shifted(images: Array, kernel: Array, eqn: Any) -> Array:
    """The convolution as a sum."""
    how, out = eqn.params, eqn.outvars[0].aval
    places = how["dimension_numbers"]
    images = jnp.transpose(images, [places.lhs_spec[k] for k in (0, 2, 3, 1)])
    kernel = jnp.transpose(kernel, [places.rhs_spec[k] for k in (2, 3, 1, 0)])[:, :, 0]
    rows, cols = (out.shape[axis] for axis in places.out_spec[2:])
    (down, right), (tall, wide) = how["window_strides"], how["rhs_dilation"]
    padded = jnp.pad(images, ((0, 0), *how["padding"], (0, 0)))
    total = jnp.zeros((), out.dtype)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            top, left = i * tall, j * wide
            total += (
                padded[
                    :,
                    top : top + down * (rows - 1) + 1 : down,
                    left : left + right * (cols - 1) + 1 : right,
                ]
                * kernel[i, j]
            )
    order = [0, 0, 0, 0]
    for place, axis in zip((0, 3, 1, 2), places.out_spec, strict=True):
        order[axis] = place
    return lax.convert_element_type(jnp.transpose(total, order), out.dtype)
