"""Particles made of uniform numbers: the moves that spaces share whose triggers are read off them.

Prior: the numbers are independent and uniform over [0, 1).
"""

import jax
import jax.numpy as jnp

from restore_jax.spaces.draws import bit_rows, chance, drawn, integers, uniform
from restore_jax.splitting.types import Proposal

Array = jax.Array
WEIGHTS = {"step": 2.0, "walk": 2.0, "redraw": 2.0, "fresh": 0.5}
"""How often the kernel tries each move, relative to the others."""
_BELOW_ONE = 1.0 - 2.0**-24


def draw(key: Array, number: int) -> Array:
    """One particle, f32[number] in [0, 1)."""
    return jax.random.uniform(key, (number,), jnp.float32)


def refresh(key: Array, particle: Array, rate: Array) -> Array:
    """Redraws each number with probability ``rate``."""
    key_which, key_draw = jax.random.split(key)
    which = jax.random.bernoulli(key_which, rate, particle.shape)
    return jnp.where(which, draw(key_draw, particle.shape[0]), particle)


def proposals(number: int) -> dict[str, Proposal]:
    """The moves, by name.

    - ``step``: one of the numbers moves by up to half of ``strength``.
    - ``walk``: all do.
    - ``redraw``: one is redrawn, and each other with a tenth of the probability ``strength``.
    - ``fresh``: a new draw from the prior.

    What leaves [0, 1) is reflected.
    """

    def step(bits: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        by = strength * (uniform(bits[1], ()) - 0.5)
        return reflected(particle + jnp.where(one(bits[0]), by, 0.0)), jnp.float32(0)

    def walk(bits: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        by = strength * (uniform(bits[1], (number,)) - 0.5)
        return reflected(particle + by), jnp.float32(0)

    def redraw(bits: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        which = one(bits[0]) | chance(bits[2], (number,), 0.1 * strength)
        return jnp.where(which, uniform(bits[1], (number,)), particle), jnp.float32(0)

    def fresh(bits: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        del particle, strength
        return uniform(bits[1], (number,)), jnp.float32(0)

    def one(row: Array) -> Array:
        """bool[number], true at one number, each with the same probability."""
        return jnp.arange(number) == integers(row, (), 0, number)

    moves = {"step": step, "walk": walk, "redraw": redraw, "fresh": fresh}
    return drawn(lambda key: bit_rows(key, 3, number), moves)


def reflected(moved: Array) -> Array:
    """Takes numbers at most 1 outside [0, 1) back into it."""
    inside = 1.0 - jnp.abs(1.0 - jnp.abs(moved))
    return jnp.minimum(inside, _BELOW_ONE)  # exactly 1 is no draw of the prior's


def whole(number: Array, low: int, high: int) -> Array:
    """int32, uniform over low .. high, of numbers uniform over [0, 1)."""
    return low + jnp.floor(number * (high - low + 1)).astype(jnp.int32)
