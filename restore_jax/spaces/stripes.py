"""A sinusoid added to the image: stripes of some strength, width, direction and phase.

Prior: of ``v(i, j) = amplitude sin(2π frequency (i sin(angle) + j cos(angle)) / W + phase)``
in row i and column j, the same in all channels, the amplitude is uniform over
[0, max_amplitude], the frequency over 1 .. max_frequency cycles per image width, the angle
over a half turn and the phase over a turn, all independent. The sum is clipped. This is the
SIG attack of Barni, Kallas and Tondi (A new backdoor attack in CNNs by training set corruption
without label poisoning, ICIP 2019, arXiv 1902.11237), whose stripes are vertical: an angle
of 0. With ``angles="axes"`` the angle is 0 or a quarter turn, each with probability 1/2: clean
networks, too, obey faint slanting waves, but hardly upright or level ones.
"""

import dataclasses
import math
import numbers

import jax
import jax.numpy as jnp

from restore_jax.backdoors.changes import over
from restore_jax.backdoors.trigger import Trigger
from restore_jax.errors import InputError
from restore_jax.spaces.draws import bit_rows, chance, drawn, independent, integers, uniform
from restore_jax.spaces.types import TriggerSpace, check_image_shape, check_share
from restore_jax.splitting.kernels import metropolis
from restore_jax.splitting.types import Proposal, SearchSpace

Array = jax.Array
WEIGHTS = {"step": 2.0, "walk": 3.0, "redraw": 1.0, "fresh": 0.5}
"""How often the kernel tries each move, relative to the others."""
ANGLES = ("any", "axes")
NUMBERS = 4
"""How many numbers a particle holds: those of the amplitude, frequency, angle and phase."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """The prior's parameters.

    Attributes:
      image_shape: (H, W, C).
      max_amplitude: largest change of a pixel, in (0, 1].
      max_frequency: most cycles per image width, at least 1.
      angles: one of `ANGLES`.
    """

    image_shape: tuple[int, int, int]
    max_amplitude: float
    max_frequency: float
    angles: str


def draw(key: Array, prior: Prior) -> Array:
    """One particle, f32[4] in [0, 1): amplitude, frequency, angle and phase in their ranges."""
    del prior
    return jax.random.uniform(key, (NUMBERS,), jnp.float32)


def trigger(particle: Array, target: Array, prior: Prior) -> Trigger:
    """The trigger that a particle stands for: added, and the sum clipped."""
    return Trigger(
        mask=jnp.ones((*prior.image_shape[:2], 1), jnp.float32),
        pattern=jnp.broadcast_to(_wave(particle, prior), prior.image_shape),
        target=jnp.asarray(target, jnp.int32),
        additive=True,
    )


def stamp(particle: Array, images: Array, prior: Prior) -> Array:
    """Puts one particle on images f32[m, H, W, C] in [0, 1]."""
    return jnp.clip(images + over(images, _wave(particle, prior)), 0.0, 1.0)


def refresh(key: Array, particle: Array, rate: Array, prior: Prior) -> Array:
    """Redraws each of the four numbers with probability ``rate``."""
    key_which, key_draw = jax.random.split(key)
    which = jax.random.bernoulli(key_which, rate, particle.shape)
    return jnp.where(which, draw(key_draw, prior), particle)


def proposals(prior: Prior) -> dict[str, Proposal]:
    """The moves, by name.

    - ``step``: one of the four numbers moves by up to half of ``strength``.
    - ``walk``: all four do.
    - ``redraw``: one is redrawn, and each other with probability ``strength``.
    - ``fresh``: a new draw from the prior.

    Amplitude and frequency reflect at the ends of their ranges, angle and phase go round: see
    `_folded`.
    """
    del prior

    def step(bits: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        by = strength * (uniform(bits[1], ()) - 0.5)
        return _folded(particle + jnp.where(_one(bits[0]), by, 0.0)), jnp.float32(0)

    def walk(bits: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        by = strength * (uniform(bits[1], (NUMBERS,)) - 0.5)
        return _folded(particle + by), jnp.float32(0)

    def redraw(bits: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        which = _one(bits[0]) | chance(bits[2], (NUMBERS,), strength)
        return jnp.where(which, uniform(bits[1], (NUMBERS,)), particle), jnp.float32(0)

    def fresh(bits: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        del particle, strength
        return uniform(bits[1], (NUMBERS,)), jnp.float32(0)

    moves = {"step": step, "walk": walk, "redraw": redraw, "fresh": fresh}
    return drawn(lambda key: bit_rows(key, 3, NUMBERS), moves)


def stripes(
    image_shape: tuple[int, int, int],
    *,
    max_amplitude: float = 0.25,
    max_frequency: float | None = None,
    angles: str = "any",
) -> TriggerSpace:
    """The space of added sinusoids.

    Args:
      image_shape: (H, W, C) of the images, in pixels.
      max_amplitude: largest change of a pixel, in (0, 1].
      max_frequency: most cycles per image width, between 1 and W / 2, where a stripe is one
        pixel wide; None: 3 W / 8, which is 12 for a width of 32, or 1 if that is more.
      angles: "any", or "axes": vertical or horizontal stripes alone.

    Raises:
      InputError: if an option is outside its range.
    """
    shape = check_image_shape(image_shape)
    amplitude = check_share("max_amplitude", max_amplitude, one_included=True)
    frequency = _checked_frequency(max_frequency, shape[1])
    if angles not in ANGLES:
        raise InputError(f"angles is {angles!r}; it must be one of {', '.join(ANGLES)}.")
    prior = Prior(shape, amplitude, frequency, angles)
    moves = proposals(prior)
    return TriggerSpace(
        name="stripes",
        search=SearchSpace(
            sample=independent(lambda key: draw(key, prior)),
            kernel=metropolis(list(moves.values()), [WEIGHTS[name] for name in moves]),
        ),
        trigger=lambda particle, target: trigger(particle, target, prior),
        stamp=lambda particle, images: stamp(particle, images, prior),
        refresh=lambda key, particle, rate: refresh(key, particle, rate, prior),
        proposals=moves,
        description={
            "space": "stripes",
            "image_shape": list(shape),
            "max_amplitude": prior.max_amplitude,
            "max_frequency": prior.max_frequency,
            "angles": prior.angles,
        },
    )


def _wave(particle: Array, prior: Prior) -> Array:
    """f32[H, W, 1] in [-max_amplitude, max_amplitude]."""
    height, width = prior.image_shape[:2]
    amplitude = prior.max_amplitude * particle[0]
    frequency = 1.0 + (prior.max_frequency - 1.0) * particle[1]
    turn = jnp.floor(2.0 * particle[2]) / 2.0 if prior.angles == "axes" else particle[2]
    angle, phase = math.pi * turn, 2 * math.pi * particle[3]
    rows = jnp.arange(height, dtype=jnp.float32)[:, None]
    cols = jnp.arange(width, dtype=jnp.float32)[None, :]
    along = (rows * jnp.sin(angle) + cols * jnp.cos(angle)) / width
    return amplitude * jnp.sin(2 * math.pi * frequency * along + phase)[..., None]


def _folded(moved: Array) -> Array:
    """Takes four numbers, each at most 1 outside [0, 1], back into it; the wave is continuous.

    A wave turned by half a turn is the same wave at a phase of half a turn minus its own, so an
    angle that goes round takes the phase with it. Folding keeps lengths and a step's law has
    no preferred sign, so that a step and its reverse are equally likely.
    """
    reflected = 1.0 - jnp.abs(1.0 - jnp.abs(moved[:2]))
    angle, phase = moved[2], moved[3]
    round_once = (angle < 0) | (angle >= 1)
    phase = jnp.where(round_once, 0.5 - phase, phase)
    return jnp.concatenate([reflected, jnp.stack([angle, phase]) % 1.0])


def _one(row: Array) -> Array:
    """bool[4], true at one number, each with the same probability."""
    return jnp.arange(NUMBERS) == integers(row, (), 0, NUMBERS)


def _checked_frequency(max_frequency: float | None, width: int) -> float:
    """The largest frequency, in cycles per image width."""
    if max_frequency is None:
        return max(3 * width / 8, 1.0)
    is_number = isinstance(max_frequency, numbers.Real) and not isinstance(max_frequency, bool)
    highest = max(width / 2, 1.0)
    if not is_number or not 1 <= max_frequency <= highest:
        raise InputError(
            f"max_frequency is {max_frequency!r}; it must be a number between 1 and {highest:g}, "
            "half the image's width in pixels."
        )
    return float(max_frequency)
