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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from restore_jax.errors import InputError
from restore_jax.oracles.types import NOBODY, Books, Oracle, Race, margins
from restore_jax.spaces.types import TriggerSpace
from restore_jax.splitting import Scorer
from restore_jax.splitting.types import Args, Particle, Particles, Tree

Array = jax.Array
RACE_WIDTH = 4
"""Probes shown at a time, or the next smaller divisor of m that is at least 2."""


def needed(success: float, num_probes: int) -> int:
    """How many of the probes must go to the target, at least 1.

    >>> needed(0.95, 20), needed(0.75, 8)
    (19, 6)
    """
    return max(1, math.ceil(success * num_probes - 1e-6))


def threshold(oracle: Oracle, success: float, num_probes: int, num_guides: int = 0) -> float:
    """Where the event begins on the scale of `make_scorer`."""
    if num_guides:
        return float(num_probes + num_guides)
    return float(needed(success, num_probes)) if oracle.access == "labels" else 0.0


class Plan(NamedTuple):
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
) -> Plan:
    """Plans a race; the arguments are those of `make_scorer`.

    Raises:
      InputError: guides without labels, or a number of them that racing cannot divide.
    """
    width = num_probes if all_at_once else race_width(num_probes)
    if num_guides and (oracle.access != "labels" or num_guides % width):
        raise InputError(
            f"guides go with labels, in multiples of {width}, not {num_guides} with "
            f"{oracle.access}."
        )
    total = num_guides + num_probes
    shown = np.arange(1, total // width + 1, dtype=np.int32) * width
    return Plan(
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

    >>> black, white = jnp.zeros((1, 2, 2, 3)), jnp.ones((1, 2, 2, 3))
    >>> float(faded(black, white, jnp.float32(0.25)).max())
    0.25
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
    books: Books = NOBODY,
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
      books: of a model that is asked from the host: pay for every image before it is sent.

    Returns:
      A `Scorer` whose ``args`` is a dict of ``weights`` (the oracle's), ``probes``
      f32[num_guides + m, H, W, C], ``target`` int32[] and ``fade`` f32[] in [0, 1], the share
      of a trigger's effect that is taken back (0 for the event as defined). A candidate that
      cannot get above the level scores -inf. The cost counts the images of active candidates
      that were still racing.

    Raises:
      InputError: guides without labels, or a number of them that racing cannot divide.
    """
    plan = plan_race(oracle, success, num_probes, num_guides, all_at_once=not race)
    raced = oracle.race(race_to_one_class(oracle, space, plan), books)

    def score(
        key: Array, particles: Particles, level: Array, active: Array, args: Args
    ) -> tuple[ArrayLike, ArrayLike]:
        del key
        return raced(particles, active, level, args)

    return Scorer(score=score, max_cost=num_guides + num_probes)


def race_to_one_class(oracle: Oracle, space: TriggerSpace, plan: Plan) -> Race:
    """Describes the race whose result is the scores f32[n]; see `make_scorer` for ``args``."""

    def legs(args: Args) -> tuple[Array, Tree]:
        images = args["probes"]
        probes = images.reshape(plan.num_legs, plan.width, *images.shape[1:])
        return probes, (plan.is_guides, plan.guides_left, plan.probes_left)

    def show(particle: Particle, probes: Array, args: Args) -> Array:
        return faded(space.stamp(particle, probes), probes, args["fade"])

    def begin(n: int) -> tuple[Array, Array]:
        nobody = jnp.zeros(n, jnp.int32)
        return nobody, nobody

    def tally(
        tally: tuple[Array, Array], answers: Array, racing: Array, notes: Tree, level: Array,
        args: Args,
    ) -> tuple[tuple[Array, Array], Array]:  # fmt: skip
        del args
        guided, passed = tally
        is_guides, guides_left, probes_left = notes
        # What passing a probe is: being led, or with margins being led by more than the level.
        bar = jnp.float32(-0.5) if plan.by_labels else level
        successes = jnp.sum(answers > bar, -1, dtype=jnp.int32)
        guided = guided + jnp.where(is_guides, successes, 0)
        passed = passed + jnp.where(is_guides, 0, successes)
        can = hopeful(plan, guided + guides_left, passed + probes_left, level)
        return (guided, passed), racing & can

    def finish(tally: tuple[Array, Array], answers: Array, finished: Array, args: Args) -> Array:
        del args
        if plan.by_labels:
            scores = labels_score(plan, *tally)
        else:
            scores = jnp.sort(answers, -1)[:, plan.num_probes - plan.needed]
        return jnp.where(finished, scores, -jnp.inf)

    return Race(
        num_legs=plan.num_legs,
        width=plan.width,
        legs=legs,
        reads=("target", "fade"),
        show=show,
        read=lambda outputs, args: margins(oracle.access, outputs, args["target"]),
        begin=begin,
        tally=tally,
        finish=finish,
    )


def hopeful(plan: Plan, guided: Array, passed: Array, level: Array) -> Array:
    """bool[n]: who can get above the level with so many guides and probes int32[n] led at best."""
    if not plan.by_labels:
        return passed >= plan.needed
    return labels_score(plan, guided, passed) > level


def labels_score(plan: Plan, guided: Array, passed: Array) -> Array:
    """f32[n] from how many guides and probes int32[n] are led; see the top of this file."""
    if plan.num_guides == 0:
        return passed.astype(jnp.float32)
    most = plan.num_guides + plan.num_probes
    short = jnp.minimum(guided + passed, most - 1)
    return jnp.where(passed >= plan.needed, most, short).astype(jnp.float32)


def whole_legs(num_guides: int, num_probes: int) -> int:
    """The largest number of guides, at most ``num_guides``, that racing over m probes can show.

    Even, since guides come in two distances.

    >>> whole_legs(11, 20)
    8
    """
    leg = math.lcm(2, race_width(num_probes))
    return num_guides // leg * leg


def race_width(num_probes: int) -> int:
    """The largest divisor of m in 2 .. RACE_WIDTH; m itself if there is none.

    >>> race_width(20), race_width(7)
    (4, 7)
    """
    divisors = [w for w in range(2, RACE_WIDTH + 1) if num_probes % w == 0]
    return max(divisors, default=num_probes)
