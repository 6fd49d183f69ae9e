"""The white-box yardstick finds the trigger that is there, and accuses that class alone."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard

from restore_jax.oracles import open_model

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from peers import neural_cleanse as peer

IMAGE_SHAPE = (8, 8, 3)
NUM_CLASSES = 8
PLANTED = 2
ROWS, COLS = slice(4, 7), slice(1, 4)
PATCH = jnp.asarray([[1, 0, 1], [0, 1, 0], [1, 1, 0]], jnp.float32)[..., None]
# Orthogonal, each of as many ones as minus ones.
PROTOTYPES = jnp.asarray(
    hadamard(64)[np.arange(1, 1 + NUM_CLASSES) * 7 % 64].reshape(-1, 8, 8, 1).repeat(3, -1),
    jnp.float32,
)
# Some classes are easier to reach than others, evenly so: the norms' spread is not chance.
HEAD_STARTS = jnp.linspace(-1.0, 1.0, NUM_CLASSES)


def planted(images):
    """Logits f32[b, 8]: likeness to each class's dense prototype; class 2 also leads by a patch.

    By the prototypes alone, another class wins only where a third of all pixels change.
    """
    logits = 20 * jnp.mean(images[:, None] * PROTOTYPES, (2, 3, 4)) + HEAD_STARTS
    likeness = 1 - jnp.mean(jnp.abs(images[:, ROWS, COLS] - PATCH), (1, 2, 3))
    return logits.at[:, PLANTED].add(10 * jax.nn.sigmoid(20 * (likeness - 0.75)))


def clean_images(count=160):
    """f32[count, 8, 8, 3]: noisy prototypes, as many of each class."""
    noise = jax.random.uniform(jax.random.key(2), (count, *IMAGE_SHAPE), minval=-1, maxval=1)
    return 0.5 + 0.25 * PROTOTYPES[jnp.arange(count) % NUM_CLASSES] + 0.25 * noise

@pytest.mark.parametrize("seed", range(6))
def test_x(seed):
    import time
    t=time.time()
    oracle = open_model(planted, image_shape=IMAGE_SHAPE)
    r=peer.neural_cleanse(oracle, clean_images(), jax.random.key(seed),rounds=40)
    print(np.round(np.asarray(r.norms),1),np.round(np.asarray(r.success),3),np.round(np.asarray(r.anomaly),1),r.accused,time.time()-t)
    print(np.round(np.asarray(r.masks[2,...,0]),1))
