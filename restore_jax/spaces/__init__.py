"""What a trigger may look like: priors, moves that leave them invariant, stamps."""

import inspect
from collections.abc import Callable
from typing import Any

from restore_jax.spaces.blend import blend
from restore_jax.spaces.gaussian import gaussian
from restore_jax.spaces.patch import patch
from restore_jax.spaces.scattered import scattered
from restore_jax.spaces.smooth import smooth
from restore_jax.spaces.sparse import sparse
from restore_jax.spaces.stripes import stripes
from restore_jax.spaces.types import TriggerSpace

__all__ = [
    "SPACES",
    "TriggerSpace",
    "blend",
    "gaussian",
    "make_space",
    "patch",
    "scattered",
    "smooth",
    "sparse",
    "stripes",
]

SPACES: dict[str, Callable[..., TriggerSpace]] = {
    "patch": patch,
    "sparse": sparse,
    "gaussian": gaussian,
    "scattered": scattered,
    "blend": blend,
    "stripes": stripes,
    "smooth": smooth,
}


def make_space(name: str, image_shape: tuple[int, int, int], **options: Any) -> TriggerSpace:
    """Makes a search space by its name.

    Args:
      name: a key of `SPACES`.
      image_shape: (H, W, C) of the images, in pixels.
      **options: what the space takes: see its function.

    Raises:
      ValueError: if there is no such space or option, or an option is outside its range.
    """
    if name not in SPACES:
        raise ValueError(f"The search space is {name!r}; it must be one of {', '.join(SPACES)}.")
    make = SPACES[name]
    known = list(inspect.signature(make).parameters)[1:]
    for option in options:
        if option not in known:
            raise ValueError(
                f"The search space {name!r} was given the option {option!r}; "
                f"it takes {', '.join(known)}."
            )
    return make(image_shape, **options)
