"""How close a trigger is to the event, asked of a model with as few images as possible.

The event: *this trigger sends at least c of the m probes to the target*, with
``c = needed(success, m)``. With logits or probabilities a trigger's score is the c-th
largest of the probes' margins and the event begins at 0; with labels it is the number of
probes that go to the target, and the event begins at c.

Labels alone say nothing of a candidate that leads no probe at all. *Guides* then say it: further
images that lie just short of the target's side of the model's boundary, so that little leads
them. A candidate that makes the event happen scores above all others whatever its guides do,
so that the event is what it was.

Racing: a candidate matters only if it gets above the sampler's level, so it is shown the
probes a few at a time, and no more of them once so many have failed that it cannot. The
order of the probes is fixed, so what is decided is exactly what all m would have decided
(delayed acceptance: Christen & Fox 2005, J. Comput. Graph. Stat. 14(4)).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import sequential_vmap

from restore_jax.compilation import chunk_size
from restore_jax.oracles import Oracle, margins
from restore_jax.spaces import TriggerSpace
from restore_jax.splitting import Scorer

Array = jax.Array
RACE_WIDTH = 4
"""Probes shown at a time, or the next smaller divisor of m that is at least 2."""


def needed(success: float, num_probes: int) -> int:
    """How many of the probes must go to the target, at least 1."""
    return max(1, math.ceil(success * num_probes - 1e-6))


def threshold(oracle: Oracle, success: float, num_probes: int, num_guides: int = 0) -> float:
    """Where the event begins on the scale of `make_scorer`."""
    if num_guides:
        return float(num_probes + num_guides)
    return float(needed(success, num_probes)) if oracle.access == "labels" else 0.0


class Race(NamedTuple):
    """In what order candidates are shown guides and probes, and what is left after each leg.

    Attributes:
      needed: probes that must be led, c.
      width: images in a leg.
      num_legs: how many there are.
      num_guides, num_probes: they come in this order.
      by_labels: whether labels are all there is.
      is_guides: bool[num_legs].
      guides_left, probes_left: int32[num_legs], how many have yet to be shown after each leg.
    """

    needed: int
    width: int
    num_legs: int
    num_guides: int
    num_probes: int
    by_labels: bool
    is_guides: np.ndarray
    guides_left: np.ndarray
    probes_left: np.ndarray


def plan_race(
    oracle: Oracle, success: float, num_probes: int, num_guides: int, all_at_once: bool = False
) -> Race:
    """Plans a race; the arguments are those of `make_scorer`.

    Raises:
      ValueError: guides without labels, or a number of them that racing cannot divide.
    """
    width = num_probes if all_at_once else race_width(num_probes)
    if num_guides and (oracle.access != "labels" or num_guides % width):
        raise ValueError(
            f"guides go with labels, in multiples of {width}, not {num_guides} with "
            f"{oracle.access}."
        )
    total = num_guides + num_probes
    shown = np.arange(1, total // width + 1, dtype=np.int32) * width
    return Race(
        needed=needed(success, num_probes),
        width=width,
        num_legs=total // width,
        num_guides=num_guides,
        num_probes=num_probes,
        by_labels=oracle.access == "labels",
        is_guides=shown <= num_guides,
        guides_left=np.maximum(num_guides - shown, 0),
        probes_left=total - np.maximum(shown, num_guides),
    )


def faded(stamped: Array, images: Array, fade: Array) -> Array:
    """Stamped images with the share ``fade`` f32[] in [0, 1] of the change taken back.

    Exactly ``stamped`` at 0 and ``images`` at 1; images f32[..., H, W, C] that broadcast.
    """
    return (1.0 - fade) * stamped + fade * images


def make_scorer(
    oracle: Oracle,
    space: TriggerSpace,
    success: float,
    num_probes: int,
    *,
    num_guides: int = 0,
    race: bool = True,
) -> Scorer:
    """The score described above, as the sampler's long form.

    Args:
      oracle: the model asked.
      space: how particles are stamped.
      success: in (0, 1].
      num_probes: m >= 1.
      num_guides: how many guides come before the probes; with labels only.
      race: whether to stop showing probes to a candidate that can no longer get above the
        level; False shows all m to every active candidate.

    Returns:
      A `Scorer` whose ``args`` is a dict of ``weights`` (the oracle's), ``probes``
      f32[num_guides + m, H, W, C], ``target`` int32[] and ``fade`` f32[] in [0, 1], the share
      of a trigger's effect that is taken back (0 for the event as defined). A candidate that
      cannot get above the level scores -inf. The cost counts the images of active candidates
      that were still racing.

    Raises:
      ValueError: guides without labels, or a number of them that racing cannot divide.
    """
    plan = plan_race(oracle, success, num_probes, num_guides, all_at_once=not race)
    width, c = plan.width, plan.needed

    def score(
        key: Array, particles: Any, level: Array, active: Array, args: dict[str, Any]
    ) -> tuple[Array, Array]:
        del key
        n = active.shape[0]
        by_labels = plan.by_labels
        # What passing a probe is: being led, or with margins being led by more than the level.
        bar = jnp.float32(-0.5) if by_labels else level

        def ask(args: dict[str, Any], particles: Any, probes: Array) -> Array:
            stamped = jax.vmap(space.stamp, (0, None))(particles, probes)
            images = faded(stamped, probes, args["fade"])
            outputs = oracle.answer(args["weights"], images.reshape(-1, *images.shape[2:]))
            return margins(oracle.access, outputs, args["target"]).reshape(-1, width)

        def leg(carry: tuple[Array, Array, Array], shown: Any) -> Any:
            racing, guided, passed = carry
            probes, is_guides, guides_left, probes_left = shown
            margin = ask_racing(ask, asked_with, particles, probes, racing)
            successes = jnp.sum(margin > bar, -1)
            guided = guided + jnp.where(is_guides, successes, 0)
            passed = passed + jnp.where(is_guides, 0, successes)
            cost = jnp.sum(racing, dtype=jnp.uint32) * jnp.uint32(width)
            racing = racing & hopeful(plan, guided + guides_left, passed + probes_left, level)
            return (racing, guided, passed), (margin, cost)

        asked_with = {name: args[name] for name in ("weights", "target", "fade")}
        nobody = jnp.zeros(n, jnp.int32)
        legs = args["probes"].reshape(plan.num_legs, width, *args["probes"].shape[1:])
        shown = (legs, plan.is_guides, plan.guides_left, plan.probes_left)
        (finished, guided, passed), (margin, cost) = lax.scan(leg, (active, nobody, nobody), shown)
        if by_labels:
            scores = labels_score(plan, guided, passed)
        else:
            by_probe = jnp.moveaxis(margin, 0, 1).reshape(n, num_probes)
            scores = jnp.sort(by_probe, -1)[:, num_probes - c]
        return jnp.where(finished, scores, -jnp.inf), jnp.sum(cost, dtype=jnp.uint32)

    return Scorer(score=score, max_cost=num_guides + num_probes)


def ask_racing(ask: Any, args: Any, particles: Any, probes: Array, racing: Array) -> Array:
    """Asks about some probes with the particles still racing; whole chunks of others are skipped.

    On a CPU, searches that are vmapped take turns chunk by chunk: together their images would
    leave the cache, and nobody's chunks could be skipped.

    Args:
      ask: ``(args, particles [k], probes) -> [k, w, ...]``, what the model says of the w stamped
        probes.
      args: a pytree of all arrays that ``ask`` reads besides.
      particles: a pytree with leading axis n.
      probes: f32[w, H, W, C].
      racing: bool[n].

    Returns:
      [n, w, ...]: of particles that do not race it means nothing.
    """
    n = racing.shape[0]
    together = _together(n, probes.shape)
    # Those still racing come first, so that the chunks behind them can be skipped. The last
    # chunk is filled up with copies of the first particle.
    order = jnp.pad(jnp.argsort(~racing, stable=True), (0, -n % together))
    runners = jnp.sum(racing, dtype=jnp.int32)
    some = jax.tree.map(lambda leaf: leaf[:together], particles)
    like = jax.eval_shape(ask, args, some, probes)

    def ask_some(some_race: Array, *given: Any) -> Array:
        return lax.cond(some_race, ask, lambda *_: jnp.zeros(like.shape, like.dtype), *given)

    if jax.default_backend() == "cpu":
        ask_some = sequential_vmap(ask_some)

    def chunk(_: None, first: Array) -> tuple[None, Array]:
        rows = lax.dynamic_slice_in_dim(order, first, together)
        shown = jax.tree.map(lambda leaf: leaf[rows], particles)
        return None, ask_some(first < runners, args, shown, probes)

    _, asked = lax.scan(chunk, None, jnp.arange(0, n, together))
    asked = asked.reshape(-1, *like.shape[1:])[:n]
    return jnp.zeros_like(asked).at[order[:n]].set(asked)


def hopeful(race: Race, guided: Array, passed: Array, level: Array) -> Array:
    """bool[n]: who can get above the level with so many guides and probes int32[n] led at best."""
    if not race.by_labels:
        return passed >= race.needed
    return labels_score(race, guided, passed) > level


def labels_score(race: Race, guided: Array, passed: Array) -> Array:
    """f32[n] from how many guides and probes int32[n] are led; see the top of this file."""
    if race.num_guides == 0:
        return passed.astype(jnp.float32)
    most = race.num_guides + race.num_probes
    short = jnp.minimum(guided + passed, most - 1)
    return jnp.where(passed >= race.needed, most, short).astype(jnp.float32)


def whole_legs(num_guides: int, num_probes: int) -> int:
    """The largest number of guides, at most ``num_guides``, that racing over m probes can show.

    Even, since guides come in two distances.
    """
    leg = math.lcm(2, race_width(num_probes))
    return num_guides // leg * leg


def race_width(num_probes: int) -> int:
    """The largest divisor of m in 2 .. RACE_WIDTH; m itself if there is none."""
    divisors = [w for w in range(2, RACE_WIDTH + 1) if num_probes % w == 0]
    return max(divisors, default=num_probes)


def _together(n: int, probes: tuple[int, ...]) -> int:
    """How many candidates are asked about at once, at most n, so that they make a good chunk.

    Each with ``probes`` (w, H, W, C); about `chunk_size` images.
    """
    return min(n, max(1, round(chunk_size(probes[1:]) / probes[0])))
