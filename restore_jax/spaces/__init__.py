"""What a trigger may look like: priors, moves that leave them invariant, stamps.

Each space has a file of its own, and an entry in `restore_jax.spaces.catalogue`.
"""

from typing import TYPE_CHECKING

from restore_jax.lazy import lazily
from restore_jax.spaces.catalogue import SPACES, Space, register
from restore_jax.spaces.settings import Settings

if TYPE_CHECKING:
    from restore_jax.spaces.making import make_space as make_space
    from restore_jax.spaces.types import TriggerSpace as TriggerSpace

_LAZY = {
    "restore_jax.spaces.making": ("make_space",),
    "restore_jax.spaces.types": ("TriggerSpace",),
}
__getattr__, __dir__, _names = lazily(__name__, _LAZY)
__all__ = ["SPACES", "Settings", "Space", "TriggerSpace", "make_space", "register"]
