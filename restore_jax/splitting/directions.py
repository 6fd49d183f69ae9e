"""Moves for Gaussian and uniform priors that learn where the survivors are.

`half_spaces`: scores mostly rise in one direction, or in a few. Along such a direction the
prior is known: beyond the cut that the survivors have passed it is a truncated normal, which
can be drawn afresh, while the rest of the particle takes a pCN step. It is the "important
direction" of line sampling (Koutsourelakis, Pradlwarter & Schuëller, Probabilistic Engineering
Mechanics 2004) made a reversible move, with the direction from a regression on the particles.

`inside_box`: some coordinates are drawn afresh, each between the least and the largest value
that survivors have there.

Both are reversible for the prior given what was learned, and each half of the population
learns directions and boxes from the other (see `Kernel.learn`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import ndtr, ndtri

from restore_jax.splitting.sorting import ascending
from restore_jax.splitting.types import (
    Array,
    LearnedProposal,
    Lesson,
    Particle,
    Particles,
    Tree,
)

_LLOYD_STEPS = 4
_LEFT_OUT = 0.1
"""Share of survivors below a cut. They are left to other moves: a cut below all of them would
depend on the one that strays farthest, and the farther out it lies, the fewer draws are lost."""
_PER_DIMENSION = 2
"""Particles per dimension that a least-squares slope takes, at least."""
_FRACTIONS = 16
"""Of a continued fraction: at 2 its error is then far below float32's."""
_RIDGE = 1e-4
"""Far below the variance of a normal number beyond a cut, 1/cut² or so."""
_SPARE = 2.0
"""Beyond the extreme of m survivors lies about 1/m of the law: the box reaches this many times
1/m of its width farther out, so that next to nothing is outside."""


class HalfSpaces(NamedTuple):
    """What `half_spaces` learns, for particles of either half.

    Attributes:
      directions: f32[2, K, d], of length 1.
      cuts: f32[2, K], how far out a particle must be for each; +inf: nobody is.
    """

    directions: Array
    cuts: Array


class NormalNumbers(NamedTuple):
    """Random numbers for one standard normal particle of d numbers.

    Attributes:
      noise: f32[d], standard normal.
      chances: f32[d], uniform over [0, 1).
      which: f32[K], likewise.
      out: f32[], likewise.
    """

    noise: Array
    chances: Array
    which: Array
    out: Array


def half_spaces(
    number: int, draw: Callable[[Array], NormalNumbers] | None = None
) -> LearnedProposal:
    """Draws a standard normal particle's component along a learned direction afresh.

    Args:
      number: K >= 1 directions: that of the survivors' mean, or the centres of K clusters of
        their directions (spherical k-means), for events with several ways to happen.
      draw: None, or what draws its numbers, at least K of them in ``which``; moves of one kernel
        that have the same share the numbers.

    Returns:
      A proposal. Its strength is that of the pCN step of everything across the direction; a
      particle beyond none of the cuts stays, at no cost.

    >>> x, half = jax.random.normal(jax.random.key(0), (64, 2)), jnp.arange(64) % 2 == 1
    >>> lesson = half_spaces(1).learn(x, x[:, 0], x[:, 0] > 0.5, half)
    >>> bool(jnp.all(lesson.directions[:, 0, 0] > 0.9))
    True
    """

    def learn(particles: Particles, scores: Array, survives: Array, half: Array) -> HalfSpaces:
        x, height = _flat(particles), _heights(scores)

        def for_half(mine: Array) -> tuple[Array, Array]:
            teachers = half != mine
            centres = _centres(x, teachers & survives, number)
            belongs = jnp.argmax(x @ centres.T, -1)[None] == jnp.arange(number)[:, None]
            directions = jax.vmap(_steepest, (None, None, 0, 0))(
                x, height, teachers[None] & belongs, centres
            )
            return directions, jax.vmap(_cut)(
                directions @ x.T, (teachers & survives)[None] & belongs
            )

        return HalfSpaces(*jax.vmap(for_half)(jnp.array([False, True])))

    def propose(
        numbers: NormalNumbers, particle: Particle, strength: Array, lesson: HalfSpaces, half: Array
    ) -> tuple[Particle, Array]:
        x = _flat(jax.tree.map(lambda leaf: leaf[None], particle))[0]
        directions, cuts = lesson.directions[half.astype(int)], lesson.cuts[half.astype(int)]
        out = directions @ x
        chosen = jnp.argmax(jnp.where(out > cuts, numbers.which[:number], -1.0))
        direction, cut = directions[chosen], cuts[chosen]
        farther = _beyond(numbers.out, jnp.where(jnp.isinf(cut), 0.0, cut))
        noise = numbers.noise
        across = x - out[chosen] * direction
        noise = noise - (direction @ noise) * direction
        keep = jnp.sqrt((1.0 - strength) * (1.0 + strength))
        moved = keep * across + strength * noise + farther * direction
        # The direction is picked among those that a particle is beyond: 1 in so many.
        ways = jnp.sum(out > cuts, dtype=x.dtype)
        ways_back = jnp.sum(directions @ moved > cuts, dtype=x.dtype)
        possible = (ways > 0) & (ways_back > 0)
        ratio = jnp.log(jnp.maximum(ways, 1) / jnp.maximum(ways_back, 1))
        return vector_like(moved, particle), jnp.where(possible, ratio, -jnp.inf)

    if draw is not None:
        return LearnedProposal(learn, propose, draw)

    def propose_by_key(key: Array, particle: Particle, *taught: Tree, **named: Tree) -> Tree:
        dimension = sum(leaf.size for leaf in jax.tree.leaves(particle))
        return propose(normal_numbers(key, dimension, number), particle, *taught, **named)

    return LearnedProposal(learn, propose_by_key)


def normal_numbers(key: Array, dimension: int, number: int) -> NormalNumbers:
    """All that any move of a standard normal particle draws, from one call of the generator.

    Args:
      key: a typed key.
      dimension: d, of a particle.
      number: K, of the directions that a move may choose from.
    """
    drawn = jax.random.uniform(key, (2 * dimension + number + 1,), jnp.float32)
    for_noise, chances, which, out = jnp.split(
        drawn, (dimension, 2 * dimension, 2 * dimension + number)
    )
    # From [0, 1) to (-1, 1), as `jax.random.normal` has it.
    least = jnp.nextafter(jnp.float32(-1.0), jnp.float32(0.0))
    symmetric = jnp.maximum(least, for_noise * (1.0 - least) + least)
    noise = jnp.float32(math.sqrt(2.0)) * lax.erf_inv(symmetric)
    return NormalNumbers(noise, chances, which, out[0])


def inside_box(low: Tree, high: Tree) -> LearnedProposal:
    """Draws some coordinates of a uniform particle afresh, between the extremes of survivors.

    Args:
      low, high: pytrees of arrays like a particle, the ends of the prior.

    Returns:
      A proposal. Its strength is the probability with which each coordinate is drawn; one that
      lies outside what survivors fill stays.

    >>> x, half = jax.random.uniform(jax.random.key(0), (64, 2)), jnp.arange(64) % 2 == 1
    >>> lesson = inside_box(jnp.zeros(2), jnp.ones(2)).learn(x, x[:, 0], x[:, 0] > 0.5, half)
    >>> bool(jnp.all(lesson[:, 0, 0] > 0.4))
    True
    """

    def learn(particles: Particles, scores: Array, survives: Array, half: Array) -> Lesson:
        del scores

        def ends(leaf: Array, low: Array, high: Array) -> Array:
            def for_half(mine: Array) -> Array:
                teachers = (survives & (half != mine)).reshape(-1, *(1,) * (leaf.ndim - 1))
                least = jnp.min(jnp.where(teachers, leaf, jnp.inf), 0)
                most = jnp.max(jnp.where(teachers, leaf, -jnp.inf), 0)
                spare = _SPARE * (most - least) / jnp.maximum(jnp.sum(teachers), 1)
                return jnp.stack([jnp.maximum(least - spare, low), jnp.minimum(most + spare, high)])

            return jax.vmap(for_half)(jnp.array([False, True]))

        return jax.tree.map(ends, particles, low, high)

    def propose(
        key: Array, particle: Particle, strength: Array, lesson: Lesson, half: Array
    ) -> tuple[Particle, Array]:
        leaves, structure = jax.tree.flatten(particle)
        keys = jax.random.split(key, len(leaves))

        def redraw(key: Array, leaf: Array, ends: Array) -> Array:
            least, most = ends[half.astype(int)]
            which_key, where_key = jax.random.split(key)
            drawn = jax.random.uniform(which_key, leaf.shape, leaf.dtype) < strength
            new = least + jax.random.uniform(where_key, leaf.shape, leaf.dtype) * (most - least)
            inside = (leaf >= least) & (leaf <= most)
            return jnp.where(drawn & inside, jnp.clip(new, least, most), leaf)

        moved = map(redraw, keys, leaves, jax.tree.leaves(lesson))
        return jax.tree.unflatten(structure, list(moved)), jnp.float32(0)

    return LearnedProposal(learn, propose)


def _heights(scores: Array) -> Array:
    """f32[n]: scores made as if from an exponential law, as tails are; ties stay ties."""
    n = scores.shape[0]
    below = jnp.searchsorted(ascending(scores), scores)
    ties = jnp.zeros(n, jnp.int32).at[below].add(1)[below]
    return -jnp.log1p(-0.5 * (2 * below + ties).astype(jnp.float32) / (n + 1))


def _centres(x: Array, members: Array, number: int) -> Array:
    """f32[number, d]: where the members bool[n] of f32[n, d] are, as directions."""
    if number == 1:
        return _means(x, members[None])
    ways = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)

    # Start from members that look in ways as different as can be.
    def farthest(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        nearest, chosen = carry
        nearest = jnp.maximum(nearest, ways @ ways[chosen])
        following = jnp.argmin(jnp.where(members, nearest, jnp.inf))
        return (nearest, following), ways[chosen]

    first = (jnp.full(x.shape[0], -1.0, x.dtype), jnp.argmax(members))
    centres: Array
    _, centres = jax.lax.scan(farthest, first, None, length=number)

    def lloyd(_: Array, centres: Array) -> Array:
        assigned = jnp.argmax(ways @ centres.T, -1)
        return _means(ways, members[None] & (assigned[None] == jnp.arange(number)[:, None]))

    centres = jax.lax.fori_loop(0, _LLOYD_STEPS, lloyd, centres)
    return centres


def _means(x: Array, members: Array) -> Array:
    """f32[K, d]: the directions of the means of f32[n, d] over the groups bool[K, n]."""
    total = members.astype(x.dtype) @ x
    return total / jnp.maximum(jnp.linalg.norm(total, axis=-1, keepdims=True), 1e-6)


def _steepest(x: Array, height: Array, members: Array, centre: Array) -> Array:
    """f32[d]: the direction in which the members' heights rise, by least squares.

    Where members are too few for that, ``centre``.
    """
    n, dim = x.shape
    if 2 * _PER_DIMENSION * dim > n:
        return centre
    number = jnp.maximum(jnp.sum(members, dtype=x.dtype), 1)
    weights = members / number
    x = jnp.where(members[:, None], x - (weights @ x)[None], 0.0)
    height = jnp.where(members, height - weights @ height, 0.0)
    square = x.T @ x / number + _RIDGE * jnp.eye(dim, dtype=x.dtype)
    slope = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(square), height @ x / number)
    length = jnp.linalg.norm(slope)
    sound = (number >= _PER_DIMENSION * dim) & (length > 0) & jnp.isfinite(length)
    return jnp.where(sound, slope / jnp.where(sound, length, 1.0), centre)


def _cut(out: Array, members: Array) -> Array:
    """f32[]: what all but a few of the members bool[n] exceed; +inf where there are not 8."""
    number = jnp.sum(members, dtype=out.dtype)
    ordered = ascending(jnp.where(members, out, jnp.inf))
    return jnp.where(number >= 8, ordered[(_LEFT_OUT * number).astype(int)], jnp.inf)


def _beyond(uniform: Array, cut: Array) -> Array:
    """A standard normal number beyond ``cut``, from a uniform one in [0, 1)."""
    rest = 1.0 - uniform
    near = -ndtri(jnp.maximum(rest * ndtr(-jnp.minimum(cut, 2.0)), 1e-30))
    # Far out, where float32 has no such small numbers: Newton's method on the log of the tail,
    # which is that of the density and of Mills' ratio.
    start = jnp.maximum(cut, 2.0)
    goal = _log_mills(start) - 0.5 * jnp.square(start) + jnp.log(rest)
    far = jnp.sqrt(jnp.square(start) - 2.0 * jnp.log(rest))

    def closer(_: int, out: Array) -> Array:
        mills = _log_mills(out)
        nearer = out + (mills - 0.5 * jnp.square(out) - goal) * jnp.exp(mills)
        return jnp.maximum(jnp.where(cut < 2.0, out, nearer), cut)

    # A loop, whose result XLA keeps: of plain steps it would make one more copy of the whole
    # computation for each reader of the result.
    out: Array = lax.fori_loop(0, 3, closer, jnp.where(cut < 2.0, near, far))
    return out


def _log_mills(x: Array) -> Array:
    """Log of the normal tail over the density, for x >= 2 or so (Laplace's continued fraction)."""
    below = x
    for k in range(_FRACTIONS, 0, -1):
        below = x + k / below
    return -jnp.log(below)


def _flat(particles: Particles) -> Array:
    """A tree of arrays [n, ...] as one f32[n, d]."""
    leaves = jax.tree.leaves(particles)
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], -1)


def vector_like(vector: Array, particle: Particle) -> Particle:
    """A vector f32[d] in the shape of one particle."""
    leaves, structure = jax.tree.flatten(particle)
    ends = [0]
    for leaf in leaves:
        ends.append(ends[-1] + leaf.size)
    parts = [
        vector[a:b].reshape(leaf.shape) for a, b, leaf in zip(ends, ends[1:], leaves, strict=False)
    ]
    return jax.tree.unflatten(structure, parts)
