"""How close a trigger is to the event, asked of a model with as few images as possible.

The event: *this trigger sends at least c of the m probes to the target*, with
``c = needed(success, m)``. With logits or probabilities a trigger's score is the c-th
largest of the probes' margins and the event begins at 0; with labels it is the number of
probes that go to the target, and the event begins at c.

Racing: a candidate matters only if it gets above the sampler's level, so it is shown the
probes a few at a time, and no more of them once so many have failed that it cannot. The
order of the probes is fixed, so what is decided is exactly what all m would have decided
(delayed acceptance: Christen & Fox 2005, J. Comput. Graph. Stat. 14(4)).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from restore_jax.oracles import Oracle, margins
from restore_jax.spaces import TriggerSpace
from restore_jax.splitting import Scorer

Array = jax.Array
RACE_WIDTH = 4
"""Probes shown at a time, or the next smaller divisor of m that is at least 2."""


def needed(success: float, num_probes: int) -> int:
    """How many of the probes must go to the target, at least 1."""
    return max(1, math.ceil(success * num_probes - 1e-6))


def threshold(oracle: Oracle, success: float, num_probes: int) -> float:
    """Where the event begins on the scale of `make_scorer`."""
    return float(needed(success, num_probes)) if oracle.access == "labels" else 0.0


def make_scorer(
    oracle: Oracle, space: TriggerSpace, success: float, num_probes: int, *, race: bool = True
) -> Scorer:
    """The score described above, as the sampler's long form.

    Args:
      oracle: the model asked.
      space: how particles are stamped.
      success: in (0, 1].
      num_probes: m >= 1.
      race: whether to stop showing probes to a candidate that can no longer get above the
        level; False shows all m to every active candidate.

    Returns:
      A `Scorer` whose ``args`` is a dict of ``weights`` (the oracle's), ``probes``
      f32[m, H, W, C], ``target`` int32[] and ``handicap`` f32[], subtracted from every
      margin (0 for the event as defined; not with labels). A candidate that cannot get
      above the level scores -inf. The cost counts the images of active candidates that were
      still racing.
    """
    c = needed(success, num_probes)
    width = _race_width(num_probes) if race else num_probes

    def score(
        key: Array, particles: Any, level: Array, active: Array, args: dict[str, Any]
    ) -> tuple[Array, Array]:
        del key
        n = active.shape[0]
        together = _together(n, width)
        # How many probes must pass for the score to be above the level, and what passing is.
        if oracle.access == "labels":
            bar, quota = jnp.float32(-0.5), jnp.floor(level) + 1
        else:
            bar, quota = level, jnp.float32(c)

        def ask(particles: Any, probes: Array) -> Array:
            images = jax.vmap(space.stamp, (0, None))(particles, probes)
            outputs = oracle.answer(args["weights"], images.reshape(-1, *images.shape[2:]))
            margin = margins(oracle.access, outputs, args["target"])
            return margin.reshape(-1, width) - args["handicap"]

        def leg(carry: tuple[Array, Array, Array], probes: Array) -> Any:
            racing, passed, shown = carry
            # Those still racing come first, so that whole chunks behind them can be skipped.
            order = jnp.argsort(~racing, stable=True)
            runners = jnp.sum(racing, dtype=jnp.int32)

            def chunk(_: None, first: Array) -> tuple[None, Array]:
                rows = lax.dynamic_slice_in_dim(order, first, together)
                asked = lax.cond(
                    first < runners,
                    lambda: ask(jax.tree.map(lambda leaf: leaf[rows], particles), probes),
                    lambda: jnp.full((together, width), -jnp.inf, jnp.float32),
                )
                return None, asked

            _, asked = lax.scan(chunk, None, jnp.arange(0, n, together))
            margin = jnp.zeros((n, width), jnp.float32).at[order].set(asked.reshape(n, width))
            passed = passed + jnp.sum(margin > bar, -1)
            shown = shown + width
            cost = jnp.uint32(runners) * jnp.uint32(width)
            racing = racing & (passed + (num_probes - shown) >= quota)
            return (racing, passed, shown), (margin, cost)

        start = (active, jnp.zeros(n, jnp.int32), jnp.int32(0))
        legs = args["probes"].reshape(num_probes // width, width, *args["probes"].shape[1:])
        (finished, passed, _), (margin, cost) = lax.scan(leg, start, legs)
        if oracle.access == "labels":
            scores = passed.astype(jnp.float32)
        else:
            by_probe = jnp.moveaxis(margin, 0, 1).reshape(n, num_probes)
            scores = jnp.sort(by_probe, -1)[:, num_probes - c]
        return jnp.where(finished, scores, -jnp.inf), jnp.sum(cost, dtype=jnp.uint32)

    return Scorer(score=score, max_cost=num_probes)


def _race_width(num_probes: int) -> int:
    """The largest divisor of m in 2 .. RACE_WIDTH; m itself if there is none."""
    divisors = [w for w in range(2, RACE_WIDTH + 1) if num_probes % w == 0]
    return max(divisors, default=num_probes)


def _together(n: int, width: int) -> int:
    """How many candidates are asked about at once: a divisor of n that makes a good chunk.

    About 64 images on a CPU, where larger ones fall out of its cache, 4,096 elsewhere.
    """
    images = 64 if jax.default_backend() == "cpu" else 4096
    most = max(1, round(images / width))
    return max(k for k in range(1, min(n, most) + 1) if n % k == 0)
