"""Kernels made from proposals: a Metropolis mixture whose strengths adapt.

A proposal only has to say where one particle might go and at what
Metropolis-Hastings ratio; `metropolis` does the rest: it picks one proposal for each
particle, asks for one score each, accepts what stays above the level, and tunes every
proposal's strength to a stated acceptance without leaving the device.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
from jax import lax

from restore_jax.splitting.sorting import ascending
from restore_jax.splitting.types import (
    Array,
    DrawnProposal,
    Kernel,
    LearnedProposal,
    Lesson,
    MoveInfo,
    Particle,
    Particles,
    Proposal,
    Tree,
    Try,
)

_CAUTION = 128.0
_LEAST_WEIGHT = 0.05


class MetropolisOptions(TypedDict, total=False):
    """What `metropolis` takes besides its proposals."""

    weights: Sequence[float] | None
    adapt_weights: bool
    target_acceptance: float
    init_strength: float | Sequence[float]
    bounds: tuple[float, float]


class MetropolisTuning(NamedTuple):
    """What a Metropolis mixture adapts.

    Attributes:
      log_strength: f32[K], natural log of each component's strength.
      acceptance: f32[K], each component's acceptance in the last sweep in which it
        proposed anything, NaN before.
      efficiency: f32[K], what a move by each component does: the running mean of its squared
        jump, in ranks among the survivors' scores; a move that is refused jumps 0.
    """

    log_strength: Array
    acceptance: Array
    efficiency: Array


class MetropolisLesson(NamedTuple):
    """What a Metropolis mixture learns of a level.

    Attributes:
      scores: f32[n], the survivors' in ascending order, then +inf.
      num_survivors: int32[].
      lessons: one per component, ``()`` of those that learn nothing.
    """

    scores: Array
    num_survivors: Array
    lessons: tuple[Lesson, ...]


def metropolis(
    proposals: Sequence[Proposal | LearnedProposal],
    weights: Sequence[float] | None = None,
    *,
    adapt_weights: bool = False,
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
    section 5), with ``gain = m² / (m² + 128)`` where m particles used the component: a strength
    that answers to what a few particles just did biases where they go next. Weights, if
    they adapt, are multiplied by the square of the component's efficiency, and never fall
    below 0.05 of the largest: what moves the scores farthest is used most. Since strengths
    and weights depend on what the population did before, a sweep is exactly invariant given
    them, and the sampler only as the number of particles grows; equal ends of ``bounds``
    switch the adaptation of strengths off.

    Args:
      proposals: K >= 1 functions ``(key, particle, strength) -> (particle, log_ratio)``,
        see `Proposal`; or `DrawnProposal`, or `LearnedProposal`.
      weights: K finite numbers >= 0, not all 0, which are normalised; None: all equal.
      adapt_weights: whether the weights adapt.
      target_acceptance: in (0, 1). For reversible moves of a restricted Gaussian 0.25
        to 0.4 are all near the best.
      init_strength: one number for all components, or K of them, within ``bounds``.
      bounds: ``(low, high)``, 0 < low <= high, where strengths are kept.

    Returns:
      A `Kernel` whose tuning is a `MetropolisTuning`.

    Raises:
      ValueError: if an argument is outside its range.

    References:
      Andrieu and Thoms, A tutorial on adaptive MCMC, Statistics and Computing 2008,
      doi 10.1007/s11222-008-9110-y.

    >>> from restore_jax.splitting import pcn, redraw
    >>> metropolis([pcn, redraw], bounds=(0.01, 1.0)).init().log_strength.tolist()
    [0.0, 0.0]
    """
    mixture = _checked_mixture(
        tuple(proposals), weights, adapt_weights, target_acceptance, init_strength, bounds
    )
    learned = any(isinstance(proposal, LearnedProposal) for proposal in mixture.proposals)
    return Kernel(
        init=partial(_first_tuning, mixture),
        step=partial(_sweep, mixture),
        learn=partial(_learn, mixture) if learned or adapt_weights else None,
    )


class Mixture(NamedTuple):
    """What `metropolis` was given, checked: K proposals, and how they are tuned.

    Attributes:
      proposals: K of them.
      shares: K, the weights that they begin with.
      strengths: K, what their strengths begin with.
      adapt_weights: whether the weights adapt.
      target_acceptance: what the strengths are steered to.
      low, high: where they are kept.
    """

    proposals: tuple[Proposal | LearnedProposal, ...]
    shares: tuple[float, ...]
    strengths: tuple[float, ...]
    adapt_weights: bool
    target_acceptance: float
    low: float
    high: float


def _first_tuning(mixture: Mixture) -> MetropolisTuning:
    """The tuning before the first sweep; see `Kernel`."""
    num_components = len(mixture.proposals)
    return MetropolisTuning(
        log_strength=jnp.log(jnp.array(mixture.strengths, jnp.float32)),
        acceptance=jnp.full((num_components,), jnp.nan, jnp.float32),
        efficiency=jnp.full((num_components,), 0.1, jnp.float32),
    )


def _learn(
    mixture: Mixture, particles: Particles, scores: Array, survives: Array, half: Array
) -> MetropolisLesson:
    """What is learned of a level; see `Kernel`."""
    return MetropolisLesson(
        scores=ascending(jnp.where(survives, scores, jnp.inf)),
        num_survivors=jnp.sum(survives, dtype=jnp.int32),
        lessons=tuple(
            proposal.learn(particles, scores, survives, half)
            if isinstance(proposal, LearnedProposal)
            else ()
            for proposal in mixture.proposals
        ),
    )


def _sweep(
    mixture: Mixture,
    keys: Array,
    particles: Particles,
    scores: Array,
    try_: Try,
    tuning: MetropolisTuning,
    lesson: MetropolisLesson | None = None,
    half: Array | None = None,
) -> tuple[Particles, Array, MetropolisTuning, MoveInfo]:
    """One move of every particle, and the tuning after it; see `Kernel`."""
    propose = _proposer(mixture, tuning, lesson)
    if half is None:
        half = jnp.zeros(scores.shape[0], bool)
    component, candidates, willing = jax.vmap(propose)(keys, particles, half)
    trial = try_(candidates, willing)
    moved = willing & trial.above
    particles = jax.tree.map(
        lambda new, old: jnp.where(_against(moved, old), new, old), candidates, particles
    )
    new_scores = jnp.where(moved, trial.scores, scores)
    jumps = jnp.zeros(scores.shape, jnp.float32)
    if mixture.adapt_weights and lesson is not None:
        after, before = _ranks(lesson, jnp.stack([new_scores, scores]))
        jumps = jnp.square(after - before)
    tuning = _adapt(mixture, tuning, component, moved, jumps)
    info = MoveInfo(acceptance=jnp.mean(moved, dtype=jnp.float32), cost=trial.cost)
    return particles, new_scores, tuning, info


def _proposer(
    mixture: Mixture, tuning: MetropolisTuning, lesson: MetropolisLesson | None
) -> Callable[[Array, Particle, Array], tuple[Array, Particle, Array]]:
    """Says of one particle ``(key, particle, half bool[])`` where it goes; see `_propose`."""
    strength = jnp.clip(jnp.exp(tuning.log_strength), mixture.low, mixture.high)
    chances = _chances(mixture, tuning)
    if lesson is not None:
        lessons = lesson.lessons
    elif any(isinstance(proposal, LearnedProposal) for proposal in mixture.proposals):
        raise ValueError("step must be given the lesson and half: a proposal is learned.")
    else:
        lessons = ((),) * len(mixture.proposals)

    def propose(key: Array, particle: Particle, half: Array) -> tuple[Array, Particle, Array]:
        made = [
            _taught(proposal, known, half) if isinstance(proposal, LearnedProposal) else proposal
            for proposal, known in zip(mixture.proposals, lessons, strict=True)
        ]
        return _propose(key, particle, strength=strength, chances=chances, proposals=made)

    return propose


def _taught(proposal: LearnedProposal, lesson: Lesson, half: Array) -> Proposal:
    """A learned proposal as a plain one."""
    propose = partial(proposal.propose, lesson=lesson, half=half)
    return propose if proposal.draw is None else DrawnProposal(proposal.draw, propose)


def _chances(mixture: Mixture, tuning: MetropolisTuning) -> Array:
    """f32[K]: how often each component is picked, up to a factor."""
    chances = jnp.array(mixture.shares, jnp.float32)
    if not mixture.adapt_weights:
        return chances
    best = jnp.maximum(jnp.max(tuning.efficiency), 1e-30)
    worth = jnp.square(tuning.efficiency / best)
    return chances * jnp.maximum(worth, _LEAST_WEIGHT)


def _propose(
    key: Array,
    particle: Particle,
    *,
    strength: Array,
    chances: Array,
    proposals: Sequence[Proposal],
) -> tuple[Array, Particle, Array]:
    """One particle's component, candidate, and whether its ratio lets it go there."""
    proposal_key, uniform_key = jax.random.split(key)
    choice, acceptance = jax.random.uniform(uniform_key, (2,), jnp.float32)
    cumulative = jnp.cumsum(chances)
    component = jnp.sum(choice >= cumulative[:-1] / cumulative[-1], dtype=jnp.int32)
    candidate, log_ratio = lax.switch(
        component, _drawn_once(proposal_key, proposals), proposal_key, particle, strength[component]
    )
    # 1 - u is in (0, 1], so that its log is finite and a ratio of -inf or NaN never passes.
    return component, candidate, jnp.log1p(-acceptance) <= log_ratio


def _drawn_once(key: Array, proposals: Sequence[Proposal]) -> list[Proposal]:
    """The proposals, those that draw in the same way given the same numbers.

    All of them are computed and one is kept. In a compiled loop the same draws of many would
    not be seen to be the same, and each is a loop of its own.
    """
    numbers: dict[int, Tree] = {}

    def once(proposal: Proposal) -> Proposal:
        if not isinstance(proposal, DrawnProposal):
            return proposal
        way = id(proposal.draw)
        if way not in numbers:
            numbers[way] = proposal.draw(key)
        return lambda _, particle, strength: proposal.propose(numbers[way], particle, strength)

    return [once(proposal) for proposal in proposals]


def _ranks(lesson: MetropolisLesson, scores: Array) -> Array:
    """In [0, 1], of the shape of ``scores``: the share of the level's survivors below each."""
    below = jnp.searchsorted(lesson.scores, scores).astype(jnp.float32)
    return jnp.minimum(below / jnp.maximum(lesson.num_survivors, 1), 1.0)


def _adapt(
    mixture: Mixture, tuning: MetropolisTuning, component: Array, moved: Array, jumps: Array
) -> MetropolisTuning:
    """Steers each component's strength towards its target acceptance, and notes its jumps."""
    used = component[:, None] == jnp.arange(tuning.log_strength.shape[0])[None]
    proposed = jnp.sum(used, axis=0, dtype=jnp.float32)
    accepted = jnp.sum(used & moved[:, None], axis=0, dtype=jnp.float32)
    acceptance = accepted / jnp.maximum(proposed, 1.0)
    jump = jnp.sum(jnp.where(used, jumps[:, None], 0.0), axis=0) / jnp.maximum(proposed, 1.0)
    # In the last-particle algorithm, which moves one at a time, a gain of 0.06 made the estimate
    # 17 % too high.
    gain = jnp.square(proposed) / (jnp.square(proposed) + _CAUTION)
    log_strength = tuning.log_strength + gain * (acceptance - mixture.target_acceptance)
    return MetropolisTuning(
        log_strength=jnp.clip(log_strength, math.log(mixture.low), math.log(mixture.high)),
        acceptance=jnp.where(proposed > 0, acceptance, tuning.acceptance),
        efficiency=tuning.efficiency + 0.5 * gain * (jump - tuning.efficiency),
    )


def _against(flags: Array, leaf: Array) -> Array:
    """``flags`` bool[n] shaped to broadcast against a leaf [n, ...]."""
    return flags.reshape(flags.shape + (1,) * (leaf.ndim - 1))


def _checked_mixture(
    proposals: tuple[Proposal | LearnedProposal, ...],
    weights: Sequence[float] | None,
    adapt_weights: bool,
    target_acceptance: float,
    init_strength: float | Sequence[float],
    bounds: tuple[float, float],
) -> Mixture:
    """The mixture, or one sentence about the first argument that is wrong."""
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
    return Mixture(proposals, shares, strengths, adapt_weights, target_acceptance, low, high)


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
