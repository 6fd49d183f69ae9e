"""Search spaces for other people's problems: normal, uniform, and images of these under a map.

Each function returns a `SearchSpace` whose particles are a pytree of float32 arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from restore_jax.splitting.kernels import metropolis
from restore_jax.splitting.keys import particle_keys
from restore_jax.splitting.types import (
    Array,
    MoveInfo,
    Particles,
    SearchSpace,
    Trial,
    Try,
    Tuning,
)


def standard_normal(shape: Any, **kernel_options: Any) -> SearchSpace:
    """Independent standard normal numbers.

    The move is the autoregressive one, ``sqrt(1 - s²) x + s noise`` (preconditioned
    Crank-Nicolson; Cotter, Roberts, Stuart & White, Statistical Science 2013), reversible for
    the prior in any dimension. Its strength s adapts; 1 is a fresh draw.

    Args:
      shape: of one particle: an int (the dimension), a tuple of ints, or a pytree of tuples.
      kernel_options: for `metropolis` (target_acceptance, init_strength, bounds).
    """
    shapes = _shapes(shape)

    def draw(key: Array) -> Particles:
        return _each(key, jax.random.normal, shapes)

    def propose(key: Array, particle: Particles, strength: Array) -> tuple[Particles, Array]:
        keep = jnp.sqrt((1.0 - strength) * (1.0 + strength))
        step = lambda old, noise: keep * old + strength * noise  # noqa: E731
        return jax.tree.map(step, particle, draw(key)), jnp.float32(0)

    return SearchSpace(_independent(draw), metropolis([propose], **kernel_options))


def uniform_box(low: Any, high: Any, **kernel_options: Any) -> SearchSpace:
    """Independent uniform numbers.

    The move adds a uniform step of up to ``strength`` times each side, and reflects at the
    walls, which keeps it reversible.

    Args:
      low, high: pytrees of numbers or arrays of the same shape, low < high everywhere; one
        particle has their shape. ``uniform_box(jnp.zeros(5), jnp.ones(5))`` is the unit cube.
      kernel_options: for `metropolis` (target_acceptance, init_strength, bounds).

    Raises:
      ValueError: they differ in structure or shape, are not finite, or low is not below high.
    """
    low, high = (jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), t) for t in (low, high))
    try:
        sound = jax.tree.map(_is_interval, low, high)
    except ValueError:
        raise ValueError("low and high must have the same structure.") from None
    if not jax.tree.all(sound):
        raise ValueError("low must be below high everywhere, in the same shape, and both finite.")

    def draw(key: Array) -> Particles:
        unit = _each(key, jax.random.uniform, low)
        return jax.tree.map(lambda u, a, b: jnp.minimum(a + u * (b - a), b), unit, low, high)

    def propose(key: Array, particle: Particles, strength: Array) -> tuple[Particles, Array]:
        steps = _each(key, lambda key, shape: jax.random.uniform(key, shape, minval=-1.0), low)

        def walk(old: Array, step: Array, a: Array, b: Array) -> Array:
            new = old + jnp.minimum(strength, 1.0) * step * (b - a)
            new = jnp.where(new < a, 2 * a - new, new)
            new = jnp.where(new > b, 2 * b - new, new)
            return jnp.clip(new, a, b)

        return jax.tree.map(walk, particle, steps, low, high), jnp.float32(0)

    return SearchSpace(_independent(draw), metropolis([propose], **kernel_options))


class Mapped(NamedTuple):
    """A particle of a `mapped` space.

    Attributes:
      latent: the particle of the space underneath, which is what moves.
      value: the function of it, which is what scores want to read.
    """

    latent: Particles
    value: Particles


def mapped(space: SearchSpace, function: Callable[[Any], Any]) -> SearchSpace:
    """The law of ``function(x)`` for x drawn from a space.

    With a standard normal underneath this is an isoprobabilistic map: independent marginals
    with quantile functions F_i^-1 are ``F_i^-1(Φ(z_i))``, and any other joint law that a
    function of normals or uniforms has will do as well. The moves are the space's own.

    Args:
      space: what is drawn and moved.
      function: from one particle (no leading axis) to any pytree of arrays.

    Returns:
      A space whose particles are `Mapped`.
    """
    on_all = jax.vmap(function)

    def sample(key: Array, num_particles: int) -> Mapped:
        latent = space.sample(key, num_particles)
        return Mapped(latent, on_all(latent))

    def step(
        keys: Array, particles: Mapped, scores: Array, try_: Try, tuning: Tuning
    ) -> tuple[Mapped, Array, Tuning, MoveInfo]:
        def try_mapped(latent: Particles, active: Array) -> Trial:
            return try_(Mapped(latent, on_all(latent)), active)

        latent, scores, tuning, info = space.kernel.step(
            keys, particles.latent, scores, try_mapped, tuning
        )
        return Mapped(latent, on_all(latent)), scores, tuning, info

    return SearchSpace(sample, space.kernel._replace(step=step))


def _shapes(shape: Any) -> Any:
    """The pytree of shapes that a caller may write as an int, a tuple or a pytree of these."""
    whole = lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= 1  # noqa: E731

    def is_shape(x: Any) -> bool:
        return type(x) is tuple and all(map(whole, x))

    def struct(x: Any) -> jax.ShapeDtypeStruct:
        if not whole(x) and not is_shape(x):
            raise ValueError(f"a shape is an int of at least 1 or a tuple of them, got {x!r}.")
        return jax.ShapeDtypeStruct((x,) if whole(x) else x, jnp.float32)

    return jax.tree.map(struct, shape, is_leaf=is_shape)


def _each(key: Array, draw: Callable[[Array, tuple[int, ...]], Array], like: Any) -> Any:
    """A tree of draws, one for each leaf of ``like``, in its shape."""
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    draws = [draw(one, leaf.shape) for one, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, draws)


def _independent(draw: Callable[[Array], Particles]) -> Callable[[Array, int], Particles]:
    """``sample`` of particles that are drawn one by one, each from a key of its own."""
    return lambda key, num_particles: jax.vmap(draw)(particle_keys(key, num_particles))


def _is_interval(low: Array, high: Array) -> bool:
    """Whether two arrays are the ends of an interval everywhere."""
    return low.shape == high.shape and bool(jnp.all((low < high) & jnp.isfinite(high - low)))
