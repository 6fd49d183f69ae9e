"""What every search space of triggers looks like from outside.

A space is a prior over *particles* (small arrays that describe a trigger), moves
that leave this prior invariant, and the way from a particle to a stamped image.
Each file of this folder holds one space, as the same functions in the same order:
``draw``, ``trigger``, ``stamp``, ``refresh``, ``proposals``, and last the function
named like the file, which checks its options and returns a `TriggerSpace`.

A proposal that has nowhere to go from a particle gives it back as it was, at a log
ratio of -inf; whatever a proposal gives back is a valid particle.

Shapes: images are ``[m, H, W, C]``, a particle has no leading axis.
"""

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax

from restore_jax.backdoors.trigger import Trigger
from restore_jax.errors import InputError
from restore_jax.splitting.types import Particle, Proposal, SearchSpace
from restore_jax.types import JSON

Array = jax.Array


class TriggerSpace(NamedTuple):
    """A prior over triggers, the moves that keep it, and how a particle is stamped.

    Attributes:
      name: the space's name in the registry.
      search: `SearchSpace`, what the sampler needs.
      trigger: ``(particle, target int32[]) -> Trigger``, for one particle.
      stamp: ``(particle, images f32[m, H, W, C]) -> f32[m, H, W, C]``: what
        ``backdoors.stamp(trigger(particle, target), images)`` gives, without the mask.
      refresh: ``(key, particle, rate f32[] in (0, 1]) -> particle``: the space's plain
        global move, reversible for the prior (log ratio 0); see its file for ``rate``.
      proposals: the moves that the kernel mixes, by name.
      description: the prior's parameters, fit for JSON. A probability can be compared
        with another one only if their descriptions are equal.
    """

    name: str
    search: SearchSpace
    trigger: Callable[[Particle, Array], Trigger]
    stamp: Callable[[Particle, Array], Array]
    refresh: Callable[[Array, Particle, Array], Particle]
    proposals: Mapping[str, Proposal]
    description: dict[str, JSON]


def check_image_shape(image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns (H, W, C); InputError unless they are three whole numbers of at least 1."""
    shape = tuple(image_shape) if isinstance(image_shape, Sequence) else ()
    if len(shape) != 3 or any(not is_whole(side) or side < 1 for side in shape):
        raise InputError(
            f"image_shape is {image_shape!r}; it must be (height, width, channels), "
            "three whole numbers of at least 1."
        )
    height, width, channels = (int(side) for side in shape)
    return height, width, channels


def check_share(name: str, value: float, one_included: bool) -> float:
    """Returns ``value``; InputError unless it is a number in (0, 1), or in (0, 1]."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not (0 < value < 1 or (one_included and value == 1)):
        interval = "(0, 1]" if one_included else "(0, 1)"
        raise InputError(f"{name} is {value!r}; it must be a number in {interval}.")
    return float(value)


def is_whole(value: object) -> bool:
    """Whether a value is a whole number: an int or a NumPy integer, and no bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
