"""Images just short of the target's side of a model's boundary, found with labels alone.

On the line from a probe of another class to an image of the target's class lies a place
where the label changes. Bisection finds it; a guide is the last image before it, or half as
close. Little leads a guide to the target, so it shows how close a trigger comes that leads
no probe at all.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.run import Run

Array = jax.Array


class Met(Protocol):
    """Who has met images of the class: a `ProbeFeed`, or a scan's pool."""

    def turned_away(self, target: int) -> Array:
        """f32[k, H, W, C]: the images met so far that the model gives class ``target``."""


STEPS = 6
SHARES = (1.0, 0.9)
"""How far along the way to the boundary guides lie."""


def guides(run: Run, target: int, probes: Array, feed: Met, number: int, most: int) -> Array | None:
    """Makes guides.

    Args:
      run: asks the model, and books it.
      target: the class.
      probes: f32[m, H, W, C], predicted as other classes.
      feed: has met the images that it turned away.
      number: how many guides, a multiple of len(SHARES).
      most: images that may be asked about.

    Returns:
      f32[number, H, W, C], the closest first; None if no image of the target's class has
      been met while probes were looked for, nor is one of a single plain colour, or ``most``
      is too few.
    """
    pairs = number // len(SHARES)
    if STEPS * pairs > most:
        return None
    inside = feed.turned_away(target)
    if not inside.shape[0] and STEPS * pairs + 2 ** probes.shape[-1] <= most:
        inside = _plain_images(run, target, probes.shape[1:])
    if not inside.shape[0]:
        return None
    starts = probes[jnp.arange(pairs) % probes.shape[0]]
    ends = inside[jnp.arange(pairs) % inside.shape[0]]
    low, high = np.zeros(pairs, np.float32), np.ones(pairs, np.float32)

    def between(shares: np.ndarray) -> Array:
        return starts + jnp.asarray(shares)[:, None, None, None] * (ends - starts)

    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        hits = run.labels(between(middle)) == target
        low, high = np.where(hits, low, middle), np.where(hits, middle, high)
    return jnp.concatenate([between(share * low) for share in SHARES])


def _plain_images(run: Run, target: int, image_shape: tuple[int, ...]) -> Array:
    """f32[k, H, W, C]: of the images of one extreme colour those of the target's class."""
    colours = np.stack(np.meshgrid(*[(0.0, 1.0)] * image_shape[-1]), -1).reshape(
        -1, 1, 1, image_shape[-1]
    )
    images = jnp.asarray(np.broadcast_to(colours, (len(colours), *image_shape)), jnp.float32)
    return images[run.labels(images) == target]
