"""Depthwise convolutions of others' networks, as sums: what XLA's own convolution says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from restore_jax.oracles import depthwise
from restore_jax.oracles.depthwise import with_shifts

C = 3


def convolution(x, kernel, stride=1, padding="SAME", layout="NHWC", dilation=1, groups=C):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, rhs_dilation=(dilation, dilation),
        dimension_numbers=(layout, "HWIO", layout), feature_group_count=groups,
    )  # fmt: skip


def primitives(jaxpr):
    """The names of all primitives, within calls, too."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from primitives(inner)


def has_groups(function, *args):
    return "conv_general_dilated" in set(primitives(jax.make_jaxpr(function)(*args).jaxpr))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"stride": 2},
        {"stride": 2, "padding": ((0, 1), (0, 1))},
        {"padding": "VALID", "dilation": 2},
        {"layout": "NCHW", "stride": 2},
    ],
)
@pytest.mark.parametrize("side", [3, 5])
def test_a_sum_of_shifted_images_is_the_convolution(how, side):
    rng = np.random.default_rng(side)
    shape = (2, C, 11, 13) if how.get("layout") == "NCHW" else (2, 11, 13, C)
    x, kernel = rng.normal(size=shape), rng.normal(size=(side, side, 1, C))
    args = np.float32(x), np.float32(kernel)
    call = functools.partial(convolution, **how)
    np.testing.assert_allclose(with_shifts(call)(*args), call(*args), rtol=2e-5, atol=2e-5)
    assert has_groups(call, *args)
    assert not has_groups(with_shifts(call), *args)


def test_within_calls_it_is_replaced_and_everything_else_stays(monkeypatch):
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 1, C)), jnp.float32)

    @jax.jit
    def block(x):
        return jax.nn.silu(jax.nn.relu6(convolution(x, kernel)))

    def network(weights, x):
        plain = convolution(block(x), weights["mixing"], groups=1)
        _, total = lax.scan(lambda carry, row: (carry, row.sum()), 0.0, plain)
        return {"total": total, "first": plain[:, 0, 0]}

    rng = np.random.default_rng(1)
    weights = {"mixing": np.float32(rng.normal(size=(1, 1, C, 4)))}
    x = np.float32(rng.normal(size=(2, 8, 8, C)))
    usual, found = network(weights, x), jax.jit(with_shifts(network))(weights, x)
    assert usual.keys() == found.keys()
    for name, value in usual.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)
    # One convolution is left, that which mixes channels.
    names = list(primitives(jax.make_jaxpr(with_shifts(network))(weights, x).jaxpr))
    assert names.count("conv_general_dilated") == 1
    monkeypatch.setattr(depthwise, "MOST_PLACES", 4)
    names = list(primitives(jax.make_jaxpr(with_shifts(network))(weights, x).jaxpr))
    assert names.count("conv_general_dilated") == 2
