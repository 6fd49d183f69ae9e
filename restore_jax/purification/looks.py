"""The looks that a guard may take at a suspicious image.

*Views* are the image again, changed so that an honest answer stays: mirrored, moved by a pixel, its
windows painted over. A trigger is often learned to the pixel, and the model was trained to
know an honest image mirrored and moved as well. *Transplants* are what stands out in it, on a probe
of another class: that leads the probe if it is a trigger, wherever it lies.

Sources: Sarkar et al., "Backdoor suppression in neural networks using input fuzzing and majority
voting" (2020); Li et al., "Rethinking the trigger of backdoor attack" (2020), whose defence flips
and shrinks images; Qiu et al., "DeepSweep" (AsiaCCS 2021); Gao et al., "STRIP" (ACSAC 2019),
which superimposes.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import Trigger
from restore_jax.backdoors.changes import moved
from restore_jax.purification.inverses import smoothed, subtract
from restore_jax.purification.types import Look
from restore_jax.purification.windows import stand_out

Array = jax.Array
Change = Callable[[Array], Array]
SIDE = 3
"""Of the windows against a rectangle, of which there are as many as it takes to cover what was
recovered."""
NUM_PIXELS = 16
"""Windows of one pixel, against scattered pixels."""
LOW = 12
"""Frequencies from here on, in periods per 32 pixels, are taken out by a low pass."""
LEVELS = 6
BENT = 0.5
"""Pixels, by how much a bent image is moved on average."""


def views(shape: tuple[int, int, int], triggers: Sequence[Trigger]) -> list[Look]:
    """The looks that can stand alone, those that know least of a trigger first.

    Args:
      shape: (H, W, C) of the images.
      triggers: those recovered: how large windows are, and what is taken back.
    """
    found = [
        Look("mirrored", mirrored),
        Look("moved", partial(shifted, rows=1, cols=1)),
        Look("moved by two", partial(shifted, rows=-2, cols=2)),
        Look("mirrored and moved", lambda x: shifted(mirrored(x), 1, -1)),
        Look("low frequencies", low_frequencies),
        Look("mirrored low frequencies", lambda x: low_frequencies(mirrored(x))),
        Look("bent", bent),
        Look("median", median),
        Look("smoothed", smoothed),
        Look("fewer levels", fewer_levels),
    ]
    if shape[2] == 3:
        found += [
            Look("grey", grey),
            Look("mirrored grey", lambda x: grey(mirrored(x))),
            Look("balanced", balanced),
            Look("mirrored and balanced", lambda x: balanced(mirrored(x))),
        ]
    for side, number, more in _windows(shape, triggers):
        paint = partial(painted, side=side, number=number, more=more)
        what = f"{_windows_named(side, number)} painted over"
        found.append(Look(what, paint))
        found.append(Look(f"mirrored, {what}", partial(_mirrored_after, paint)))
    whole = [one for one in triggers if one.additive or one.changes_all or one.pixels > SIDE**4]
    found += [Look("trigger taken back", partial(subtract, one)) for one in whole]
    return found


def transplants(
    shape: tuple[int, int, int], triggers: Sequence[Trigger], probes: Sequence[Array]
) -> list[Look]:
    """The looks at a probe with what stands out in an image put on it.

    Args:
      shape, triggers: see `views`.
      probes: each f32[H, W, C], of other classes.
    """
    found = []
    for number, probe in enumerate(probes):
        on = f"on probe {number + 1}"
        for side, windows, more in _windows(shape, triggers):
            move = partial(transplanted, probe=probe, side=side, number=windows, more=more)
            found.append(Look(f"{_windows_named(side, windows)} {on}", move))
        found.append(Look(f"fine structure {on}", partial(fine_structure, probe=probe)))
    return found


def _windows(
    shape: tuple[int, int, int], triggers: Sequence[Trigger]
) -> list[tuple[int, int, int]]:
    """(side, number, more) of the windows to paint over, see `stand_out`."""
    least = min(shape[:2])
    local = [int(one.pixels) for one in triggers if not (one.additive or one.changes_all)]
    area = min([*local, SIDE**4]) if local else SIDE**2
    number = max(1, round(area / SIDE**2))
    larger = max(SIDE + 2, round(1.25 * float(np.sqrt(area))))
    some = [(SIDE, number, 1), (larger, 1, 0), (1, NUM_PIXELS, 0)]
    return [one for one in dict.fromkeys(some) if one[0] < least and one[0] * one[1] < least**2]


def _mirrored_after(change: Change, images: Array) -> Array:
    return mirrored(change(images))


def _windows_named(side: int, number: int) -> str:
    return f"{number} window{'s' if number > 1 else ''} of {side}x{side}"


def mirrored(images: Array) -> Array:
    """Left and right exchanged."""
    return images[:, :, ::-1]


def shifted(images: Array, rows: int, cols: int) -> Array:
    """Moved by whole pixels, up and to the left; the border is repeated."""
    height, width = images.shape[1:3]
    row = jnp.clip(jnp.arange(height) + rows, 0, height - 1)
    col = jnp.clip(jnp.arange(width) + cols, 0, width - 1)
    return images[:, row][:, :, col]


def low_frequencies(images: Array) -> Array:
    """Without the highest frequencies."""
    height, width = images.shape[1:3]
    rows, cols = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    kept = jnp.asarray(np.hypot(rows, cols) < LOW / 32, jnp.float32)[..., None]
    through = jnp.fft.ifft2(jnp.fft.fft2(images, axes=(1, 2)) * kept, axes=(1, 2))
    return jnp.clip(jnp.real(through), 0.0, 1.0).astype(images.dtype)


def bent(images: Array) -> Array:
    """Warped a little, smoothly, always in the same way."""
    height, width = images.shape[1:3]
    coarse = jax.random.normal(jax.random.key(0), (5, 5, 2), jnp.float32)
    flow = jax.image.resize(coarse, (height, width, 2), "cubic")
    return moved(images, BENT * flow / jnp.mean(jnp.abs(flow)))


def median(images: Array) -> Array:
    """The median of the three by three pixels around each."""
    around = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    some = [around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.median(jnp.stack(some), 0)


def grey(images: Array) -> Array:
    """Every pixel the mean of its channels."""
    return jnp.broadcast_to(jnp.mean(images, -1, keepdims=True), images.shape)


def balanced(images: Array) -> Array:
    """The mean colour of each image made grey, its brightness kept."""
    mean = jnp.mean(images, (1, 2), keepdims=True)
    return jnp.clip(images - mean + jnp.mean(mean, -1, keepdims=True), 0.0, 1.0)


def painted(images: Array, side: int, number: int, more: int) -> Array:
    """The windows that stand out most painted over; see `stand_out`."""
    return stand_out(images, side, number, more)[1]


def fewer_levels(images: Array) -> Array:
    """Each channel rounded to a few levels."""
    return jnp.round(images * (LEVELS - 1)) / (LEVELS - 1)


def transplanted(images: Array, probe: Array, side: int, number: int, more: int) -> Array:
    """A probe f32[H, W, C] with the windows that stand out most in each image."""
    return jnp.where(stand_out(images, side, number, more)[0], images, probe)


def fine_structure(images: Array, probe: Array) -> Array:
    """A probe f32[H, W, C] with what smoothing takes from each image added."""
    return jnp.clip(probe + images - smoothed(images), 0.0, 1.0)
