"""The looks that a guard may take at a suspicious image: ``images f32[b, H, W, C] -> the same``.

*Views* are the image again, changed so that an honest answer stays: mirrored, moved by a pixel,
its windows painted over. A trigger is often learned to the pixel, while the model was trained to
know an honest image mirrored and moved as well. *Transplants* are what stands out in it, on a probe
of another class: a trigger leads the probe, wherever it lies, and a piece of a real cat does not.

Sources: Sarkar et al., "Backdoor suppression in neural networks using input fuzzing and majority
voting" (2020); Li et al., "Rethinking the trigger of backdoor attack" (2020), whose defence mirrors
and shrinks images; Qiu et al., "DeepSweep" (AsiaCCS 2021); Gao et al., "STRIP" (ACSAC 2019), which
superimposes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.purification.windows import stand_out

Array = jax.Array
LOW = 12
"""Frequencies from here on, in periods per 32 pixels, are taken out by a low pass."""


def mirrored(images: Array) -> Array:
    """Left and right exchanged."""
    return images[:, :, ::-1]


def moved_by_one(images: Array) -> Array:
    """Moved by one pixel, up and to the left; the border is repeated."""
    return jnp.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")[:, 1:, 1:]


def low_frequencies(images: Array) -> Array:
    """Without the highest frequencies."""
    height, width = images.shape[1:3]
    rows, cols = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    kept = jnp.asarray(np.hypot(rows, cols) < LOW / 32, jnp.float32)[..., None]
    through = jnp.fft.ifft2(jnp.fft.fft2(images, axes=(1, 2)) * kept, axes=(1, 2))
    return jnp.clip(jnp.real(through), 0.0, 1.0).astype(images.dtype)


def median(images: Array) -> Array:
    """The median of the three by three pixels around each."""
    around = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    some = [around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.median(jnp.stack(some), 0)


def grey(images: Array) -> Array:
    """Every pixel the mean of its channels."""
    return jnp.broadcast_to(jnp.mean(images, -1, keepdims=True), images.shape)


def mirrored_grey(images: Array) -> Array:
    """Both."""
    return grey(mirrored(images))


def painted(images: Array, side: int, number: int, more: int) -> Array:
    """The windows that stand out most painted over; see `stand_out`."""
    return stand_out(images, side, number, more)[1]


def transplanted(images: Array, probe: Array, side: int, number: int, more: int) -> Array:
    """A probe f32[H, W, C] with the windows that stand out most in each image."""
    return jnp.where(stand_out(images, side, number, more)[0], images, probe)
