"""The first random triggers of a space, shown to the whole pool: one answer serves all classes."""

import math
from typing import NamedTuple

import jax
import numpy as np

from restore_jax.diagnosis.probing import Pool
from restore_jax.errors import OutOfQueries
from restore_jax.oracles.checking import check_outputs
from restore_jax.oracles.types import LOG_FLOOR
from restore_jax.racing import needed
from restore_jax.run import Run
from restore_jax.spaces.types import TriggerSpace
from restore_jax.splitting.types import Particles, Tree

Array = jax.Array
IMAGES_AT_ONCE, BYTES_AT_ONCE = 512, 1 << 26
"""Stamped images that exist at once: of large ones fewer."""
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

    particles: Particles
    scores: np.ndarray
    empty: np.ndarray
    outputs: np.ndarray


def draw(
    run: Run, space: TriggerSpace, pool: Pool, n: int, key: Array
) -> tuple[Particles, np.ndarray, np.ndarray]:
    """Shows n random triggers to the pool, and the pool without any: (n + 1) M images.

    Args:
      run: whose model is asked, and who pays.
      space, pool: where triggers come from, and the probes.
      n: triggers.
      key: of the draws.

    Returns:
      The particles, what the model says [n, M, ...], and what of the probes alone [M, ...].

    Raises:
      ModelError: an answer that is no number.
      OutOfQueries: the budget does not pay for them.
    """
    oracle, size = run.model, pool.probes.shape[0]
    particles = jax.jit(lambda key: space.search.sample(key, n))(key)
    leaves, shape = jax.tree.flatten(jax.tree.map(np.asarray, particles))
    stamped = jax.jit(jax.vmap(space.stamp, (0, None)))

    def shown(given: tuple[Tree, Array], *some: Array) -> tuple[Array]:
        weights, probes = given
        images = stamped(jax.tree.unflatten(shape, some), probes)
        outputs = oracle.answer(weights, images.reshape(-1, *images.shape[2:]), run.books)
        return (outputs.reshape(-1, size, *outputs.shape[1:]),)

    def unstamped(weights: Tree, images: Array) -> tuple[Array]:
        return (oracle.answer(weights, images, run.books),)

    each = math.prod(pool.probes.shape[1:]) * pool.probes.dtype.itemsize
    together = max(1, min(IMAGES_AT_ONCE, BYTES_AT_ONCE // each) // size)
    if (n + 1) * size > run.ledger.left:
        raise OutOfQueries(f"the budget does not pay for {n} draws shown to {size} probes.")

    def pay(draws: int) -> None:
        run.ledger.charge(draws * size)

    (outputs,) = oracle.map(shown, leaves, together, (oracle.weights, pool.probes), pay)
    (alone,) = oracle.map(
        unstamped, [np.asarray(pool.probes)], size, oracle.weights, run.ledger.charge
    )
    for found in (outputs, alone):
        check_outputs(oracle.name, oracle.access, found)
    return particles, outputs, alone


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
    lead: np.ndarray = np.minimum(values - top, np.float32(-1e-30))
    np.put_along_axis(lead, best, np.maximum(top - second, 0.0), -1)
    return lead
