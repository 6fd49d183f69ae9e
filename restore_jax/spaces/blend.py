"""A dense blend with one unknown smooth image.

Prior: z ~ N(0, I), one number per cell of a coarse grid and per channel. Bilinear
interpolation takes it to the pixels, each of which is divided by its standard deviation; the
normal distribution function Φ makes colours of it, so that every pixel's is uniform over
[0, 1]. The stamped image is ``(1 - opacity) image + opacity pattern``: the Blended attack of
Chen, Liu, Li, Lu and Song (Targeted backdoor attacks on deep learning systems using data
poisoning, 2017, arXiv 1712.05526), whose opacity is 0.2.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from restore_jax.backdoors.changes import over
from restore_jax.backdoors.trigger import Trigger
from restore_jax.errors import InputError
from restore_jax.spaces import torus
from restore_jax.spaces.draws import bit_rows, independent, integers
from restore_jax.spaces.types import TriggerSpace, check_image_shape, check_share, is_whole
from restore_jax.splitting.directions import half_spaces
from restore_jax.splitting.kernels import metropolis
from restore_jax.splitting.priors import pcn
from restore_jax.splitting.types import Proposal, SearchSpace

Array = jax.Array
WEIGHTS = {"whole": 1.0, "local": 1.0, "shift": 0.5, "half_space": 1.0}
"""How often the kernel tries each move at first, relative to the others; they adapt."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """The prior's parameters.

    Attributes:
      image_shape: (H, W, C).
      opacity: the share of the pattern in the stamped image, in (0, 1].
      grid: (rows, columns) of the grid, at most (H, W).
    """

    image_shape: tuple[int, int, int]
    opacity: float
    grid: tuple[int, int]


def draw(key: Array, prior: Prior) -> Array:
    """One particle, f32[*grid, C]."""
    return jax.random.normal(key, (*prior.grid, prior.image_shape[2]), jnp.float32)


def trigger(particle: Array, target: Array, prior: Prior) -> Trigger:
    """The trigger that a particle stands for: blended with the whole image."""
    return Trigger(
        mask=jnp.full((*prior.image_shape[:2], 1), prior.opacity, jnp.float32),
        pattern=_pattern(particle, prior),
        target=jnp.asarray(target, jnp.int32),
    )


def stamp(particle: Array, images: Array, prior: Prior) -> Array:
    """Puts one particle on images f32[m, H, W, C] in [0, 1]."""
    opacity = jnp.float32(prior.opacity)
    stamped: Array = images * (1.0 - opacity) + opacity * over(images, _pattern(particle, prior))
    return stamped


def refresh(key: Array, particle: Array, rate: Array, prior: Prior) -> Array:
    """`pcn` of strength ``rate``; 1 is a fresh draw."""
    del prior
    fresh: Array = pcn(key, particle, rate)[0]
    return fresh


def proposals(prior: Prior) -> dict[str, Proposal]:
    """The plain moves, by name; the kernel mixes them with the learned `half_spaces`.

    - ``whole``: `pcn` of everything.
    - ``local``: the same inside a window of the grid, whose sides are uniform over 1 .. half
      the grid's; it wraps around at the borders.
    - ``shift``: the grid moves by one cell up, down, left or right, wrapping around.
    """
    rows, cols = prior.grid
    largest = jnp.array([max(rows // 2, 1), max(cols // 2, 1)], jnp.int32)

    def local(key: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        key_window, key_noise = jax.random.split(key)
        bits = bit_rows(key_window, 2, 2)
        sides = integers(bits[0], (2,), 1, largest + 1)
        inside = torus.window(bits[1], prior.grid, sides[0], sides[1])
        moved, log_ratio = pcn(key_noise, particle, strength)
        return jnp.where(inside[..., None], moved, particle), log_ratio

    def shift(key: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        del strength
        steps = jnp.array([(-1, 0), (1, 0), (0, -1), (0, 1)], jnp.int32)
        step = steps[integers(bit_rows(key, 1, 1)[0], (), 0, len(steps))]
        return jnp.roll(particle, step, axis=(0, 1)), jnp.float32(0)

    return {"whole": pcn, "local": local, "shift": shift}


def blend(
    image_shape: tuple[int, int, int], *, opacity: float = 0.2, grid: int = 8
) -> TriggerSpace:
    """The space of dense blends with a smooth image.

    A network answers almost linearly to such a faint change. So the kernel also draws particles
    afresh beyond a learned half-space, which `TriggerSpace.proposals` does not list, since it
    must first be taught by a level; and the moves that carry the scores farthest are used most.

    Args:
      image_shape: (H, W, C) of the images, in pixels.
      opacity: the share of the pattern in the stamped image, in (0, 1].
      grid: rows and columns of the grid of independent numbers, at least 1; more than the
        image has pixels that way count as just so many.

    Raises:
      InputError: if an option is outside its range.
    """
    height, width, channels = check_image_shape(image_shape)
    share = check_share("opacity", opacity, one_included=True)
    if not is_whole(grid) or grid < 1:
        raise InputError(f"grid is {grid!r}; it must be a whole number of at least 1.")
    cells = min(int(grid), height), min(int(grid), width)
    prior = Prior((height, width, channels), share, cells)
    moves = proposals(prior)
    return TriggerSpace(
        name="blend",
        search=SearchSpace(
            sample=independent(lambda key: draw(key, prior)),
            kernel=metropolis(
                [*moves.values(), half_spaces(1)],
                [WEIGHTS[name] for name in (*moves, "half_space")],
                adapt_weights=True,
            ),
        ),
        trigger=lambda particle, target: trigger(particle, target, prior),
        stamp=lambda particle, images: stamp(particle, images, prior),
        refresh=lambda key, particle, rate: refresh(key, particle, rate, prior),
        proposals=moves,
        description={
            "space": "blend",
            "image_shape": [height, width, channels],
            "opacity": prior.opacity,
            "grid": list(prior.grid),
        },
    )


def _pattern(particle: Array, prior: Prior) -> Array:
    """f32[H, W, C] in [0, 1]."""
    down = _interpolation(prior.image_shape[0], prior.grid[0])
    across = _interpolation(prior.image_shape[1], prior.grid[1])
    # Full precision: a sum whose variance is off would give colours that are not uniform.
    smooth = jnp.einsum("hr,wc,rcx->hwx", down, across, particle, precision="highest")
    return ndtr(smooth)


def _interpolation(pixels: int, cells: int) -> np.ndarray:
    """f32[pixels, cells], linear interpolation between the cells' centres, to unit variance.

    The variance of a bilinear interpolation of independent numbers is the product of the
    squared lengths of its row of weights in each direction: rows of length 1 make it 1.
    """
    centres = (np.arange(pixels) + 0.5) * cells / pixels - 0.5
    distances = np.abs(np.clip(centres, 0, cells - 1)[:, None] - np.arange(cells))
    weights = np.maximum(1 - distances, 0)
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True), np.float32)
