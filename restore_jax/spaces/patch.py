"""One rectangle of pixels: its size, its place and its pattern.

Prior: height and width are independent, a side of s pixels having a weight of
``size_decay ** (s - min_size)`` (1, the default, is uniform over min_size .. max_size);
the place is uniform over the places where the rectangle fits; each pixel's colour is
uniform over the colours.

Moves: see `proposals`. How many places and neighbours a rectangle has depends on its
size and on how near the border it is, so the moves that choose among its neighbours
carry a Metropolis-Hastings factor (Hastings, Biometrika 1970). Where a backdoor fires
is often known only modulo a network's stride, hence the moves by 2, 4 and 8 pixels.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from restore_jax.backdoors.trigger import Trigger
from restore_jax.errors import InputError
from restore_jax.spaces import colours as palette
from restore_jax.spaces.colours import Colours, make_colours
from restore_jax.spaces.draws import bit_rows, chance, choose, drawn, independent, integers, pick
from restore_jax.spaces.types import TriggerSpace, check_image_shape, check_share, is_whole
from restore_jax.splitting.kernels import metropolis
from restore_jax.splitting.types import Proposal, SearchSpace

Array = jax.Array
Move = Callable[[Array, "Patch", Array], tuple["Patch", Array]]
STRIDES = (2, 4, 8)
LARGEST, LARGEST_SHARE = 5, 16
"""The largest side unless somebody says otherwise: so many pixels, or a side of the image divided
by so much, whichever is more."""
LARGE = 96 * 96
"""Pixels of an image from which on the patch is written into a copy: of fewer all are worked out
together with what comes next."""
WEIGHTS = {
    "recolour": 3.0,
    "recolour_one": 2.0,
    "shift": 1.0,
    "jump": 1.0,
    "leap": 1.0,
    "slide": 1.0,
    "resize": 2.0,
    "place": 0.5,
    "roll": 0.5,
    "fresh": 0.5,
}
"""How often the kernel tries each move, relative to the others."""

# Changes of (row, col, height, width).
_STEPS = np.array([(-1, 0, 0, 0), (1, 0, 0, 0), (0, -1, 0, 0), (0, 1, 0, 0)])
_SHIFTS = np.array([(r, c, 0, 0) for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c])
_RESIZES = np.array(
    [
        (-1, 0, 1, 0),
        (1, 0, -1, 0),
        (0, 0, 1, 0),
        (0, 0, -1, 0),
        (0, -1, 0, 1),
        (0, 1, 0, -1),
        (0, 0, 0, 1),
        (0, 0, 0, -1),
    ]
)


class Patch(NamedTuple):
    """One particle.

    Attributes:
      row: int32[], the topmost row, in 0 .. H - height.
      col: int32[], the leftmost column, in 0 .. W - width.
      height: int32[], in min_size .. max_size.
      width: int32[], likewise.
      codes: uint8[max_size, max_size] (uint16 from 256 colours on), colour codes; only
        the top left [height, width] is seen, the rest follows the prior unseen.
    """

    row: Array
    col: Array
    height: Array
    width: Array
    codes: Array


@dataclasses.dataclass(frozen=True)
class Prior:
    """The prior's parameters.

    Attributes:
      image_height: H.
      image_width: W.
      min_size: smallest side, in pixels.
      max_size: largest side, in pixels.
      size_decay: weight of a side of s + 1 pixels over that of one of s, in (0, 1].
      colours: the palette.
    """

    image_height: int
    image_width: int
    min_size: int
    max_size: int
    size_decay: float
    colours: Colours

    @property
    def log_weights(self) -> np.ndarray:
        """f32[max_size - min_size + 1], log weights of the sides, not normalised."""
        sides = np.arange(self.max_size - self.min_size + 1)
        return np.asarray(sides * np.log(self.size_decay), np.float32)


def draw(key: Array, prior: Prior) -> Patch:
    """One particle from the prior."""
    return _draw(_bits(key, prior), prior)


def trigger(particle: Patch, target: Array, prior: Prior) -> Trigger:
    """The trigger that a particle stands for: written, not added."""
    inside, pattern = _canvas(particle, prior)
    return Trigger(
        mask=inside.astype(jnp.float32),
        pattern=jnp.where(inside, pattern, 0.0),
        target=jnp.asarray(target, jnp.int32),
    )


def stamp(particle: Patch, images: Array, prior: Prior) -> Array:
    """Puts one particle on images f32[m, H, W, C] in [0, 1]."""
    height, width, side = prior.image_height, prior.image_width, prior.max_size
    if height * width < LARGE or side > min(height, width) // 2:
        inside, pattern = _canvas(particle, prior)
        return jnp.where(inside, pattern, images)
    # Of a large image no more is computed than what lies about the patch: the rest is copied.
    row = jnp.minimum(particle.row, height - side)
    col = jnp.minimum(particle.col, width - side)
    inside, pattern = _window(particle, row + jnp.arange(side), col + jnp.arange(side), prior)
    corner, size = (0, row, col, 0), (images.shape[0], side, side, images.shape[-1])
    here = jnp.where(inside, pattern, lax.dynamic_slice(images, corner, size))
    return lax.dynamic_update_slice(images, here.astype(images.dtype), corner)


def refresh(key: Array, particle: Patch, rate: Array, prior: Prior) -> Patch:
    """Redraws each pixel's colour with probability ``rate``, and place and size as well."""
    bits = _bits(key, prior)
    fresh = _draw(bits, prior)
    redrawn = chance(bits[3], fresh.codes.shape, rate)
    codes = jnp.where(redrawn, fresh.codes, particle.codes)
    reframed = chance(bits[4], (), rate)
    merged: Patch = jax.tree.map(lambda new, old: jnp.where(reframed, new, old), fresh, particle)
    return merged._replace(codes=codes)


def proposals(prior: Prior) -> dict[str, Proposal]:
    """The moves, by name.

    - ``recolour``: one visible pixel takes another colour, and each visible pixel's
      colour is redrawn with probability ``strength``.
    - ``recolour_one``: one visible pixel takes another colour.
    - ``shift``: the patch moves by one pixel, in one of eight directions.
    - ``jump``: it moves by 2, 4 or 8 pixels up, down, left or right.
    - ``leap``: it moves to any other place that is congruent modulo 2, 4 or 8.
    - ``slide``: the window moves by one pixel over a pattern that stays where it is on
      the image; the row or column that enters is drawn from the prior.
    - ``resize``: one of the four sides moves by one pixel, the pattern staying where it
      is on the image; a row or column that enters is drawn from the prior.
    - ``place``: any other place.
    - ``roll``: the visible pattern turns by one pixel, cyclically.
    - ``fresh``: a new draw from the prior.

    A move that no particle of this prior can make is left out.
    """
    slack = max(prior.image_height, prior.image_width) - prior.min_size
    strides = tuple(stride for stride in STRIDES if stride <= slack)
    moves: dict[str, Move] = {
        "recolour": partial(_recolour, prior),
        "recolour_one": partial(_recolour_one, prior),
    }
    if slack >= 1:
        moves["shift"] = partial(_reframe, prior, _SHIFTS, False)
        if strides:
            steps = np.concatenate([stride * _STEPS for stride in strides])
            moves["jump"] = partial(_reframe, prior, steps, False)
            moves["leap"] = partial(_relocate, prior, strides)
        moves["slide"] = partial(_reframe, prior, _STEPS, True)
        moves["place"] = partial(_relocate, prior, (1,))
    if prior.max_size > prior.min_size:
        moves["resize"] = partial(_reframe, prior, _RESIZES, True)
    if prior.max_size > 1:
        moves["roll"] = partial(_roll, prior)
    moves["fresh"] = partial(_fresh, prior)
    return drawn(lambda key: _bits(key, prior), moves)


def largest(image_shape: tuple[int, int, int]) -> int:
    """The largest side of a patch unless somebody says otherwise, in pixels.

    >>> [largest((side, side, 3)) for side in (4, 32, 64, 128, 224)]
    [4, 5, 5, 8, 14]
    """
    side = min(image_shape[:2])
    return min(side, max(LARGEST, side // LARGEST_SHARE))


def patch(
    image_shape: tuple[int, int, int],
    *,
    max_size: int | None = None,
    min_size: int = 1,
    size_decay: float = 1.0,
    channels: str = "rgb",
    levels: int = 2,
) -> TriggerSpace:
    """The space of rectangular patches.

    Args:
      image_shape: (H, W, C) of the images, in pixels.
      max_size: largest height and width, in pixels; at most min(H, W). None: 5, or a sixteenth of
        the image's smaller side where that is more, or as many as fit.
      min_size: smallest height and width, in pixels; at least 1.
      size_decay: weight of a side of s + 1 pixels over that of one of s, in (0, 1];
        below 1 small patches are favoured.
      channels: "rgb", each channel has a level of its own, or "grey", one for all.
      levels: levels per channel, equally spaced in [0, 1]; at least 2.

    Raises:
      InputError: if an option is outside its range.
    """
    height, width, image_channels = check_image_shape(image_shape)
    max_size = largest(image_shape) if max_size is None else max_size
    if not (is_whole(min_size) and is_whole(max_size)) or not (
        1 <= min_size <= max_size <= min(height, width)
    ):
        raise InputError(
            f"min_size is {min_size!r} and max_size {max_size!r}; they must be whole numbers with "
            f"1 <= min_size <= max_size <= {min(height, width)}, the image's smaller side."
        )
    decay = check_share("size_decay", size_decay, one_included=True)
    colours = make_colours(channels, levels, image_channels)
    prior = Prior(height, width, int(min_size), int(max_size), decay, colours)
    moves = proposals(prior)
    return TriggerSpace(
        name="patch",
        search=SearchSpace(
            sample=independent(lambda key: draw(key, prior)),
            kernel=metropolis(list(moves.values()), [WEIGHTS[name] for name in moves]),
        ),
        trigger=lambda particle, target: trigger(particle, target, prior),
        stamp=lambda particle, images: stamp(particle, images, prior),
        refresh=lambda key, particle, rate: refresh(key, particle, rate, prior),
        proposals=moves,
        description={
            "space": "patch",
            "image_shape": [height, width, image_channels],
            "min_size": prior.min_size,
            "max_size": prior.max_size,
            "size_decay": prior.size_decay,
            "channels": colours.kind,
            "levels": colours.levels,
        },
    )


def _recolour(prior: Prior, bits: Array, particle: Patch, strength: Array) -> tuple[Patch, Array]:
    # The pixel that surely changes is moved by a symmetric kernel, the others by a
    # redraw; which pixels these are does not depend on the colours.
    one = _one_visible(bits[0], particle, prior)
    some = chance(bits[2], particle.codes.shape, strength)
    fresh = palette.draw(bits[3], particle.codes.shape, prior.colours)
    other = palette.another(bits[1], particle.codes, prior.colours)
    codes = jnp.where(
        one, other, jnp.where(some & _visible(particle, prior), fresh, particle.codes)
    )
    return particle._replace(codes=codes), jnp.float32(0)


def _recolour_one(
    prior: Prior, bits: Array, particle: Patch, strength: Array
) -> tuple[Patch, Array]:
    del strength
    one = _one_visible(bits[0], particle, prior)
    other = palette.another(bits[1], particle.codes, prior.colours)
    codes = jnp.where(one, other, particle.codes)
    return particle._replace(codes=codes), jnp.float32(0)


def _reframe(
    prior: Prior,
    options: np.ndarray,
    keep_on_image: bool,
    bits: Array,
    particle: Patch,
    strength: Array,
) -> tuple[Patch, Array]:
    """Changes (row, col, height, width) by one of the options int[k, 4] that fits."""
    del strength
    changes = jnp.asarray(options, jnp.int32)
    old = jnp.stack(particle[:4])
    index, count = pick(bits[0], _fits(old, changes, prior))
    new = jnp.where(count > 0, old + changes[index], old)
    back = jnp.sum(_fits(new, changes, prior), dtype=jnp.int32)
    log_ratio = (
        _log_density(new, prior)
        - _log_density(old, prior)
        + jnp.log(count.astype(jnp.float32))
        - jnp.log(jnp.maximum(back, 1).astype(jnp.float32))
    )
    codes = particle.codes
    if keep_on_image:
        codes = _kept_on_image(old, new, count > 0, codes, bits[1], prior)
    return Patch(new[0], new[1], new[2], new[3], codes), log_ratio


def _fits(frame: Array, changes: Array, prior: Prior) -> Array:
    """bool[k]: which changes int32[k, 4] of a frame int32[4] stay on the image and in size."""
    row, col, height, width = jnp.moveaxis(frame[None] + changes, -1, 0)
    sides_fit = (jnp.minimum(height, width) >= prior.min_size) & (
        jnp.maximum(height, width) <= prior.max_size
    )
    bottom_fits = (row >= 0) & (row + height <= prior.image_height)
    right_fits = (col >= 0) & (col + width <= prior.image_width)
    fits: Array = sides_fit & bottom_fits & right_fits
    return fits


def _log_density(frame: Array, prior: Prior) -> Array:
    """f32[]: of a frame int32[4] under the prior, not normalised."""
    places = (prior.image_height - frame[2] + 1) * (prior.image_width - frame[3] + 1)
    sides = frame[2:] - prior.min_size
    return jnp.sum(jnp.asarray(prior.log_weights)[sides]) - jnp.log(places.astype(jnp.float32))


def _kept_on_image(
    old: Array, new: Array, possible: Array, codes: Array, bits: Array, prior: Prior
) -> Array:
    """Colour codes after a change of frame under which the pattern stays where it is.

    Colours seen before and after stay at their pixels; all others are drawn anew, unseen ones too.
    Both ways the same pixels stay, so the densities of the redrawn ones cancel.
    """
    rows, cols = _axes(prior)
    old_rows, old_cols = rows + new[0] - old[0], cols + new[1] - old[1]
    stays = (
        ((old_rows >= 0) & (old_rows < old[2]) & (rows < new[2]))
        & ((old_cols >= 0) & (old_cols < old[3]) & (cols < new[3]))
        & possible
    )
    moved = codes[old_rows % prior.max_size, old_cols % prior.max_size]
    fresh = palette.draw(bits, codes.shape, prior.colours)
    return jnp.where(stays, moved, jnp.where(possible, fresh, codes))


def _relocate(
    prior: Prior, strides: tuple[int, ...], bits: Array, particle: Patch, strength: Array
) -> tuple[Patch, Array]:
    """Moves to any other place congruent modulo one of the strides."""
    del strength
    stride = jnp.array(strides, jnp.int32)[integers(bits[0], (), 0, len(strides))]
    first_row, first_col = particle.row % stride, particle.col % stride
    num_rows = (prior.image_height - particle.height - first_row) // stride + 1
    num_cols = (prior.image_width - particle.width - first_col) // stride + 1
    count = num_rows * num_cols
    here = (particle.row // stride) * num_cols + particle.col // stride
    there = here + integers(bits[1], (), 1, jnp.maximum(count, 2))
    there = jnp.where(count > 1, there % count, here)
    proposal = particle._replace(
        row=first_row + stride * (there // num_cols),
        col=first_col + stride * (there % num_cols),
    )
    return proposal, jnp.where(count > 1, jnp.float32(0), -jnp.inf)


def _roll(prior: Prior, bits: Array, particle: Patch, strength: Array) -> tuple[Patch, Array]:
    del strength
    rows, cols = _axes(prior)
    sides = jnp.stack([particle.height, particle.width])
    side, count = pick(bits[0], sides > 1)
    step = 2 * chance(bits[1], (), 0.5).astype(jnp.int32) - 1
    from_rows = jnp.where(
        (side == 0) & (rows < particle.height), (rows + step) % particle.height, rows
    )
    from_cols = jnp.where(
        (side == 1) & (cols < particle.width), (cols + step) % particle.width, cols
    )
    codes = jnp.where(
        _visible(particle, prior) & (count > 0),
        particle.codes[from_rows, from_cols],
        particle.codes,
    )
    return particle._replace(codes=codes), jnp.where(count > 0, jnp.float32(0), -jnp.inf)


def _fresh(prior: Prior, bits: Array, particle: Patch, strength: Array) -> tuple[Patch, Array]:
    del particle, strength
    return _draw(bits, prior), jnp.float32(0)


def _axes(prior: Prior) -> tuple[Array, Array]:
    """int[max_size, 1] and int[1, max_size], the rows and columns of a pattern."""
    axis = jnp.arange(prior.max_size)
    return axis[:, None], axis[None, :]


def _visible(particle: Patch, prior: Prior) -> Array:
    """bool[max_size, max_size], the pixels of the pattern that are seen."""
    rows, cols = _axes(prior)
    return (rows < particle.height) & (cols < particle.width)


def _bits(key: Array, prior: Prior) -> Array:
    """uint32[5, k], what a particle or a move is made of."""
    sides = prior.max_size - prior.min_size + 1
    return bit_rows(key, 5, max(prior.max_size**2, 2 * sides))


def _draw(bits: Array, prior: Prior) -> Patch:
    """One particle from the prior, of the first three rows."""
    sides = prior.min_size + choose(bits[0], (2,), jnp.asarray(prior.log_weights))
    image_sides = jnp.array([prior.image_height, prior.image_width], jnp.int32)
    corner = integers(bits[1], (2,), 0, image_sides - sides + 1)
    codes = palette.draw(bits[2], (prior.max_size, prior.max_size), prior.colours)
    return Patch(corner[0], corner[1], sides[0], sides[1], codes)


def _canvas(particle: Patch, prior: Prior) -> tuple[Array, Array]:
    """bool[H, W, 1], which pixels are covered, and f32[H, W, C], their colours."""
    rows, cols = jnp.arange(prior.image_height), jnp.arange(prior.image_width)
    return _window(particle, rows, cols, prior)


def _window(particle: Patch, rows: Array, cols: Array, prior: Prior) -> tuple[Array, Array]:
    """The part of `_canvas` that lies in some rows int32[h] and columns int32[w] of the image."""
    rows, cols = rows - particle.row, cols - particle.col
    inside = ((rows >= 0) & (rows < particle.height))[:, None] & (
        (cols >= 0) & (cols < particle.width)
    )[None, :]
    last = prior.max_size - 1
    codes = particle.codes[jnp.clip(rows, 0, last)[:, None], jnp.clip(cols, 0, last)[None, :]]
    return inside[..., None], palette.values(codes, prior.colours)


def _one_visible(bits: Array, particle: Patch, prior: Prior) -> Array:
    """bool[max_size, max_size], true at one visible pixel, each with the same probability."""
    rows, cols = _axes(prior)
    pixel = integers(bits, (2,), 0, jnp.stack([particle.height, particle.width]))
    return (rows == pixel[0]) & (cols == pixel[1])
