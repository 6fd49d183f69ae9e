"""Makes a search space by its name."""

from restore_jax.spaces.catalogue import find
from restore_jax.spaces.types import TriggerSpace
from restore_jax.types import Argument


def make_space(name: str, image_shape: tuple[int, int, int], **options: Argument) -> TriggerSpace:
    """Makes a search space by its name.

    Args:
      name: one that `restore_jax.spaces.catalogue` knows.
      image_shape: (H, W, C) of the images, in pixels.
      **options: what the space takes: see its function.

    Raises:
      InputError: if there is no such space or option, or an option is outside its range.

    >>> make_space("patch", (32, 32, 3), max_size=3).description["max_size"]
    3
    """
    return find(name).make(image_shape, **options)
