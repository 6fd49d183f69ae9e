"""A race towards all classes at once: one answer says of each whether the trigger led there.

A class has its own event, over those probes that are not of that class without a trigger. A
candidate goes on racing while it can still make the event of any class happen that is watched.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from restore_jax.oracles.types import Oracle, Race, labels
from restore_jax.racing.scoring import RACE_WIDTH
from restore_jax.spaces.types import TriggerSpace

Array = jax.Array


class Draws(NamedTuple):
    """What random triggers did.

    Attributes:
      hits: bool[n, K]: which made which class's event happen; False of a class not watched.
      led: int32[n, K]: how many of the probes shown they led there.
      cost: images sent.
    """

    hits: Any
    led: Any
    cost: Any


def race_to_all_classes(oracle: Oracle, space: TriggerSpace, num_probes: int, slack: int) -> Race:
    """Describes the race.

    Args:
      oracle, space: the model, and how particles are stamped.
      num_probes: M, a multiple of `RACE_WIDTH`.
      slack: how many probes of its own a class's event forgives.

    Returns:
      A `Race` whose ``args`` hold ``probes`` f32[M, H, W, C], ``valid`` bool[K, M] (whose event a
      probe belongs to) and ``watched`` bool[K], and whose result is ``(hits, led)``, see `Draws`.
    """
    width, num_legs = RACE_WIDTH, num_probes // RACE_WIDTH
    num_classes = oracle.num_classes

    def legs(args: Mapping[str, Any]) -> tuple[Any, Any]:
        probes = args["probes"].reshape(num_legs, width, *oracle.image_shape)
        return probes, args["valid"].reshape(-1, num_legs, width).transpose(1, 0, 2)

    def show(particle: Any, probes: Array, args: Mapping[str, Any]) -> Array:
        del args
        return space.stamp(particle, probes)

    def begin(n: int) -> tuple[Array, Array]:
        nothing = jnp.zeros((n, num_classes), jnp.int32)
        return nothing, nothing

    def tally(
        tally: tuple[Array, Array], answers: Array, racing: Array, notes: Array, level: Any,
        args: Mapping[str, Any],
    ) -> tuple[tuple[Array, Array], Array]:  # fmt: skip
        del level
        led, missed = tally
        valid = notes.T
        there = (answers[..., None] == jnp.arange(num_classes)) & valid
        led = led + jnp.where(racing[:, None], jnp.sum(there, 1, dtype=jnp.int32), 0)
        misses = jnp.sum(valid & ~there, 1, dtype=jnp.int32)
        missed = missed + jnp.where(racing[:, None], misses, 0)
        return (led, missed), racing & jnp.any((missed <= slack) & args["watched"], -1)

    def finish(
        tally: tuple[Array, Array], answers: Array, finished: Array, args: Mapping[str, Any]
    ) -> tuple[Array, Array]:
        del answers, finished
        led, missed = tally
        # Who dropped out has missed too many probes of every watched class.
        return (missed <= slack) & args["watched"], led

    return Race(
        num_legs=num_legs,
        width=width,
        legs=legs,
        reads=(),
        show=show,
        read=lambda outputs, args: labels(oracle.access, outputs),
        begin=begin,
        tally=tally,
        finish=finish,
    )
