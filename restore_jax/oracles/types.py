"""A model as a black box: what may be asked of it, and what an answer is worth."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from restore_jax.compilation import compiler_options

Array = jax.Array
ACCESSES = ("logits", "probabilities", "labels")
LOG_FLOOR = -30.0
"""Log-probabilities are clamped here: a probability of 0 is an ordinary answer."""


class ModelError(ValueError):
    """A model cannot be opened or asked; the message is one sentence that says why."""


@dataclasses.dataclass(frozen=True)
class Oracle:
    """A model that answers queries, and nothing else.

    Attributes:
      name: how the user named it.
      access: "logits", "probabilities" (both f32[b, K]) or "labels" (int32[b]).
      image_shape: (H, W, C).
      class_names: K names.
      weights: a pytree of arrays that `answer` reads; traced, never baked into a program.
      answer: ``(weights, images f32[b, H, W, C] in [0, 1]) -> outputs``, traceable by JAX
        unless ``foreign``.
      metadata: what the model says of itself (planted triggers, accuracy); may be empty.
      foreign: whether ``answer`` takes NumPy arrays on the host instead (a `Foreign`).
      asked: images that opening it took.
      options: what the user said of it, where anything was.
    """

    name: str
    access: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    weights: Any
    answer: Callable[[Any, Any], Any]
    metadata: dict[str, Any]
    foreign: bool = False
    asked: int = 0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def query(self, images: Array) -> Array:
        """Images f32[b, H, W, C] in [0, 1] to outputs: f32[b, K], or int32[b] for labels.

        Raises:
          ModelError: images of another shape or range.
        """
        images = jnp.asarray(images, jnp.float32)
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            raise ModelError(
                f"{self.name} takes images of shape (b, {', '.join(map(str, self.image_shape))}), "
                f"not {images.shape}."
            )
        if images.size and not bool((images.min() >= 0) & (images.max() <= 1)):
            raise ModelError(
                f"images must lie in [0, 1]; these lie in [{float(images.min()):g}, "
                f"{float(images.max()):g}]."
            )
        answer = self.answer if self.foreign else _compiled(self.answer)
        return answer(self.weights, images)


@functools.lru_cache(maxsize=16)
def _compiled(answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`Oracle.answer` as a program of its own; a loop in it would else be compiled every time."""
    return jax.jit(answer, compiler_options=compiler_options())


def labels(access: str, outputs: Any) -> Array:
    """int32[b]: the predicted classes of an oracle's outputs."""
    return outputs if access == "labels" else jnp.argmax(outputs, -1).astype(jnp.int32)


def margins(access: str, outputs: Any, target: Any) -> Array:
    """How clearly each answer is the target; at least 0 where (and only where) it is.

    Args:
      access: what the outputs are.
      outputs: as `Oracle.answer` gives them.
      target: int32[].

    Returns:
      f32[b]: with logits (or log-probabilities, clamped) the target's lead over the best
      other class; with labels 0 for the target and -1 for any other. Where the answer is not
      the target although the two are level (the other class has the lower number, or both are
      clamped), the margin is the largest number below 0.
    """
    hit = labels(access, outputs) == target
    if access == "labels":
        return jnp.where(hit, 0.0, -1.0)
    if access == "probabilities":
        outputs = jnp.maximum(jnp.log(outputs), LOG_FLOOR)
    mine = jnp.arange(outputs.shape[-1]) == target
    lead = jnp.sum(jnp.where(mine, outputs, 0.0), -1) - jnp.max(
        jnp.where(mine, -jnp.inf, outputs), -1
    )
    return jnp.where(hit, jnp.maximum(lead, 0.0), jnp.minimum(lead, -1e-30))
