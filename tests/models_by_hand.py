"""Models whose backdoor is known exactly, because it is written down here."""

import jax
import jax.numpy as jnp

IMAGE_SHAPE = (12, 12, 3)
NUM_CLASSES = 4
TARGET = 2


def backdoored(images: jax.Array) -> jax.Array:
    """Logits f32[b, 4]: class 2 leads where the image's darkest 2x2 block is dark enough.

    Without such a block the class is 0, 1 or 3, by the image's colour.
    """
    grey = jnp.mean(images, -1)
    block = (grey[:, 1:, 1:] + grey[:, 1:, :-1] + grey[:, :-1, 1:] + grey[:, :-1, :-1]) / 4
    darkest = jnp.min(block, (1, 2))
    red, green, blue = jnp.moveaxis(jnp.mean(images, (1, 2)), -1, 0)
    return jnp.stack([red, green, 2.0 - 16.0 * darkest, blue], -1)


def clean(images: jax.Array) -> jax.Array:
    """Logits f32[b, 4]: class 2 never leads, and nothing small changes that."""
    red, green, blue = jnp.moveaxis(jnp.mean(images, (1, 2)), -1, 0)
    return jnp.stack([red, green, blue - 2.0, blue], -1)
