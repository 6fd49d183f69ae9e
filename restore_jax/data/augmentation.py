"""Augmentation of a training batch, on the device."""

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def flip_schedule(key: Array, n: int, epoch: Array) -> Array:
    """bool[n]: which images to mirror in this epoch.

    A coin per image decides the first epoch, and it alternates from then on, so that each
    image is seen both ways in any two epochs (Jordan 2024, arXiv 2404.00498, section 3.6).
    """
    return jax.random.bernoulli(key, shape=(n,)) ^ (epoch % 2 == 1)


def augment(key: Array, images: Array, flip: Array, translate: int) -> Array:
    """Mirrors and shifts images.

    Args:
      key: for the shifts.
      images: f32[b, H, W, C].
      flip: bool[b], which to mirror.
      translate: the largest shift in pixels, up, down, left and right; what comes in from
        outside is the image reflected.

    Returns:
      f32[b, H, W, C].
    """
    images = jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
    if translate == 0:
        return images
    batch, height, width, channels = images.shape
    around = (translate, translate)
    padded = jnp.pad(images, ((0, 0), around, around, (0, 0)), mode="reflect")
    offsets = jax.random.randint(key, (batch, 2), 0, 2 * translate + 1)

    def crop(image: Array, offset: Array) -> Array:
        return lax.dynamic_slice(image, (offset[0], offset[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, offsets)
