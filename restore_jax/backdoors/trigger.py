"""What a trigger is, and how it is put on images."""

import dataclasses

import jax
import jax.numpy as jnp

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trigger:
    """A change to an image that a backdoored model obeys.

    Attributes:
      mask: f32[H, W, 1] in [0, 1]: how much of the pattern each pixel takes.
      pattern: f32[H, W, C]: the colours written, in [0, 1]; for an additive trigger
        the perturbation added, in [-1, 1].
      target: int32[], the class it leads to.
      additive: static; False: ``(1 - mask) * image + mask * pattern``, True:
        ``clip(image + mask * pattern, 0, 1)``.
    """

    mask: Array
    pattern: Array
    target: Array
    additive: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def pixels(self) -> Array:
        """int32[], how many pixels the trigger touches."""
        return jnp.sum(self.mask[..., 0] > 0).astype(jnp.int32)


def stamp(trigger: Trigger, images: Array) -> Array:
    """Puts the trigger on images f32[..., H, W, C] in [0, 1]; same shape, same range."""
    if trigger.additive:
        return jnp.clip(images + trigger.mask * trigger.pattern, 0.0, 1.0)
    return images * (1.0 - trigger.mask) + trigger.mask * trigger.pattern
