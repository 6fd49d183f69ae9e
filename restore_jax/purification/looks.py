"""The looks that a guard may take at a suspicious image: ``images f32[b, H, W, C] -> the same``.

Each is the image again, changed so that an honest answer stays: mirrored, moved by a pixel, grey,
without what stands out. A trigger is often learned to the pixel and to the colour, while the model
was trained to know an honest image mirrored and moved as well.

Sources: Sarkar et al., "Backdoor suppression in neural networks using input fuzzing and majority
voting" (2020); Li et al., "Rethinking the trigger of backdoor attack" (2020), whose defence mirrors
and shrinks images; Qiu et al., "DeepSweep" (AsiaCCS 2021); Xu, Evans, Qi, "Feature squeezing"
(NDSS 2018), which smooths and compares.
"""

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.purification.windows import stand_out

Array = jax.Array
SIDE, NUM_PIXELS = 3, 16
"""Of the windows painted over, and how many single pixels, of 1,024, are besides."""
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


def cross_median(images: Array) -> Array:
    """Of each pixel the median of it and its four neighbours.

    A warp is known by the slight blur that interpolation leaves. A median takes that away, and
    spares edges.
    """
    around = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    places = ((1, 1), (0, 1), (1, 0), (2, 1), (1, 2))
    middle, *others = (around[:, i : i + height, j : j + width] for i, j in places)
    pairs = others[:2], others[2:]
    low = jnp.maximum(*(jnp.minimum(*pair) for pair in pairs))
    high = jnp.minimum(*(jnp.maximum(*pair) for pair in pairs))
    # Of the four the least and the largest are out; the median is that of what is left.
    return jnp.maximum(jnp.minimum(low, high), jnp.minimum(jnp.maximum(low, high), middle))


def mirrored_cross_median(images: Array) -> Array:
    """Both."""
    return cross_median(mirrored(images))


def grey(images: Array) -> Array:
    """Every pixel the mean of its channels."""
    return jnp.broadcast_to(jnp.mean(images, -1, keepdims=True), images.shape)


def mirrored_grey(images: Array) -> Array:
    """Both."""
    return grey(mirrored(images))


def mirrored_low(images: Array) -> Array:
    """Mirrored, without the highest frequencies."""
    return mirrored(low_frequencies(images))


def grey_low(images: Array) -> Array:
    """Grey, without the highest frequencies."""
    return grey(low_frequencies(images))


def painted(images: Array) -> Array:
    """What stands out painted over: a window, another if it does nearly as much, and then pixels.

    A window covers a patch, and pixels what is scattered, faint, or larger than the window.
    """
    side = min(SIDE, *images.shape[1:3])
    pixels = max(1, images.shape[1] * images.shape[2] * NUM_PIXELS // 1024)
    return stand_out(stand_out(images, side, 1, 1)[1], 1, pixels)[1]
