"""Chooses, for one class of one model, the looks that tell stamped images from honest ones."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.oracles.types import labels
from restore_jax.purification.rules import MIXING, TRANSPLANTING, WITH_LABELS, verdict
from restore_jax.purification.types import Look, Rule

Array = jax.Array
Ask = Callable[[Array], np.ndarray]
"""``(images f32[b, H, W, C]) -> outputs``, booked."""
WRONG = 0.3
"""What a stamped image costs that leaves the class for one that it is not of, where one that stays
costs 1."""
HARM = 0.2
"""What an honest image costs that loses its answer. Synthetic probes lose theirs several times as
often as photographs, whose answers are surer."""
MORE = 0.003
"""What a second look costs, and each place in the row of looks: of rules that are level, the one
that knows least of the triggers."""


class Shown(NamedTuple):
    """Images that looks are tried on.

    Attributes:
      images: f32[b, H, W, C].
      target: int32[b], the class that is suspicious: of stamped images the guarded one, of honest
        images their own.
      answer: int32[b], what it should be given: without its trigger; its own.
      stamped: bool[b].
    """

    images: Array
    target: np.ndarray
    answer: np.ndarray
    stamped: np.ndarray


def choose(
    ask: Ask,
    access: str,
    shown: Shown,
    views: Sequence[Look],
    transplants: Sequence[Look],
) -> Rule:
    """The rule that costs least, of all pairs of looks; see `WRONG` and `HARM`.

    Args:
      ask: asks the model about all images once for each look.
      access: what the model is asked for.
      shown: stamped and honest images, some of each.
      views: looks that can stand alone, those to be preferred first.
      transplants: looks that can convict alone, but not say what an image is.
    """
    looks = [*views, *transplants]
    outputs = jnp.stack([jnp.asarray(ask(look.change(shown.images))) for look in looks])
    least: tuple[float, Rule] | None = None
    for name, pairs in _rules(access, len(views), len(looks)):
        first, second = np.array(pairs).T
        stands = np.asarray(_stands(name, access, outputs, first, second, shown.target))
        places = first + np.where(second != first, 1 + second, 0)
        costs = _costs(stands, shown) + MORE * places / len(looks)
        best = int(np.argmin(costs))
        if least is None or costs[best] < least[0]:
            one, other = looks[first[best]], looks[second[best]]
            least = float(costs[best]), Rule(name, one, None if name == "alone" else other)
    assert least is not None, "there is always a look that can stand alone"
    return least[1]


def _rules(access: str, views: int, looks: int) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """The rules by name, each with its pairs of looks."""
    yield "alone", [(i, i) for i in range(views)]
    names = (*MIXING, *TRANSPLANTING)
    for name in names if access != "labels" else WITH_LABELS:
        others = range(views, looks) if name in TRANSPLANTING else range(views)
        alike = name in ("mean", "either") and access != "labels"
        pairs = [(i, j) for i in range(views) for j in others if (i < j if alike else i != j)]
        if pairs:
            yield name, pairs


@partial(jax.jit, static_argnums=(0, 1))
def _stands(
    name: str, access: str, outputs: Array, first: Array, second: Array, target: Array
) -> Array:
    """int32[p, b], the classes that stand by each of p pairs of looks."""

    def one(i: Array, j: Array) -> Array:
        stands, flags = verdict(name, access, target, outputs[i], outputs[j])
        return jnp.where(flags, labels(access, stands), target)

    return jax.lax.map(lambda pair: one(*pair), (first, second))


def _costs(stands: np.ndarray, shown: Shown) -> np.ndarray:
    """f64[p], of what stands, int32[p, b]."""
    stays, right = stands == shown.target, stands == shown.answer
    stamped, honest = shown.stamped, ~shown.stamped
    wrong = ~right & ~stays
    cost = (stays[:, stamped] + WRONG * wrong[:, stamped]).mean(-1)
    if honest.any():
        cost = cost + HARM * (~right[:, honest]).mean(-1)
    return np.asarray(cost, np.float64)
