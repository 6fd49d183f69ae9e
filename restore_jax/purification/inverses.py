"""Triggers that fill the image, taken back: each kind's inverse, as far as there is one."""

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import Trigger
from restore_jax.backdoors.changes import moved, with_residual

Array = jax.Array
FEW = 0.03
"""Of an additive trigger whose energy lies in less than this share of frequencies they are taken
out of an image: it works at any phase."""


def subtract(trigger: Trigger, images: Array) -> Array:
    """Images f32[b, H, W, C] with a dense trigger taken back, in [0, 1].

    An image blended in is blended out. Of an additive trigger that is a wave, or a few, those
    frequencies and their neighbours are taken out, since it leads as well at another phase, and
    one nearby may have been planted; any other is subtracted. A warp is done backwards, a filter
    inverted, rounding smoothed over.

    >>> import jax.numpy as jnp
    >>> grey = Trigger(jnp.full((4, 4, 1), 0.5), jnp.ones((4, 4, 3)), jnp.int32(0))
    >>> blended = 0.5 * jnp.full((1, 4, 4, 3), 0.25) + 0.5
    >>> float(subtract(grey, blended).max())
    0.25
    """
    if trigger.changes_all:
        return _undone(trigger, images)
    if not trigger.additive:
        left = jnp.maximum(1.0 - trigger.mask, 1e-3)
        return jnp.clip((images - trigger.mask * trigger.pattern) / left, 0.0, 1.0)
    change = np.asarray(trigger.mask * trigger.pattern).mean(-1)
    power = np.square(np.abs(np.fft.fft2(change)))
    power[0, 0] = 0.0  # the brightness stays
    carried = power >= 0.05 * max(power.max(), 1e-30)
    if carried.mean() > FEW:
        return jnp.clip(images - trigger.mask * trigger.pattern, 0.0, 1.0)
    # What was planted may be the next frequency, or the next slant.
    shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    carried = np.any([np.roll(carried, shift, (0, 1)) for shift in shifts], 0)
    carried[0, 0] = False
    kept = jnp.asarray(~carried, jnp.float32)[..., None]
    through = jnp.fft.ifft2(jnp.fft.fft2(images, axes=(1, 2)) * kept, axes=(1, 2))
    return jnp.clip(jnp.real(through), 0.0, 1.0)


def _undone(trigger: Trigger, images: Array) -> Array:
    """Images with what changes them as a whole taken back, as far as that can be."""
    if trigger.residual is not None:
        images = jnp.clip(2.0 * images - with_residual(images, trigger.residual), 0.0, 1.0)
    if np.asarray(trigger.mask).any():
        plain = Trigger(trigger.mask, trigger.pattern, trigger.target, trigger.additive)
        images = subtract(plain, images)
    if trigger.rounding is not None:
        images = smoothed(images)
    if trigger.colouring is not None:
        colouring = trigger.colouring
        back = jnp.linalg.pinv(colouring.matrix, rtol=0.05)
        images = jnp.clip((images - colouring.shift) @ back, 0.0, 1.0) ** (1.0 / colouring.gamma)
    if trigger.flow is not None:
        images = moved(images, -trigger.flow)
    return images


def smoothed(images: Array) -> Array:
    """The mean of the three by three pixels around each, which has other levels again."""
    around = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    some = [around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.mean(jnp.stack(some), 0)
