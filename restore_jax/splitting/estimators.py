"""What the levels say about the probability of the event, and how surely."""

import math
from functools import partial
from statistics import NormalDist
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import xlogy

from restore_jax.splitting.types import Array, Status

if TYPE_CHECKING:
    from restore_jax.splitting.types import SplittingResult

_BISECTIONS = 30


def ideal_log_prob_std(survival: Array, num_particles: int) -> Array:
    """Standard error of the estimated log-probability if moves were ideal.

    ``sqrt(sum_j (1 - r_j) / (r_j n))`` over the shares ``r_j`` that survived each level: with n0
    equal levels and a last one this is the relative variance of Cérou, Del Moral, Furon &
    Guyader (Statistics and Computing 2012, section 3.3), taken on the log scale by the delta
    method. It assumes ideal moves: the particles of a level independent draws from the prior
    restricted to it. Few moves or low acceptance leave clones correlated, and the
    true error is then larger: a result's own ``log_prob_std`` (see `genealogy`) allows for that.

    Args:
      survival: f32[..., T], shares in (0, 1], NaN behind the last level.
      num_particles: n.

    Returns:
      f32[...], in natural-log units; 0 before the first level.

    References:
      Cérou, Del Moral, Furon and Guyader, Statistics and Computing 2012, section 3.3.

    >>> round(float(ideal_log_prob_std(jnp.array([0.25, 0.25, jnp.nan]), 600)), 3)
    0.1
    """
    relative_variance = (1.0 - survival) / (survival * num_particles)
    return jnp.sqrt(jnp.sum(jnp.where(jnp.isnan(survival), 0.0, relative_variance), axis=-1))


def log_prob_interval(result: "SplittingResult", confidence: float = 0.95) -> tuple[Array, Array]:
    """Natural-log interval of the event's probability.

    REACHED: two-sided, ``log_prob + log_prob_std² / 2`` plus and minus a quantile of Student's
    law times ``log_prob_std``: the estimate is unbiased and near log-normal (Cérou et al. 2012),
    so that its log is normal about a mean that lies half a variance too low. The standard
    error and its degrees of freedom are those of `genealogy`.

    Not reached: ``(-inf, high)``. The event is the last level's set times the chance of the
    event inside it. With ``a = 1 - confidence`` split evenly, ``high`` adds the one-sided normal
    bound of the first to Chernoff's bound of the second (Hoeffding, JASA 1963, theorem 1), which
    is ``1 - (a/2)^(1/n)`` when none of the n particles is past the threshold. The latter
    assumes independent particles: after a stall, or with few moves, it is optimistic.

    Args:
      result: single or vmapped.
      confidence: in (0, 1).

    Returns:
      ``(low, high)``, f32 of the shape of ``result.log_prob``, ``high`` at most 0. NaN after a
      first hit.
    """
    return interval_about(
        result.log_prob,
        result.log_prob_std,
        result.log_prob_dof,
        result.status == Status.REACHED,
        result.num_hits,
        result.scores.shape[-1],
        confidence,
    )


def interval_about(
    log_prob: Array,
    log_prob_std: Array,
    log_prob_dof: Array,
    reached: Array,
    num_hits: Array,
    num_particles: int,
    confidence: float,
) -> tuple[Array, Array]:
    """See `log_prob_interval`, which reads its arguments off a result."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence!r}.")
    ends: tuple[Array, Array] = _interval(
        log_prob,
        log_prob_std,
        log_prob_dof,
        reached,
        num_hits,
        num_particles=num_particles,
        tail=(1.0 - confidence) / 2.0,
    )
    return ends


# Compiled as one, for whoever reads a result outside of a program.
@partial(jax.jit, static_argnames=("num_particles", "tail"))
def _interval(
    log_prob: Array,
    log_prob_std: Array,
    log_prob_dof: Array,
    reached: Array,
    num_hits: Array,
    *,
    num_particles: int,
    tail: float,
) -> tuple[Array, Array]:
    """The interval that leaves ``tail`` out on each side."""
    margin = _student_quantile(NormalDist().inv_cdf(1.0 - tail), log_prob_dof) * log_prob_std
    log_prob = log_prob + 0.5 * jnp.square(log_prob_std)
    log_rest = jnp.log(_binomial_upper(num_hits, num_particles, tail))
    low = jnp.where(reached | jnp.isnan(log_prob), log_prob - margin, -jnp.inf)
    high = log_prob + margin + jnp.where(reached, 0.0, log_rest)
    return low, jnp.minimum(high, 0.0)


def _student_quantile(z: float, dof: Array) -> Array:
    """Student's quantile at the level of the normal quantile z (Fisher & Cornish 1960)."""
    nu = jnp.maximum(dof, 2.0)
    return (
        z
        + (z**3 + z) / (4 * nu)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * nu**3)
    )


def effective_sample_size(result: "SplittingResult") -> Array:
    """How many independent particles would have given the same error.

    ``n (ideal_log_prob_std / log_prob_std)²``, at most n: correlated particles count for less.

    Args:
      result: single or vmapped.

    Returns:
      f32[...] of the shape of ``result.log_prob``; n where no level has been passed yet.
    """
    n = result.scores.shape[-1]
    ideal = ideal_log_prob_std(result.survival, n)
    share = jnp.square(ideal / jnp.where(result.log_prob_std > 0, result.log_prob_std, ideal))
    return n * jnp.minimum(jnp.where(ideal > 0, share, 1.0), 1.0)


def _binomial_upper(hits: Array, num_trials: int, tail: float) -> Array:
    """A share above which as few as ``hits`` of n have a probability below ``tail``."""
    share = jnp.asarray(hits, jnp.float32) / num_trials
    enough = -math.log(tail) / num_trials

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        # P(Binomial(n, x) <= n q) <= exp(-n KL(q, x)) for x > q; KL grows with x.
        divergence = xlogy(share, share / middle) + xlogy(
            1.0 - share, (1.0 - share) / (1.0 - middle)
        )
        above = divergence > enough
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    _, upper = lax.fori_loop(0, _BISECTIONS, halve, (share, jnp.ones_like(share)))
    # Where nobody hit, KL(0, x) = -log(1 - x) can be solved, and is, to the last bit.
    return jnp.where(share == 0.0, -math.expm1(-enough), upper)
