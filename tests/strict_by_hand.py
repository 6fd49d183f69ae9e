"""A sampler and a recovery under one of JAX's strict settings; called by test_strict.py.

python strict_by_hand.py SETTING VALUE
"""

import sys

import jax

SETTING, VALUE = sys.argv[1:]
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update(SETTING, VALUE if VALUE == "raise" else VALUE == "on")

import jax.numpy as jnp  # noqa: E402
from models_by_hand import IMAGE_SHAPE, TARGET, backdoored  # noqa: E402

from restore_jax import (  # noqa: E402
    Settings,
    importance_splitting,
    open_model,
    recover,
    standard_normal,
    uniform_box,
)

SMALL = {"num_particles": 40, "num_moves": 3, "max_levels": 6}


def sampler():
    for space in (standard_normal(3), uniform_box(jnp.zeros(3), jnp.ones(3))):
        algorithm = importance_splitting(lambda x, args: x.sum(-1), space, threshold=2.0, **SMALL)
        with jax.debug_nans(False):  # as docs/sampler.md says: what is not known is NaN
            result = jax.jit(algorithm.run)(jax.random.key(0), ())
        assert result.scores.dtype == result.log_prob.dtype == jnp.float32


def recovery():
    settings = Settings(num_probes=4, num_particles=16, num_moves=2, options={"max_size": 3})
    model = open_model(backdoored, image_shape=IMAGE_SHAPE, class_names=tuple("abcd"))
    found = recover(model, TARGET, settings=settings, budget=4_000)
    assert found.queries <= 4_000


sampler()
recovery()
print("fine")
