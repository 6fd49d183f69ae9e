"""Counts with their ties broken at random, so that a population never comes to a standstill.

With labels a trigger's score is how many probes it leads. Many triggers lead equally many, and a
level that none of them exceeds would end a descent, although further moves might lead one probe
more. So each particle is a trigger and a fraction u, uniform in [0, 1) and independent of it, and
its score is count + u: the law of that has no ties, a level leaves the share of survivors that it
should, and scores are at least c where counts are.

Moves change the trigger alone. After each level the fractions are drawn anew from their law given
the counts and the level (a Gibbs move, which asks no model).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from restore_jax.splitting import Scorer, SearchSpace, SplittingState
from restore_jax.splitting.types import Args, Particles, Tree, Tuning

Array = jax.Array
BELOW_ONE = 1.0 - 2.0**-16
"""Fractions are less than this; float32 tells count + u from count + 1 up to counts of 100."""
_STREAM = 0x74696573


class Tied(NamedTuple):
    """Particles of a space whose scores are counts.

    Attributes:
      trigger: the space's own particles, a pytree with leading axis n.
      fraction: f32[n] in [0, 1).
    """

    trigger: Particles
    fraction: Array


def scorer_of(scorer: Scorer) -> Scorer:
    """A scorer of `Tied` particles: the count of their triggers, and their fractions."""

    def score(
        key: Array, particles: Tied, level: Array, active: Array, args: Args
    ) -> tuple[ArrayLike, ArrayLike]:
        # A count level with the whole part of the level may be above it: its fraction decides.
        counts, cost = scorer.score(key, particles.trigger, jnp.floor(level) - 1, active, args)
        return jnp.asarray(counts) + particles.fraction, cost

    return scorer._replace(score=score)


def space_of(space: SearchSpace) -> SearchSpace:
    """The space of `Tied` particles; its moves are the space's own."""
    kernel = space.kernel

    def sample(key: Array, n: int) -> Tied:
        return Tied(space.sample(key, n), fractions(jax.random.fold_in(key, _STREAM), n))

    def step(
        keys: Array, particles: Tied, scores: Array, try_: Tree, tuning: Tuning, *learnt: Tree
    ) -> tuple[Tied, Array, Tuning, Tree]:
        def try_tied(trigger: Particles, active: Array) -> Tree:
            return try_(Tied(trigger, particles.fraction), active)

        trigger, scores, tuning, info = kernel.step(
            keys, particles.trigger, scores, try_tied, tuning, *learnt
        )
        return Tied(trigger, particles.fraction), scores, tuning, info

    def learn(particles: Tied, *of_the_level: Array) -> Tree:
        assert kernel.learn is not None
        return kernel.learn(particles.trigger, *of_the_level)

    return SearchSpace(
        sample, kernel._replace(step=step, learn=None if kernel.learn is None else learn)
    )


def fractions(key: Array, n: int) -> Array:
    """f32[n]: fractions that no level restricts.

    >>> found = fractions(jax.random.key(0), 100)
    >>> bool((found >= 0).all()), bool((found < 1).all())
    (True, True)
    """
    return BELOW_ONE * jax.random.uniform(key, (n,))


def drawn_anew(state: SplittingState) -> SplittingState:
    """A state of `Tied` particles after a level, its fractions drawn from their law above that."""
    if not int(state.index):
        return state
    level = np.float32(state.history.level[int(state.index) - 1])
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), _STREAM)
    counts = jnp.floor(state.scores)
    # The least float32 number above the level, where the count alone is not above it.
    above = np.nextafter(level, np.float32(np.inf)) - np.floor(level)
    least = jnp.where(counts == np.floor(level), above, 0.0)
    u = jax.random.uniform(jax.random.fold_in(key, state.index), counts.shape)
    fraction = jnp.minimum(least + (BELOW_ONE - least) * u, BELOW_ONE)
    fraction = jnp.maximum(fraction, least)
    return dataclasses.replace(
        state, particles=Tied(state.particles.trigger, fraction), scores=counts + fraction
    )
