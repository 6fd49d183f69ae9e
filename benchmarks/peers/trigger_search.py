"""What the three trigger searches share: their door, their answer, and one look at a trigger.

Each file of this folder named after a search holds one

    search(key, oracle, space, target, probes, budget, success=0.95) -> Outcome

    key: a PRNG key, consumed; the same key gives the same outcome.
    oracle: an `Oracle` with access "logits".
    space: the `TriggerSpace` searched, or from which the image shape is taken.
    target: the class that a trigger must lead to.
    probes: f32[m, H, W, C] in [0, 1], none of which the model predicts to be the target.
    budget: images that may be sent, at least 1.
    success: share of the probes that makes the event, in (0, 1].

The event is restore_jax's: at least ``needed(success, m)`` of the m probes, stamped, are
predicted as the target. A search ends at its first event, or when the budget does not pay for
what it would ask next.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from restore_jax.backdoors import Trigger, stamp
from restore_jax.oracles import Oracle
from restore_jax.oracles.types import labels

Array = jax.Array
CHUNK = 64
"""Images per call of the network, at most: more fall out of a CPU's cache."""


class Args(NamedTuple):
    """What the compiled part of a search is about; traced, so that one program serves all.

    Attributes:
      weights: the oracle's.
      probes: f32[m, H, W, C].
      target: int32[].
    """

    weights: Any
    probes: Array
    target: Array


class Outcome(NamedTuple):
    """What a search found.

    Attributes:
      trigger: the one that made the event, or else the best one seen.
      reached: whether that trigger made the event.
      queries: images sent, every one counted, at most the budget.
      best: share of the probes that the trigger leads to the target, in [0, 1]. Where a search
        drops a trigger before all probes were shown, those not shown count as not led.
    """

    trigger: Trigger
    reached: bool
    queries: int
    best: float


def check(oracle: Oracle, target: int, probes: Array, budget: int, success: float) -> None:
    """Refuses what no search can work with.

    Raises:
      ValueError: an argument is out of its range (one sentence).
    """
    if oracle.access != "logits":
        raise ValueError(f"the oracle's access is {oracle.access!r}; it must be 'logits'.")
    if not 0 <= target < oracle.num_classes:
        raise ValueError(f"target is {target}; it must be a class, 0 .. {oracle.num_classes - 1}.")
    if probes.ndim != 4 or probes.shape[0] < 1 or probes.shape[1:] != oracle.image_shape:
        raise ValueError(
            f"probes have shape {probes.shape}; it must be (m, "
            f"{', '.join(map(str, oracle.image_shape))}) with m of at least 1."
        )
    if budget < 1:
        raise ValueError(f"budget is {budget}; it must be at least 1 image.")
    if not 0 < success <= 1:
        raise ValueError(f"success is {success}; it must lie in (0, 1].")


def nothing(image_shape: tuple[int, int, int], target: int) -> Trigger:
    """The trigger that changes no pixel: the best of a search that asked nothing."""
    height, width, _ = image_shape
    return Trigger(jnp.zeros((height, width, 1)), jnp.zeros(image_shape), jnp.int32(target))


def hits(oracle: Oracle, trigger: Trigger, args: Args) -> Array:
    """bool[m]: which of the probes the trigger leads to the target."""
    outputs = oracle.answer(args.weights, stamp(trigger, args.probes))
    return labels(oracle.access, outputs) == args.target


def together(n: int, width: int) -> int:
    """The largest divisor of n candidates that, shown ``width`` probes each, fits `CHUNK`."""
    return max(k for k in range(1, n + 1) if n % k == 0 and (k * width <= CHUNK or k == 1))
