"""More from one run that kept its levels: the tail at every score, and expectations beyond it.

A run passes every score on its way to the threshold. Its j-th population is drawn from the prior
above level j, whose probability P_j is known; so for any t above that level

    P(S >= t)  =  P_j  x  the share of the j-th population at or past t,

from the last population for which t is above the level. And who fell at level j, n of them to a
population, stands for P_j / n each: all of them together are a sample of the prior, densest where
the score is highest (the dead points of nested sampling; Skilling, Bayesian Analysis 2006).
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from restore_jax.splitting import genealogy, keeping
from restore_jax.splitting.estimators import interval_about
from restore_jax.splitting.keeping import kept_levels
from restore_jax.splitting.types import Array, Particles, SplittingResult


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tail:
    """Probabilities of reaching scores, all from one run. A pytree.

    Attributes:
      thresholds: f32[...], the scores t.
      log_prob: f32[...], natural log of the estimate of P(S >= t); -inf where no particle of
        the run got there, NaN where t is NaN.
      log_prob_std: f32[...], its standard error; NaN where nobody got there.
      log_prob_dof: f32[...], degrees of freedom of that error; see `genealogy`.
      num_hits: int32[...], how many particles of the population that was asked are at or past t.
      log_prob_below: f32[...], natural log of the probability of the last level below t, that this
        population is above; 0 if there is none.
      log_prob_std_below, log_prob_dof_below: f32[...], its error, likewise.
      num_particles: n, of a population.
    """

    thresholds: Array
    log_prob: Array
    log_prob_std: Array
    log_prob_dof: Array
    num_hits: Array
    log_prob_below: Array
    log_prob_std_below: Array
    log_prob_dof_below: Array
    num_particles: int = dataclasses.field(metadata={"static": True})

    def interval(self, confidence: float = 0.95) -> tuple[Array, Array]:
        """Natural-log intervals of the probabilities, ``(low, high)``, f32[...] each.

        Where nobody got to t, ``low`` is -inf and ``high`` an upper bound at that confidence, as
        of a run that ended there.

        Raises:
          ValueError: the confidence is not in (0, 1).
        """
        got_there = self.num_hits > 0
        return interval_about(
            jnp.where(got_there, self.log_prob, self.log_prob_below),
            jnp.where(got_there, self.log_prob_std, self.log_prob_std_below),
            jnp.where(got_there, self.log_prob_dof, self.log_prob_dof_below),
            got_there,
            self.num_hits,
            self.num_particles,
            confidence,
        )


class WeightedParticles(NamedTuple):
    """A weighted sample of the prior beyond a score.

    Attributes:
      particles: a pytree with leading axis N, the same N whatever the run did.
      scores: f32[N].
      log_weights: f32[N], -inf of particles that do not count. Their exponentials add up to the
        estimate of the probability of that score.
    """

    particles: Particles
    scores: Array
    log_weights: Array


def log_prob_of(result: SplittingResult, thresholds: ArrayLike) -> Tail:
    """The probability of reaching each of some scores, from one run that kept its levels.

    A pure function: jit it, and vmap it over results.

    Args:
      result: of a run with ``keep=True``.
      thresholds: f32[...], any scores; those of the run's own levels, and of everything before
        its last population, are estimated as well as those levels were.

    Raises:
      ValueError: the run did not keep its levels.

    >>> from restore_jax.splitting import importance_splitting, standard_normal
    >>> first = lambda x, args: x[..., 0]
    >>> algorithm = importance_splitting(first, standard_normal(1), threshold=3.0, keep=True)
    >>> result = jax.jit(algorithm.run)(jax.random.key(0), ())
    >>> low, high = log_prob_of(result, jnp.array([1.0, 1.5, 2.0])).interval(0.999)
    >>> truth = jax.scipy.stats.norm.logsf(jnp.array([1.0, 1.5, 2.0]))
    >>> bool(jnp.all((low < truth) & (truth < high)))
    True
    """
    kept = kept_levels(result)
    scores = jnp.asarray(thresholds, jnp.float32)
    levels = jnp.concatenate([jnp.full(1, -jnp.inf, jnp.float32), result.levels])
    rows = jnp.arange(levels.shape[0])
    n = result.scores.shape[-1]

    def one(threshold: Array) -> Tail:
        place = jnp.max(jnp.where((rows < kept.num_rows) & (levels < threshold), rows, 0))
        past = kept.scores[place] >= threshold
        num_hits = jnp.sum(past, dtype=jnp.int32)
        before = keeping.lineage_of(kept, place)
        after = genealogy.add_level(before, past, num_hits == 0)
        unknown = jnp.isnan(threshold)
        log_prob = kept.log_prob[place] + jnp.log(num_hits.astype(jnp.float32) / n)
        return Tail(
            thresholds=threshold,
            log_prob=jnp.where(unknown, jnp.nan, log_prob),
            log_prob_std=jnp.where(num_hits > 0, jnp.sqrt(after.variance), jnp.nan),
            log_prob_dof=genealogy.degrees_of_freedom(after),
            num_hits=num_hits,
            log_prob_below=jnp.where(unknown, jnp.nan, kept.log_prob[place]),
            log_prob_std_below=jnp.sqrt(before.variance),
            log_prob_dof_below=genealogy.degrees_of_freedom(before),
            num_particles=n,
        )

    flat = jax.vmap(one)(scores.reshape(-1))
    found: Tail = jax.tree.map(lambda leaf: leaf.reshape(scores.shape), flat)
    return found


def weighted_particles(result: SplittingResult, threshold: float = -jnp.inf) -> WeightedParticles:
    """All particles that fell on a run's way, and the last ones, weighted as the prior is.

    With them any expectation under the prior beyond a score comes out of one run. A pure
    function: jit it, and vmap it over results.

    Args:
      result: of a run with ``keep=True``.
      threshold: particles below this score do not count.

    Raises:
      ValueError: the run did not keep its levels.

    >>> from restore_jax.splitting import importance_splitting, standard_normal
    >>> first = lambda x, args: x[..., 0]
    >>> algorithm = importance_splitting(first, standard_normal(1), threshold=3.0, keep=True)
    >>> result = jax.jit(algorithm.run)(jax.random.key(0), ())
    >>> beyond = weighted_particles(result, 2.0)
    >>> weights = jax.nn.softmax(beyond.log_weights)
    >>> mean = jnp.sum(weights * beyond.particles[:, 0])  # of a normal beyond 2: 2.373
    >>> round(float(mean), 1)
    2.4
    """
    kept = kept_levels(result)
    num_rows = kept.scores.shape[0]
    rows = jnp.arange(num_rows)
    # Who fell at the level that follows a row; of the last row, everybody.
    following = jnp.concatenate([result.levels, jnp.full(1, jnp.inf, jnp.float32)])
    last = rows == kept.num_rows - 1
    fell = (kept.scores <= following[:, None]) | last[:, None]
    counts = fell & (rows < kept.num_rows)[:, None] & (kept.scores >= threshold)
    each = kept.log_prob - math.log(kept.scores.shape[1])
    return WeightedParticles(
        particles=jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), kept.particles),
        scores=kept.scores.reshape(-1),
        log_weights=jnp.where(counts, each[:, None], -jnp.inf).reshape(-1),
    )
