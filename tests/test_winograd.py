"""Convolutions with fewer multiplications are the convolutions that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from restore_jax.models import make_network, winograd


@pytest.mark.parametrize(
    "shape", [(2, 8, 8, 5), (1, 7, 10, 3), (3, 1, 5, 4), (2, 3, 2, 1), (2, 13, 9, 4)]
)
def test_it_is_the_plain_convolution(shape):
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], shape)
    kernel = jax.random.normal(keys[1], (3, 3, shape[-1], 6))
    expected = lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )  # fmt: skip
    found = jax.jit(winograd.convolve)(x, winograd.transformed(kernel))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("shape", "outputs"),
    [((3, 8, 8, 5), 52), ((37, 7, 10, 3), 16), ((33, 5, 5, 50), 52), ((2, 12, 9, 50), 7),
     ((5, 6, 4, 16), 16)],
)  # fmt: skip
def test_its_gradients_are_those_of_the_plain_convolution(shape, outputs, stride):
    def plain(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST,
        )  # fmt: skip

    keys = jax.random.split(jax.random.key(2), 3)
    x = jax.random.normal(keys[0], shape)
    kernel = jax.random.normal(keys[1], (3, 3, shape[-1], outputs))

    def quick(x, kernel):
        return winograd.convolve_trained(x, kernel, stride)

    def with_gradients(convolve, x, kernel, along):
        outputs, pull = jax.vjp(convolve, x, kernel)
        return outputs, *pull(along)

    @jax.jit
    def both(x, kernel, along):
        return [with_gradients(convolve, x, kernel, along) for convolve in (quick, plain)]

    along = jax.random.normal(keys[2], jax.eval_shape(plain, x, kernel).shape)
    for a, b in zip(*both(x, kernel, along), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6 * float(jnp.abs(b).max()))


def test_a_kernel_comes_back():
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 4, 7))
    back = winograd.plain(winograd.transformed(kernel))
    np.testing.assert_allclose(back, kernel, atol=2e-6)


def test_a_folded_network_uses_it_where_channels_are_many(monkeypatch):
    network = make_network("resnet8", num_classes=5)
    params, stats = network.init(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (4, 32, 32, 3))
    folded = network.fold(params, stats)
    kernels = [leaf.ndim for leaf in jax.tree.leaves(folded) if leaf.ndim > 2]
    assert 3 in kernels
    assert 4 in kernels
    logits = jax.jit(network.apply_folded)(folded, images)
    monkeypatch.setattr(winograd, "FEWEST", 10**9)
    plain = network.fold(params, stats)
    assert all(leaf.ndim != 3 for leaf in jax.tree.leaves(plain))
    expected = jax.jit(network.apply_folded)(plain, images)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * float(jnp.abs(expected).max()))
