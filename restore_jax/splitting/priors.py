"""Search spaces for other people's problems: normal, uniform, and images of these under a map.

Each function returns a `SearchSpace` whose particles are a pytree of float32 arrays.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeGuard, Unpack

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from restore_jax.splitting.directions import (
    NormalNumbers,
    half_spaces,
    inside_box,
    normal_numbers,
    vector_like,
)
from restore_jax.splitting.kernels import MetropolisOptions, metropolis
from restore_jax.splitting.keys import particle_keys
from restore_jax.splitting.types import (
    Array,
    DrawnProposal,
    LearnedProposal,
    Lesson,
    MoveInfo,
    Particle,
    Particles,
    Proposal,
    SearchSpace,
    Tree,
    Trial,
    Try,
    Tuning,
)

MOST_DIRECTIONS = 4
"""That a move of a standard normal space chooses from."""


def standard_normal(shape: Tree, **kernel_options: Unpack[MetropolisOptions]) -> SearchSpace:
    """Independent standard normal numbers.

    Four moves, used the more the farther they carry the scores: `pcn`, `redraw`, and fresh draws
    beyond a learned half-space, or beyond one of four (`directions.half_spaces`).

    Args:
      shape: of one particle: an int (the dimension), a tuple of ints, or a pytree of tuples.
      kernel_options: for `metropolis`.

    >>> standard_normal(3).sample(jax.random.key(0), 5).shape
    (5, 3)
    """
    shapes = _shapes(shape)

    def draw(key: Array) -> Particle:
        return _each(key, jax.random.normal, shapes)

    dimension = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    numbers = partial(normal_numbers, dimension=dimension, number=MOST_DIRECTIONS)
    proposals: list[Proposal | LearnedProposal]
    proposals = [
        DrawnProposal(numbers, _pcn_step),
        DrawnProposal(numbers, _redraw_some),
        half_spaces(1, numbers),
        half_spaces(MOST_DIRECTIONS, numbers),
    ]
    options: MetropolisOptions = {"adapt_weights": True, **kernel_options}
    kernel = metropolis(proposals, **options)
    return SearchSpace(_independent(draw), kernel)


def pcn(key: Array, particle: Particle, strength: Array) -> tuple[Particle, Array]:
    """The autoregressive proposal ``sqrt(1 - s²) x + s noise``; a strength of 1 is a fresh draw.

    Preconditioned Crank-Nicolson (Cotter, Roberts, Stuart & White, Statistical Science 2013),
    reversible for a standard normal prior in any dimension.

    >>> moved, log_ratio = pcn(jax.random.key(0), jnp.ones(3), jnp.float32(0.0))
    >>> moved.tolist(), float(log_ratio)
    ([1.0, 1.0, 1.0], 0.0)
    """
    keep = jnp.sqrt((1.0 - strength) * (1.0 + strength))
    noise = _each(key, jax.random.normal, particle)
    moved = jax.tree.map(lambda old, noise: keep * old + strength * noise, particle, noise)
    return moved, jnp.float32(0)


def _pcn_step(
    numbers: NormalNumbers, particle: Particle, strength: Array
) -> tuple[Particle, Array]:
    """`pcn`, its numbers given."""
    keep = jnp.sqrt((1.0 - strength) * (1.0 + strength))
    noise = vector_like(numbers.noise, particle)
    moved = jax.tree.map(lambda old, noise: keep * old + strength * noise, particle, noise)
    return moved, jnp.float32(0)


def _redraw_some(
    numbers: NormalNumbers, particle: Particle, strength: Array
) -> tuple[Particle, Array]:
    """`redraw`, its numbers given."""
    noise, chances = (vector_like(x, particle) for x in (numbers.noise, numbers.chances))
    choose = lambda old, new, chance: jnp.where(chance < strength, new, old)  # noqa: E731
    return jax.tree.map(choose, particle, noise, chances), jnp.float32(0)


def redraw(key: Array, particle: Particle, strength: Array) -> tuple[Particle, Array]:
    """Draws each standard normal coordinate afresh with probability ``strength``.

    >>> moved, _ = redraw(jax.random.key(0), jnp.ones(3), jnp.float32(1.0))
    >>> bool(jnp.any(moved == 1.0))
    False
    """
    noise = _each(key, jax.random.normal, particle)
    chances = _each(jax.random.fold_in(key, 1), jax.random.uniform, particle)
    choose = lambda old, new, chance: jnp.where(chance < strength, new, old)  # noqa: E731
    return jax.tree.map(choose, particle, noise, chances), jnp.float32(0)


def uniform_box(low: Tree, high: Tree, **kernel_options: Unpack[MetropolisOptions]) -> SearchSpace:
    """Independent uniform numbers.

    Two moves, used the more the farther they carry the scores: a uniform step of up to
    ``strength`` times each side that reflects at the walls, and some coordinates drawn afresh
    where survivors are (`directions.inside_box`).

    Args:
      low, high: pytrees of numbers or arrays of the same shape, low < high everywhere; one
        particle has their shape. ``uniform_box(jnp.zeros(5), jnp.ones(5))`` is the unit cube.
      kernel_options: for `metropolis`.

    Raises:
      ValueError: they differ in structure or shape, are not finite, or low is not below high.

    >>> uniform_box(jnp.zeros(3), jnp.ones(3)).sample(jax.random.key(0), 5).shape
    (5, 3)
    """
    low, high = (jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), t) for t in (low, high))
    try:
        sound = jax.tree.map(_is_interval, low, high)
    except ValueError:
        raise ValueError("low and high must have the same structure.") from None
    if not jax.tree.all(sound):
        raise ValueError("low must be below high everywhere, in the same shape, and both finite.")

    def draw(key: Array) -> Particle:
        unit = _each(key, jax.random.uniform, low)
        return jax.tree.map(lambda u, a, b: jnp.minimum(a + u * (b - a), b), unit, low, high)

    def walk(key: Array, particle: Particle, strength: Array) -> tuple[Particle, Array]:
        steps = _each(key, _signed, low)

        def move(old: Array, step: Array, a: Array, b: Array) -> Array:
            new = old + jnp.minimum(strength, 1.0) * step * (b - a)
            new = jnp.where(new < a, 2 * a - new, new)
            new = jnp.where(new > b, 2 * b - new, new)
            return jnp.clip(new, a, b)

        return jax.tree.map(move, particle, steps, low, high), jnp.float32(0)

    options: MetropolisOptions = {"adapt_weights": True, **kernel_options}
    kernel = metropolis([walk, inside_box(low, high)], **options)
    return SearchSpace(_independent(draw), kernel)


class Mapped(NamedTuple):
    """A particle of a `mapped` space.

    Attributes:
      latent: the particle of the space underneath, which is what moves.
      value: the function of it, which is what scores want to read.
    """

    latent: Particles
    value: Particles


def mapped(space: SearchSpace, function: Callable[[Particle], Tree]) -> SearchSpace:
    """The law of ``function(x)`` for x drawn from a space.

    With a standard normal underneath this is an isoprobabilistic map: independent marginals
    with quantile functions F_i^-1 are ``F_i^-1(Φ(z_i))``, and any other joint law that a
    function of normals or uniforms has will do as well. The moves are the space's own.

    Args:
      space: what is drawn and moved.
      function: from one particle (no leading axis) to any pytree of arrays.

    Returns:
      A space whose particles are `Mapped`.

    >>> lognormal = mapped(standard_normal(3), jnp.exp)
    >>> bool(jnp.all(lognormal.sample(jax.random.key(0), 5).value > 0))
    True
    """
    on_all = jax.vmap(function)

    def sample(key: Array, num_particles: int) -> Mapped:
        latent = space.sample(key, num_particles)
        return Mapped(latent, on_all(latent))

    kernel = space.kernel

    def step(
        keys: Array, particles: Mapped, scores: Array, try_: Try, tuning: Tuning, *learnt: Tree
    ) -> tuple[Mapped, Array, Tuning, MoveInfo]:
        def try_mapped(latent: Particles, active: Array) -> Trial:
            return try_(Mapped(latent, on_all(latent)), active)

        latent, scores, tuning, info = kernel.step(
            keys, particles.latent, scores, try_mapped, tuning, *learnt
        )
        return Mapped(latent, on_all(latent)), scores, tuning, info

    def learn(particles: Mapped, *of_the_level: Array) -> Lesson:
        assert kernel.learn is not None
        return kernel.learn(particles.latent, *of_the_level)

    learns = kernel.learn is not None
    return SearchSpace(sample, kernel._replace(step=step, learn=learn if learns else None))


def _shapes(shape: Tree) -> Tree:
    """The pytree of shapes that a caller may write as an int, a tuple or a pytree of these."""

    def struct(x: object) -> jax.ShapeDtypeStruct:
        sides = (x,) if _is_side(x) else x
        if not _is_shape(sides):
            raise ValueError(f"a shape is an int of at least 1 or a tuple of them, got {x!r}.")
        return jax.ShapeDtypeStruct(sides, jnp.float32)

    return jax.tree.map(struct, shape, is_leaf=_is_shape)


def _is_side(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x >= 1


def _is_shape(x: object) -> TypeGuard[tuple[int, ...]]:
    return type(x) is tuple and all(map(_is_side, x))


def _each(
    key: Array, draw: Callable[[Array, tuple[int, ...], DTypeLike], Array], like: Tree
) -> Tree:
    """A tree of draws, one for each leaf of ``like``, in its shape and type."""
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    draws = [draw(one, leaf.shape, leaf.dtype) for one, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, draws)


def _signed(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Uniform over [-1, 1)."""
    return jax.random.uniform(key, shape, dtype, minval=-1.0)


def _independent(draw: Callable[[Array], Particle]) -> Callable[[Array, int], Particles]:
    """``sample`` of particles that are drawn one by one, each from a key of its own."""
    return lambda key, num_particles: jax.vmap(draw)(particle_keys(key, num_particles))


def _is_interval(low: Array, high: Array) -> bool:
    """Whether two arrays are the ends of an interval everywhere."""
    return low.shape == high.shape and bool(jnp.all((low < high) & jnp.isfinite(high - low)))
