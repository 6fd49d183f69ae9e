"""A smooth picture added to the image: a few numbers on a coarse grid, brought to its size.

Prior: z ~ N(0, I), one number per cell of a grid of ``grid x grid`` cells and per channel. A
cubic interpolation makes a field of them whose every pixel has variance 1, f; then
``amplitude * (2 Φ(f) - 1)`` is added to the image and the sum clipped. The amplitude's logarithm
is uniform over that of min_amplitude .. max_amplitude.

Backdoors with a smooth perturbation (Zeng, Park, Mao and Jia, Rethinking the Backdoor Attacks'
Triggers: A Frequency Perspective, ICCV 2021, arXiv 2104.03413) are particles of this space; a
picture blended into the image (Chen et al. 2017, arXiv 1712.05526) has one close to it.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf

from restore_jax.backdoors.trigger import Trigger
from restore_jax.errors import InputError
from restore_jax.spaces.draws import independent
from restore_jax.spaces.gaussian import pcn
from restore_jax.spaces.types import TriggerSpace, check_image_shape, check_share, is_whole
from restore_jax.splitting.kernels import metropolis
from restore_jax.splitting.types import Proposal, SearchSpace

Array = jax.Array
CELLS = 6
"""Along each side, unless told otherwise."""
WEIGHTS = {"walk": 3.0, "some": 2.0, "strengthen": 1.0, "fresh": 0.25}
"""How often the kernel tries each move, relative to the others."""


class Smooth(NamedTuple):
    """One particle.

    Attributes:
      cells: f32[grid, grid, C], standard normal.
      strength: f32[] in [0, 1), where the amplitude's logarithm lies in its range.
    """

    cells: Array
    strength: Array


@dataclasses.dataclass(frozen=True)
class Prior:
    """The prior's parameters.

    Attributes:
      image_shape: (H, W, C).
      grid: cells along each side.
      min_amplitude, max_amplitude: of a pixel's largest change, in (0, 1].
    """

    image_shape: tuple[int, int, int]
    grid: int
    min_amplitude: float
    max_amplitude: float


def draw(key: Array, prior: Prior) -> Smooth:
    """One particle from the prior."""
    key_cells, key_strength = jax.random.split(key)
    shape = (prior.grid, prior.grid, prior.image_shape[2])
    return Smooth(
        jax.random.normal(key_cells, shape, jnp.float32),
        jax.random.uniform(key_strength, (), jnp.float32),
    )


def trigger(particle: Smooth, target: Array, prior: Prior) -> Trigger:
    """The trigger that a particle stands for: added, and the sum clipped."""
    return Trigger(
        mask=jnp.ones((*prior.image_shape[:2], 1), jnp.float32),
        pattern=_picture(particle, prior),
        target=jnp.asarray(target, jnp.int32),
        additive=True,
    )


def stamp(particle: Smooth, images: Array, prior: Prior) -> Array:
    """Puts one particle on images f32[m, H, W, C] in [0, 1]."""
    return jnp.clip(images + _picture(particle, prior), 0.0, 1.0)


def refresh(key: Array, particle: Smooth, rate: Array, prior: Prior) -> Smooth:
    """`pcn` of the cells with s = ``rate``; with probability ``rate`` another strength."""
    key_cells, key_which, key_strength = jax.random.split(key, 3)
    fresh = draw(key_strength, prior).strength
    which = jax.random.bernoulli(key_which, rate)
    return Smooth(pcn(key_cells, particle.cells, rate), jnp.where(which, fresh, particle.strength))


def proposals(prior: Prior) -> dict[str, Proposal]:
    """The moves, by name.

    - ``walk``: `pcn` of all cells with s = ``strength``.
    - ``some``: the same of about a quarter of the cells, all their channels.
    - ``strengthen``: the amplitude moves by up to half of ``strength`` of its range, and is
      reflected at the ends.
    - ``fresh``: a new draw from the prior.
    """

    def walk(key: Array, particle: Smooth, strength: Array) -> tuple[Smooth, Array]:
        return particle._replace(cells=pcn(key, particle.cells, strength)), jnp.float32(0)

    def some(key: Array, particle: Smooth, strength: Array) -> tuple[Smooth, Array]:
        key_which, key_noise = jax.random.split(key)
        which = jax.random.bernoulli(key_which, 0.25, (prior.grid, prior.grid, 1))
        moved = pcn(key_noise, particle.cells, strength)
        return particle._replace(cells=jnp.where(which, moved, particle.cells)), jnp.float32(0)

    def strengthen(key: Array, particle: Smooth, strength: Array) -> tuple[Smooth, Array]:
        moved = particle.strength + strength * (jax.random.uniform(key, ()) - 0.5)
        moved = jnp.abs(moved)
        moved = jnp.where(moved >= 1.0, 2.0 - moved, moved)
        # Exactly 1 is no draw of the prior's.
        moved = jnp.minimum(moved, 1.0 - 2.0**-23)
        return particle._replace(strength=moved), jnp.float32(0)

    def fresh(key: Array, particle: Smooth, strength: Array) -> tuple[Smooth, Array]:
        del particle, strength
        return draw(key, prior), jnp.float32(0)

    return {"walk": walk, "some": some, "strengthen": strengthen, "fresh": fresh}


def smooth(
    image_shape: tuple[int, int, int],
    *,
    grid: int | None = None,
    min_amplitude: float = 0.04,
    max_amplitude: float = 0.25,
) -> TriggerSpace:
    """The space of smooth pictures added to the image.

    Args:
      image_shape: (H, W, C) of the images, in pixels.
      grid: cells along each side, at least 1 and at most min(H, W); None: 6, or as many as fit.
      min_amplitude, max_amplitude: of a pixel's largest change, in (0, 1], the first at most the
        second.

    Raises:
      InputError: if an option is outside its range.

    Example:
      >>> space = smooth((32, 32, 3), grid=4)
      >>> particles = space.search.sample(jax.random.key(0), 5)
      >>> particles.cells.shape
      (5, 4, 4, 3)
    """
    shape = check_image_shape(image_shape)
    if grid is None:
        grid = min(CELLS, *shape[:2])
    if not is_whole(grid) or not 1 <= grid <= min(shape[:2]):
        raise InputError(
            f"grid is {grid!r}; it must be a whole number in 1 .. {min(shape[:2])}, the image's "
            "smaller side."
        )
    low = check_share("min_amplitude", min_amplitude, one_included=True)
    high = check_share("max_amplitude", max_amplitude, one_included=True)
    if low > high:
        raise InputError(f"min_amplitude is {low} and max_amplitude {high}; it must not be larger.")
    prior = Prior(shape, int(grid), low, high)
    moves = proposals(prior)
    return TriggerSpace(
        name="smooth",
        search=SearchSpace(
            sample=independent(lambda key: draw(key, prior)),
            kernel=metropolis(list(moves.values()), [WEIGHTS[name] for name in moves]),
        ),
        trigger=lambda particle, target: trigger(particle, target, prior),
        stamp=lambda particle, images: stamp(particle, images, prior),
        refresh=lambda key, particle, rate: refresh(key, particle, rate, prior),
        proposals=moves,
        description={
            "space": "smooth",
            "image_shape": list(shape),
            "grid": prior.grid,
            "min_amplitude": prior.min_amplitude,
            "max_amplitude": prior.max_amplitude,
        },
    )


def _picture(particle: Smooth, prior: Prior) -> Array:
    """f32[H, W, C] in [-amplitude, amplitude]; 2 Φ(f) - 1 is erf(f / sqrt 2)."""
    rows = jnp.asarray(_interpolation(prior.image_shape[0], prior.grid))
    cols = jnp.asarray(_interpolation(prior.image_shape[1], prior.grid))
    field = jnp.einsum("ir,rsc,js->ijc", rows, particle.cells, cols)
    low, high = math.log(prior.min_amplitude), math.log(prior.max_amplitude)
    amplitude = jnp.exp(low + (high - low) * particle.strength)
    return amplitude * erf(field * math.sqrt(0.5))


@functools.cache
def _interpolation(size: int, grid: int) -> np.ndarray:
    """f32[size, grid]: cubic weights from cells to pixels, each row of length 1.

    Catmull and Rom's kernel; a row of length 1 keeps the variance of every pixel at 1.
    """
    place = (np.arange(size) + 0.5) * grid / size - 0.5
    distance = np.abs(place[:, None] - np.arange(-1, grid + 1))
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1.0
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4.0 * distance + 2.0
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    inner = weights[:, 1:-1].copy()
    # Cells beyond the border are those at it.
    inner[:, 0] += weights[:, 0]
    inner[:, -1] += weights[:, -1]
    return np.asarray(inner / np.linalg.norm(inner, axis=1, keepdims=True), np.float32)
