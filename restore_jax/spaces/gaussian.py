"""A dense additive perturbation with a Gaussian prior.

Prior: z ~ N(0, I), one number per pixel and channel; ``amplitude * (2 Φ(z) - 1)`` is added
to the image and the sum clipped, so that each entry of the perturbation is uniform over
[-amplitude, amplitude]. With an amplitude of 1 this is the Gaussian space of Le Roux,
Kallas and Furon (SaTML 2024), and `pcn` its move.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.scipy.special import erf

from restore_jax.backdoors.changes import over
from restore_jax.backdoors.trigger import Trigger
from restore_jax.spaces import torus
from restore_jax.spaces.draws import bit_rows, independent, integers
from restore_jax.spaces.types import TriggerSpace, check_image_shape, check_share
from restore_jax.splitting.kernels import metropolis
from restore_jax.splitting.types import Proposal, SearchSpace

Array = jax.Array
WEIGHTS = {"whole": 2.0, "local": 3.0, "shift": 1.0}
"""How often the kernel tries each move, relative to the others."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """The prior's parameters.

    Attributes:
      shape: (H, W, C).
      amplitude: largest change of a pixel's channel, in (0, 1].
    """

    shape: tuple[int, int, int]
    amplitude: float


def draw(key: Array, prior: Prior) -> Array:
    """One particle, f32[H, W, C]."""
    return jax.random.normal(key, prior.shape, jnp.float32)


def trigger(particle: Array, target: Array, prior: Prior) -> Trigger:
    """The trigger that a particle stands for: added, and the sum clipped."""
    return Trigger(
        mask=jnp.ones((*prior.shape[:2], 1), jnp.float32),
        pattern=_perturbation(particle, prior),
        target=jnp.asarray(target, jnp.int32),
        additive=True,
    )


def stamp(particle: Array, images: Array, prior: Prior) -> Array:
    """Puts one particle on images f32[m, H, W, C] in [0, 1]."""
    return jnp.clip(images + over(images, _perturbation(particle, prior)), 0.0, 1.0)


def pcn(key: Array, z: Array, s: Array) -> Array:
    """Returns (z + s g) / sqrt(1 + s²), g ~ N(0, I) of the shape of z.

    This preconditioned Crank-Nicolson move (Cotter, Roberts, Stuart, White, Statistical
    Science 2013) is reversible for N(0, I), whatever s >= 0; s broadcasts against z.
    """
    noise = jax.random.normal(key, z.shape, z.dtype)
    return (z + s * noise) * jax.lax.rsqrt(1.0 + jnp.square(s))


def refresh(key: Array, particle: Array, rate: Array, prior: Prior) -> Array:
    """`pcn` with s = ``rate``."""
    del prior
    return pcn(key, particle, rate)


def proposals(prior: Prior) -> dict[str, Proposal]:
    """The moves, by name.

    - ``whole``: `pcn` with s = ``strength``.
    - ``local``: the same inside a window, whose sides are uniform over 1 .. half the
      image's; it wraps around at the borders.
    - ``shift``: the whole perturbation moves by 1, 2, 4 or 8 pixels, wrapping around.
    """
    height, width = prior.shape[:2]
    largest = jnp.array([max(height // 2, 1), max(width // 2, 1)], jnp.int32)

    def whole(key: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        return pcn(key, particle, strength), jnp.float32(0)

    def local(key: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        key_window, key_noise = jax.random.split(key)
        bits = bit_rows(key_window, 2, 2)
        sides = integers(bits[0], (2,), 1, largest + 1)
        inside = torus.window(bits[1], (height, width), sides[0], sides[1])
        # Outside the window nothing may move, not even by rounding.
        moved = pcn(key_noise, particle, strength)
        return jnp.where(inside[..., None], moved, particle), jnp.float32(0)

    def shift(key: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        del strength
        return torus.shift(bit_rows(key, 1, 1)[0], particle), jnp.float32(0)

    return {"whole": whole, "local": local, "shift": shift}


def gaussian(image_shape: tuple[int, int, int], *, amplitude: float = 1.0) -> TriggerSpace:
    """The space of dense additive perturbations.

    Args:
      image_shape: (H, W, C) of the images, in pixels.
      amplitude: largest change of a pixel's channel, in (0, 1].

    Raises:
      ValueError: if an option is outside its range.
    """
    shape = check_image_shape(image_shape)
    prior = Prior(shape, check_share("amplitude", amplitude, one_included=True))
    moves = proposals(prior)
    return TriggerSpace(
        name="gaussian",
        search=SearchSpace(
            sample=independent(lambda key: draw(key, prior)),
            kernel=metropolis(list(moves.values()), [WEIGHTS[name] for name in moves]),
        ),
        trigger=lambda particle, target: trigger(particle, target, prior),
        stamp=lambda particle, images: stamp(particle, images, prior),
        refresh=lambda key, particle, rate: refresh(key, particle, rate, prior),
        proposals=moves,
        description={
            "space": "gaussian",
            "image_shape": list(shape),
            "amplitude": prior.amplitude,
        },
    )


def _perturbation(particle: Array, prior: Prior) -> Array:
    """f32[H, W, C] in [-amplitude, amplitude]; 2 Φ(z) - 1 is erf(z / sqrt 2)."""
    return prior.amplitude * erf(particle * math.sqrt(0.5))
