"""Kernels made from proposals: a Metropolis mixture whose strengths adapt.

A proposal only has to say where one particle might go and at what
Metropolis-Hastings ratio; `metropolis` does the rest: it picks one proposal for each
particle, asks for one score each, accepts what stays above the level, and tunes every
proposal's strength to a stated acceptance without leaving the device.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from restore_jax.splitting.types import Array, Kernel, MoveInfo, Particles, Proposal, Try

_GAIN = 0.5
_FEW = 8.0


class MetropolisTuning(NamedTuple):
    """What a Metropolis mixture adapts.

    Attributes:
      log_strength: f32[K], natural log of each component's strength.
      acceptance: f32[K], each component's acceptance in the last sweep in which it
        proposed anything, NaN before.
    """

    log_strength: Array
    acceptance: Array


def metropolis(
    proposals: Sequence[Proposal],
    weights: Sequence[float] | None = None,
    *,
    target_acceptance: float = 0.3,
    init_strength: float | Sequence[float] = 1.0,
    bounds: tuple[float, float] = (1e-3, 1.0),
) -> Kernel:
    """Returns a kernel that moves each particle by one of several proposals.

    In a sweep every particle picks component ``k`` with probability ``weights[k]``,
    whatever its state, and proposes with it. It moves there with probability
    ``min(1, exp(log_ratio))`` if the proposal is above the level. The ratio is judged
    first: a proposal it rejects is not scored, so that a sweep costs at most one score
    per particle. All components are computed for all particles and one is kept, so
    proposals should be cheap beside a score.

    The log of each strength follows ``gain (acceptance - target_acceptance)`` after every
    sweep (stochastic approximation, Andrieu & Thoms, Statistics and Computing 2008,
    section 5), with a smaller gain where few particles used the component, and none
    where nobody did. Since the strength depends on what the population did before, a sweep
    is exactly invariant given the strength, and the sampler only as the number of
    particles grows; equal ends of ``bounds`` switch the adaptation off.

    Args:
      proposals: K >= 1 functions ``(key, particle, strength) -> (particle, log_ratio)``,
        see `Proposal`.
      weights: K finite numbers >= 0, not all 0, which are normalised; None: all equal.
      target_acceptance: in (0, 1). For reversible moves of a restricted Gaussian 0.25
        to 0.4 are all near the best.
      init_strength: one number for all components, or K of them, within ``bounds``.
      bounds: ``(low, high)``, 0 < low <= high, where strengths are kept.

    Returns:
      A `Kernel` whose tuning is a `MetropolisTuning`.

    Raises:
      ValueError: if an argument is outside its range.
    """
    proposals = tuple(proposals)
    num_components = len(proposals)
    if num_components < 1:
        raise ValueError("proposals must hold at least one proposal, got none.")
    shares = _checked_weights(weights, num_components)
    if not 0.0 < target_acceptance < 1.0:
        raise ValueError(f"target_acceptance must be in (0, 1), got {target_acceptance!r}.")
    low, high = bounds
    if not 0.0 < low <= high < math.inf:
        raise ValueError(f"bounds must be (low, high) with 0 < low <= high, got {bounds!r}.")
    strengths = _checked_strengths(init_strength, num_components, low, high)

    def init() -> MetropolisTuning:
        return MetropolisTuning(
            log_strength=jnp.log(jnp.array(strengths, jnp.float32)),
            acceptance=jnp.full((num_components,), jnp.nan, jnp.float32),
        )

    def step(
        keys: Array, particles: Particles, scores: Array, try_: Try, tuning: MetropolisTuning
    ) -> tuple[Particles, Array, MetropolisTuning, MoveInfo]:
        strength = jnp.clip(jnp.exp(tuning.log_strength), low, high)
        propose = partial(_propose, strength=strength, shares=shares, proposals=proposals)
        component, candidates, willing = jax.vmap(propose)(keys, particles)
        trial = try_(candidates, willing)
        moved = willing & trial.above
        particles = jax.tree.map(
            lambda new, old: jnp.where(_against(moved, old), new, old), candidates, particles
        )
        scores = jnp.where(moved, trial.scores, scores)
        tuning = _adapt(tuning, component, moved, target_acceptance, low, high)
        info = MoveInfo(acceptance=jnp.mean(moved, dtype=jnp.float32), cost=trial.cost)
        return particles, scores, tuning, info

    return Kernel(init=init, step=step)


def _propose(
    key: Array,
    particle: Particles,
    *,
    strength: Array,
    shares: tuple[float, ...],
    proposals: tuple[Proposal, ...],
) -> tuple[Array, Particles, Array]:
    """One particle's component, candidate, and whether its ratio lets it go there."""
    proposal_key, uniform_key = jax.random.split(key)
    choice, acceptance = jax.random.uniform(uniform_key, (2,))
    cumulative = jnp.cumsum(jnp.array(shares, jnp.float32))
    component = jnp.sum(choice >= cumulative[:-1] / cumulative[-1], dtype=jnp.int32)
    candidate, log_ratio = lax.switch(
        component, proposals, proposal_key, particle, strength[component]
    )
    # 1 - u is in (0, 1], so that its log is finite and a ratio of -inf or NaN never passes.
    return component, candidate, jnp.log1p(-acceptance) <= log_ratio


def _adapt(
    tuning: MetropolisTuning,
    component: Array,
    moved: Array,
    target_acceptance: float,
    low: float,
    high: float,
) -> MetropolisTuning:
    """Steers each component's strength towards its target acceptance."""
    used = component[:, None] == jnp.arange(tuning.log_strength.shape[0])
    proposed = jnp.sum(used, axis=0, dtype=jnp.float32)
    accepted = jnp.sum(used & moved[:, None], axis=0, dtype=jnp.float32)
    acceptance = accepted / jnp.maximum(proposed, 1.0)
    # A handful of proposals says little about the acceptance, none says nothing.
    gain = _GAIN * proposed / (proposed + _FEW)
    log_strength = tuning.log_strength + gain * (acceptance - target_acceptance)
    return MetropolisTuning(
        log_strength=jnp.clip(log_strength, math.log(low), math.log(high)),
        acceptance=jnp.where(proposed > 0, acceptance, tuning.acceptance),
    )


def _against(flags: Array, leaf: Array) -> Array:
    """``flags`` bool[n] shaped to broadcast against a leaf [n, ...]."""
    return flags.reshape(flags.shape + (1,) * (leaf.ndim - 1))


def _checked_weights(weights: Sequence[float] | None, num_components: int) -> tuple[float, ...]:
    """The components' weights as a tuple of floats."""
    if weights is None:
        return (1.0,) * num_components
    shares = tuple(float(weight) for weight in weights)
    if len(shares) != num_components:
        raise ValueError(
            f"weights must hold one number per proposal ({num_components}), got {len(shares)}."
        )
    if not all(0.0 <= share < math.inf for share in shares) or sum(shares) <= 0.0:
        raise ValueError(f"weights must be finite, >= 0 and not all 0, got {shares!r}.")
    return shares


def _checked_strengths(
    init_strength: float | Sequence[float], num_components: int, low: float, high: float
) -> tuple[float, ...]:
    """One initial strength per component."""
    if isinstance(init_strength, Sequence):
        strengths = tuple(float(strength) for strength in init_strength)
    else:
        strengths = (float(init_strength),) * num_components
    if len(strengths) != num_components:
        raise ValueError(
            f"init_strength must be one number or one per proposal ({num_components}), "
            f"got {len(strengths)}."
        )
    if not all(low <= strength <= high for strength in strengths):
        raise ValueError(f"init_strength must be within bounds {(low, high)}, got {strengths!r}.")
    return strengths
