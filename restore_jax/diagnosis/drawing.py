"""The first random triggers of a space, shown to the whole pool: one answer serves all classes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.compilation import chunk_size, compiler_options
from restore_jax.diagnosis.probing import Pool
from restore_jax.host_scoring import ask_stamped
from restore_jax.oracles import LOG_FLOOR, ModelError, Oracle
from restore_jax.scoring import needed
from restore_jax.spaces import TriggerSpace

Array = jax.Array
MOST_NUMBERS = 2**26
"""Margins worked out at once: 256 MiB."""


class Draws(NamedTuple):
    """What the first random triggers did.

    Attributes:
      particles: a pytree with leading axis n.
      scores: f32[K, n]: each class's score of each, as the sampler's (see `scoring`); -inf of a
        class that is not judged.
      empty: f32[K]: the score of no trigger at all.
      outputs: [M, K] or int32[M]: what the model says of the probes without a trigger.
    """

    particles: Any
    scores: np.ndarray
    empty: np.ndarray
    outputs: np.ndarray


def compile_draws(
    oracle: Oracle, space: TriggerSpace, pool: Pool, n: int, book: Callable[[int], None]
) -> Callable[[Array], tuple[Any, np.ndarray]]:
    """Compiles ``(key) -> (particles, outputs [n, M, ...])``: n M images are asked about.

    Args:
      oracle, space, pool: the model, where triggers come from, and the probes.
      n: triggers.
      book: told how many images are about to be sent.
    """
    size = pool.probes.shape[0]
    if oracle.foreign:
        ask = ask_stamped(oracle, space, book)
        sample = jax.jit(lambda key: space.search.sample(key, n))

        def from_the_host(key: Array) -> tuple[Any, np.ndarray]:
            particles = sample(key)
            outputs = ask(particles, np.arange(n), pool.probes, 0.0)
            return particles, _numbers(oracle, outputs).reshape(n, size, *outputs.shape[1:])

        return from_the_host
    together = max(1, chunk_size(oracle.image_shape) // size)
    rounds = -(-n // together)

    @jax.jit
    def sampled(key: Array) -> Any:
        return space.search.sample(key, n)

    def answers(weights: Any, particles: Any, probes: Array) -> Array:
        def some(shown: Any) -> Array:
            images = jax.vmap(space.stamp, (0, None))(shown, probes)
            return oracle.answer(weights, images.reshape(-1, *images.shape[2:]))

        padded = jax.tree.map(
            lambda leaf: jnp.concatenate([leaf, leaf[: rounds * together - n]]), particles
        )
        chunks = jax.tree.map(lambda leaf: leaf.reshape(rounds, together, *leaf.shape[1:]), padded)
        outputs = jax.lax.map(some, chunks)
        return outputs.reshape(rounds * together, size, *outputs.shape[2:])[:n]

    compiled = jax.jit(answers, compiler_options=compiler_options())

    def traced(key: Array) -> tuple[Any, np.ndarray]:
        particles = sampled(key)
        book(n * size)
        outputs = compiled(oracle.weights, particles, pool.probes)
        return particles, _numbers(oracle, np.asarray(outputs))

    return traced


def unstamped(oracle: Oracle, pool: Pool, book: Callable[[int], None]) -> np.ndarray:
    """[M, K] or int32[M]: what the model says of the probes without a trigger."""
    book(len(pool.probes))
    return _numbers(oracle, np.asarray(oracle.query(pool.probes)))


def _numbers(oracle: Oracle, outputs: np.ndarray) -> np.ndarray:
    """The outputs, refused if any of them is no number."""
    if not np.isfinite(outputs).all():
        raise ModelError(
            f"{oracle.name} answers with NaN or infinity: nothing can be concluded from that; is "
            "it given images as it expects them (--range, --mean, --std)?"
        )
    return outputs


def scores_of(
    access: str, outputs: np.ndarray, pool: Pool, success: float, num_classes: int
) -> np.ndarray:
    """f32[K, n]: each class's score of triggers whose outputs are [n, M, K], or int32[n, M].

    With logits or probabilities the c-th largest margin over the class's probes, with labels
    how many of them are led there; -inf of a class that is not judged.
    """
    m = int(pool.valid.sum(1).max())
    c = needed(success, m)
    n, size = outputs.shape[:2]
    scores = np.full((num_classes, n), -np.inf, np.float32)
    places = [np.flatnonzero(row) for row in pool.valid]
    if access == "labels":
        for k in np.flatnonzero(pool.judged):
            scores[k] = (outputs[:, places[k]] == k).sum(1)
        return scores
    at_once = max(1, MOST_NUMBERS // (size * num_classes))
    for first in range(0, n, at_once):
        margin = all_margins(access, outputs[first : first + at_once])
        for k in np.flatnonzero(pool.judged):
            mine = margin[:, places[k], k]
            scores[k, first : first + at_once] = np.partition(mine, m - c, 1)[:, m - c]
    return scores


def all_margins(access: str, outputs: np.ndarray) -> np.ndarray:
    """f32[..., K]: each class's lead over the best other one; see `oracles.margins`."""
    values = np.asarray(outputs, np.float32)
    if access == "probabilities":
        with np.errstate(divide="ignore"):
            values = np.maximum(np.log(values), LOG_FLOOR)
    best = values.argmax(-1)[..., None]
    second = np.partition(values, -2, -1)[..., -2:-1]
    top = np.take_along_axis(values, best, -1)
    lead = np.minimum(values - top, np.float32(-1e-30))
    np.put_along_axis(lead, best, np.maximum(top - second, 0.0), -1)
    return lead
