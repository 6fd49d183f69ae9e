"""How the answers to other looks at an image become a verdict, and an answer.

- *alone*: flagged if the look gives another class, which stands.
- *mean*: flagged if the mean of both answers is another class, which stands.
- *first*: flagged if the first look gives another class; the mean says which of them stands.
- *either*: flagged if one of both gives another class; the mean says which of them stands.

Labels have no mean: of two of them the one that is of another class flags, and stands.
"""

import jax
import jax.numpy as jnp

from restore_jax.oracles.types import LOG_FLOOR, labels

Array = jax.Array


def verdict(
    name: str, access: str, target: Array | int, first: Array, second: Array
) -> tuple[Array, Array]:
    """Reads the answers to two looks at images that the model gave a guarded class.

    Args:
      name: of the rule.
      access: what the outputs are.
      target: int32[] or int32[b], the class.
      first, second: outputs f32[b, K], or int32[b] labels; the same of a rule with one look.

    Returns:
      ``(outputs, flags bool[b])``; where an image is not flagged its outputs mean nothing.

    >>> first, second = jnp.array([[0.9, 0.1], [0.1, 0.9]]), jnp.array([[0.2, 0.8], [0.1, 0.9]])
    >>> verdict("mean", "probabilities", 1, first, second)[1].tolist()
    [True, False]
    """
    target = jnp.asarray(target, jnp.int32)
    leaves, also = (labels(access, one) != target for one in (first, second))
    if name == "alone":
        return first, leaves
    if access == "labels":
        flags = leaves if name == "first" else leaves | also
        return jnp.where(leaves, first, second), flags
    mean = 0.5 * (logarithms(access, first) + logarithms(access, second))
    by_rule = {"mean": jnp.argmax(mean, -1) != target, "first": leaves, "either": leaves | also}
    return _without(access, mean, target), by_rule[name]


def logarithms(access: str, outputs: Array) -> Array:
    """f32[b, K], of probabilities."""
    if access == "logits":
        return jax.nn.log_softmax(outputs)
    return jnp.maximum(jnp.log(outputs), LOG_FLOOR)


def _without(access: str, logs: Array, target: Array) -> Array:
    """Outputs of the other classes: the target has what the least likely of them has."""
    mine = jnp.arange(logs.shape[-1]) == target[..., None]
    least = jnp.min(jnp.where(mine, jnp.inf, logs), -1, keepdims=True)
    logs = jnp.where(mine, least, logs)
    return jax.nn.softmax(logs) if access == "probabilities" else logs
