"""The variance of an estimate, from its own particles' family tree.

The estimate is ``sum_j log r_j``, r_j the share of n particles that survived level j. A
particle adds ``(1 / r_j - 1) / n`` to its relative error if it survived, ``-1 / n`` if not.
Particles are not independent: clones stay where their common ancestor was, for several
levels if they move little. Summed over families that parted `LAG` levels ago, which are
nearly independent, these influences have squares that add up to the variance:

    V = sum_j sum_k (Phi_kj² K / (K - 1) + 2 Phi_kj S_kj)

with Phi_kj what family k adds at level j, S_kj what it added since it parted, and K the number of
families. It is the genealogical estimator of Chan & Lai (Annals of Statistics 2013) and Lee &
Whiteley (Biometrika 2018), whose families part at the first draw and so soon are one, cut at
a fixed lag as Olsson & Douc (Bernoulli 2019) do for filters.

A variance that rests on few families is itself uncertain. Level j's has ``K_j - 1`` degrees of
freedom, ``K_j = (sum_k Phi_kj²)² / sum_k Phi_kj⁴`` being how many families carry it, and the sum
has those of Welch and Satterthwaite (Biometrika 1947).
"""

import jax
import jax.numpy as jnp

from restore_jax.splitting import resampling
from restore_jax.splitting.types import Array, Lineage

LAG = 3


def start(num_particles: int) -> Lineage:
    """The first particles: each a family of its own."""
    alone = jnp.arange(num_particles, dtype=jnp.int32)
    return Lineage(
        roots=jnp.tile(alone, (LAG, 1)),
        influence=jnp.zeros((LAG, num_particles), jnp.float32),
        variance=jnp.float32(0.0),
        doubt=jnp.float32(0.0),
    )


def add_level(lineage: Lineage, survives: Array, ignored: Array) -> Lineage:
    """Adds what a level did, before anybody is cloned.

    Args:
      lineage: of the particles.
      survives: bool[n].
      ignored: bool[], a level that does not count.
    """
    n = survives.shape[0]

    # Counts of integers: their sums do not depend on the order, and are the same every time.
    def counted(roots: Array, ones: Array) -> Array:
        return jnp.zeros(n, jnp.int32).at[roots].add(ones)

    by_root = jax.vmap(counted, (0, None))
    members = by_root(lineage.roots, jnp.ones(n, jnp.int32))
    survivors = by_root(lineage.roots, survives.astype(jnp.int32))
    share = jnp.maximum(jnp.mean(survives, dtype=jnp.float32), 1.0 / n)
    added = (survivors / share - members) / n
    families = num_families(lineage).astype(jnp.float32)
    spread = jnp.sum(jnp.square(added[-1])) * families / jnp.maximum(families - 1.0, 1.0)
    covariance = 2.0 * jnp.sum(added[-1] * lineage.influence[-1])
    # A covariance estimated from few families may be anything; a variance does not shrink.
    more = jnp.maximum(spread + covariance, 0.0)
    squares = jnp.square(added[-1])
    carrying = jnp.square(jnp.sum(squares)) / jnp.maximum(jnp.sum(jnp.square(squares)), 1e-30)
    doubt = jnp.square(more) / jnp.maximum(carrying - 1.0, 1.0)
    return lineage._replace(
        influence=jnp.where(ignored, lineage.influence, lineage.influence + added),
        variance=jnp.where(ignored, lineage.variance, lineage.variance + more),
        doubt=jnp.where(ignored, lineage.doubt, lineage.doubt + doubt),
    )


def degrees_of_freedom(lineage: Lineage) -> Array:
    """f32[] >= 1: of the variance; +inf before the first level."""
    sure = lineage.doubt == 0.0
    degrees = jnp.square(lineage.variance) / jnp.where(sure, 1.0, lineage.doubt)
    return jnp.where(sure, jnp.inf, jnp.maximum(degrees, 1.0))


def num_families(lineage: Lineage) -> Array:
    """int32[]: how many families there are that parted `LAG` levels ago."""
    return resampling.num_unique(lineage.roots[-1])


def halves(lineage: Lineage, period: int) -> Array:
    """bool[n]: two halves of the particles, without a common ancestor for `LAG` levels.

    Args:
      lineage: of the particles.
      period: places that lie so far apart share a half: the states of one chain.
    """
    return lineage.roots[-1] % period % 2 == 1


def resample(lineage: Lineage, sources: Array, ignored: Array) -> Lineage:
    """Goes on to the clones: place i takes what was in place ``sources[i]``."""
    n = sources.shape[0]
    roots = jnp.concatenate([sources[None].astype(jnp.int32), lineage.roots[:-1, sources]])
    influence = jnp.concatenate([jnp.zeros((1, n), jnp.float32), lineage.influence[:-1]])
    return lineage._replace(
        roots=jnp.where(ignored, lineage.roots, roots),
        influence=jnp.where(ignored, lineage.influence, influence),
    )
