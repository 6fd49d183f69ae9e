"""Plain random search: independent draws from the space's prior, raced.

The probes are shown four at a time, in their order, and a candidate is dropped as soon as so many
have failed that it cannot make the event (`restore_jax.racing` says why that changes nothing).
What this needs on average is what the event's probability under the prior costs without splitting.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from peers.trigger_search import Args, Outcome, check, nothing, together

from restore_jax.compilation import compiler_options
from restore_jax.oracles import Oracle
from restore_jax.racing import RACE_WIDTH, needed
from restore_jax.spaces import TriggerSpace

Array = jax.Array

CANDIDATES = 32
"""Candidates per round, at most."""


def search(
    key: Array,
    oracle: Oracle,
    space: TriggerSpace,
    target: int,
    probes: Array,
    budget: int,
    success: float = 0.95,
) -> Outcome:
    """Draws round after round until one candidate makes the event; see `trigger_search`."""
    check(oracle, target, probes, budget, success)
    m = probes.shape[0]
    wanted = needed(success, m)
    width = max(w for w in range(1, RACE_WIDTH + 1) if m % w == 0)
    group = together(CANDIDATES, width)

    def ask(particles: Any, racing: Array, shown: Array, args: Args) -> Array:
        """int32[group]: how many of the probes shown each racing candidate leads."""
        images = jax.vmap(space.stamp, (0, None))(particles, shown)
        # Those that were dropped keep their place in the call; nothing of them is sent.
        images = jnp.where(racing[:, None, None, None, None], images, 0.0)
        logits = oracle.answer(args.weights, images.reshape(-1, *images.shape[2:]))
        led = (jnp.argmax(logits, -1) == args.target).reshape(group, width)
        return jnp.sum(led & racing[:, None], -1, dtype=jnp.int32)

    def race(key: Array, args: Args, active: Array) -> tuple[Any, Array, Array]:
        """A round of ``active`` int32[] candidates: the best, what it led, the images sent."""
        particles = space.search.sample(key, CANDIDATES)
        grouped = jax.tree.map(lambda x: x.reshape(-1, group, *x.shape[1:]), particles)

        def leg(carry: tuple[Array, Array, Array], shown: Array) -> tuple[Any, Array]:
            racing, passed, left = carry

            def one_group(_: None, some: tuple[Any, Array]) -> tuple[None, Array]:
                of_group, in_race = some
                return None, lax.cond(
                    jnp.any(in_race),
                    lambda: ask(of_group, in_race, shown, args),
                    lambda: jnp.zeros(group, jnp.int32),
                )

            _, led = lax.scan(one_group, None, (grouped, racing.reshape(-1, group)))
            passed, left = passed + led.reshape(-1), left - width
            sent = jnp.sum(racing, dtype=jnp.int32) * width
            return (racing & (passed + left >= wanted), passed, left), sent

        start = (jnp.arange(CANDIDATES) < active, jnp.zeros(CANDIDATES, jnp.int32), jnp.int32(m))
        legs = args.probes.reshape(m // width, width, *args.probes.shape[1:])
        (_, passed, _), sent = lax.scan(leg, start, legs)
        best = jnp.argmax(passed)
        return jax.tree.map(lambda x: x[best], particles), passed[best], jnp.sum(sent)

    rounds = jax.jit(race, compiler_options=compiler_options())
    args = Args(oracle.weights, probes, jnp.int32(target))
    queries, most, trigger = 0, -1, nothing(oracle.image_shape, target)
    number = 0
    # A round has no more candidates than could all be shown every probe.
    while most < wanted and (affordable := (budget - queries) // m) > 0:
        active = jnp.int32(min(affordable, CANDIDATES))
        particle, led, sent = rounds(jax.random.fold_in(key, number), args, active)
        number, queries = number + 1, queries + int(sent)
        if int(led) > most:
            most, trigger = int(led), space.trigger(particle, jnp.int32(target))
    return Outcome(trigger, most >= wanted, queries, max(most, 0) / m)
