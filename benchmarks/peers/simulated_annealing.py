"""DeBackdoor: simulated annealing of the smoothed attack success rate.

Popovic, Sadeghi, Yu, Chawla & Khalil 2025, "DeBackdoor: A Deductive Framework for Detecting
Backdoor Attacks on Deep Models with Limited Data", arXiv 2503.21305. The objective is their
continuous attack success rate,

    cASR = mean over probes of 1 / (1 + exp(-lambda d)),   d = p_target - max_{k != target} p_k,

p being the softmax of the stamped probe's logits. The search: perturb the current trigger; keep
the perturbed one if its cASR is higher, and otherwise with probability exp(change / temperature);
cool geometrically. Every candidate is shown all probes.

What follows restore_jax and not the paper: the space of triggers, whose moves, each as likely as
any other, are the perturbations (without their Metropolis-Hastings factor, for this optimises and
does not sample); the event, which ends the search; and a new chain from a fresh draw where one has
cooled down, until the budget is spent. A perturbation that changes no pixel sends nothing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from peers.trigger_search import Args, Outcome, check, nothing

from restore_jax.compilation import compiler_options
from restore_jax.oracles import Oracle
from restore_jax.racing import needed
from restore_jax.spaces import TriggerSpace

Array = jax.Array

SHARPNESS = 5.0
"""lambda. Chosen here: a probe counts between 0.007 and 0.993."""

ITERATIONS = 1000
"""Perturbations per chain. Chosen here, from the hundreds to thousands that annealing takes."""

HOTTEST, COLDEST = 0.1, 0.001
"""First and last temperature, on the scale of cASR. Chosen here: at first the loss of two of
twenty probes is accepted with probability 1/e, at last that of a fiftieth of one."""

STRENGTHS = (1e-3, 1.0)
"""Range of a move's strength, drawn log-uniformly: the range that restore_jax adapts it in."""


class Chain(NamedTuple):
    """One chain of annealing.

    Attributes:
      particle: the current trigger, as the space's particle, and its cASR f32[].
      best: the particle that led most probes to the target, the first of equals; `most`
        int32[], how many.
      iteration: int32[], perturbations behind.
      asked: int32[], candidates shown to the model.
    """

    particle: Any
    casr: Array
    best: Any
    most: Array
    iteration: Array
    asked: Array


def search(
    key: Array,
    oracle: Oracle,
    space: TriggerSpace,
    target: int,
    probes: Array,
    budget: int,
    success: float = 0.95,
) -> Outcome:
    """Anneals chain after chain until one makes the event; see `trigger_search`."""
    check(oracle, target, probes, budget, success)
    m = probes.shape[0]
    wanted = needed(success, m)
    moves = list(space.proposals.values())
    log_strengths = jnp.log(jnp.asarray(STRENGTHS))

    def ask(particle: Any, args: Args) -> tuple[Array, Array]:
        """A particle's cASR f32[] and how many probes it leads to the target, int32[]."""
        logits = oracle.answer(args.weights, space.stamp(particle, args.probes))
        p = jax.nn.softmax(logits, -1)
        others = jnp.max(jnp.where(jnp.arange(p.shape[-1]) == args.target, -jnp.inf, p), -1)
        casr = jnp.mean(jax.nn.sigmoid(SHARPNESS * (p[:, args.target] - others)))
        return casr, jnp.sum(jnp.argmax(logits, -1) == args.target, dtype=jnp.int32)

    def perturb(key: Array, particle: Any) -> tuple[Any, Array]:
        """A neighbour, and whether it differs where it is seen."""
        key_move, key_strength, key_draw = jax.random.split(key, 3)
        move = jax.random.randint(key_move, (), 0, len(moves))
        strength = jnp.exp(
            jax.random.uniform(key_strength, (), jnp.float32, log_strengths[0], log_strengths[1])
        )
        proposal, _ = lax.switch(move, moves, key_draw, particle, strength)
        old, new = (space.trigger(one, jnp.int32(0)) for one in (particle, proposal))
        return proposal, jnp.any(old.mask != new.mask) | jnp.any(old.pattern != new.pattern)

    def anneal(key: Array, args: Args, most_asked: Array) -> Chain:
        """One chain, which asks about at most ``most_asked`` >= 1 candidates."""
        key_start, key_steps = jax.random.split(key)

        def goes_on(chain: Chain) -> Array:
            left = (chain.iteration < ITERATIONS) & (chain.asked < most_asked)
            return left & (chain.most < wanted)

        def step(chain: Chain) -> Chain:
            key_perturb, key_accept = jax.random.split(
                jax.random.fold_in(key_steps, chain.iteration)
            )
            proposal, changed = perturb(key_perturb, chain.particle)
            casr, led = lax.cond(
                changed,
                lambda: ask(proposal, args),
                lambda: (chain.casr, jnp.int32(-1)),
            )
            temperature = HOTTEST * (COLDEST / HOTTEST) ** (chain.iteration / (ITERATIONS - 1))
            accept = jax.random.uniform(key_accept) < jnp.exp((casr - chain.casr) / temperature)
            better = led > chain.most
            return Chain(
                particle=_where(accept, proposal, chain.particle),
                casr=jnp.where(accept, casr, chain.casr),
                best=_where(better, proposal, chain.best),
                most=jnp.maximum(led, chain.most),
                iteration=chain.iteration + 1,
                asked=chain.asked + changed,
            )

        start = jax.tree.map(lambda rows: rows[0], space.search.sample(key_start, 1))
        casr, led = ask(start, args)
        first = Chain(start, casr, start, led, jnp.int32(0), jnp.int32(1))
        return lax.while_loop(goes_on, step, first)

    chains = jax.jit(anneal, compiler_options=compiler_options())
    args = Args(oracle.weights, probes, jnp.int32(target))
    asked, most, trigger = 0, -1, nothing(oracle.image_shape, target)
    number = 0
    while most < wanted and (left := budget // m - asked) > 0:
        chain = chains(jax.random.fold_in(key, number), args, jnp.int32(left))
        number, asked = number + 1, asked + int(chain.asked)
        if int(chain.most) > most:
            most, trigger = int(chain.most), space.trigger(chain.best, jnp.int32(target))
    return Outcome(trigger, most >= wanted, m * asked, max(most, 0) / m)


def _where(condition: Array, new: Any, old: Any) -> Any:
    """One of two particles."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
