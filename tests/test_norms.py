"""Batch norm with its gradient written out is Flax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from restore_jax.models.norms import TrainedNorm


def with_gradients(kind, images, scale, bias, along):
    """Gradients of the sum of outputs times ``along``; outputs; running statistics after."""

    @jax.jit
    def run(*given):
        def total(images, scale, bias):
            norm = kind(images.shape[-1], momentum=0.9, epsilon=1e-5, rngs=nnx.Rngs(0))
            norm.scale[...], norm.bias[...] = scale, bias
            outputs = norm(images, use_running_average=False)
            after = (norm.mean[...], norm.var[...])
            return jnp.vdot(nnx.relu(outputs), along), (outputs, after)

        return jax.grad(total, (0, 1, 2), has_aux=True)(*given)

    return run(images, scale, bias)


@pytest.mark.parametrize("shape", [(25, 8, 8, 16), (7, 5, 3, 2), (1, 64, 64, 48)])
def test_it_is_flax_batch_norm(shape):
    keys = jax.random.split(jax.random.key(0), 4)
    images, along = (jax.random.normal(key, shape) * 2 + 1 for key in keys[:2])
    scale, bias = (jax.random.normal(key, shape[-1:]) for key in keys[2:])
    found, wanted = (
        with_gradients(kind, images, scale, bias, along) for kind in (TrainedNorm, nnx.BatchNorm)
    )
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    for one, other in leaves:
        size = float(jnp.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * size)


def test_running_statistics_are_used_as_they_are():
    images = jax.random.normal(jax.random.key(0), (3, 4, 4, 2)) + 5
    norms = [kind(2, epsilon=1e-5, rngs=nnx.Rngs(0)) for kind in (TrainedNorm, nnx.BatchNorm)]
    for norm in norms:
        norm.mean[...], norm.var[...] = jnp.array([4.0, 5.0]), jnp.array([2.0, 0.5])
    found, wanted = (norm(images, use_running_average=True) for norm in norms)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_statistics_of_half_precision_are_those_of_the_numbers():
    images = (jax.random.normal(jax.random.key(0), (40, 16, 16, 2)) + 3).astype(jnp.bfloat16)
    norm = TrainedNorm(2, momentum=0.0, epsilon=1e-5, rngs=nnx.Rngs(0))
    assert norm(images, use_running_average=False).dtype == jnp.bfloat16
    numbers = np.asarray(images, np.float64)
    np.testing.assert_allclose(norm.mean[...], numbers.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(norm.var[...], numbers.var((0, 1, 2)), rtol=1e-3)
