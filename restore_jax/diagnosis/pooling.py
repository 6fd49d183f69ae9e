"""Random triggers shown to one pool of probes, for all classes at once.

One answer of the model speaks for every class: it says for each of them whether the trigger led
there. A class has its own event, over those probes of the pool that are not of that class
without a trigger; all classes' probes are taken from the same pool, so that no image is asked
about twice. A draw goes on racing while it can still make the event of any class happen that is
not settled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.errors import Inconclusive
from restore_jax.racing import RACE_WIDTH, Draws, needed, race_to_all_classes
from restore_jax.run import Run
from restore_jax.spaces import TriggerSpace

Array = jax.Array
FIRST_LOOK = 48
MOST_LOOKED_AT = 240


class Pool(NamedTuple):
    """The probes of a scan.

    Attributes:
      probes: f32[M, H, W, C], M a multiple of `scoring.RACE_WIDTH`.
      valid: bool[K, M]: whose event a probe belongs to; of each class m probes, or none at all
        if too few are of another class.
      drawn: how many images of the source were looked at.
    """

    probes: Array
    valid: np.ndarray
    drawn: int

    def of_class(self, target: int) -> Array:
        """f32[m, H, W, C]: the probes of one class's event."""
        return self.probes[np.flatnonzero(self.valid[target])]


def make_pool(run: Run, m: int) -> Pool:
    """Looks for the fewest probes of which m serve every class.

    Args:
      run: asks the model about its probes.
      m: probes of each class's event.

    Raises:
      Inconclusive: not even one class has as many.
      DataError: the source has no more images.
    """
    source, num_classes = run.source, run.model.num_classes
    images, answers = source.draw(0, 0), np.zeros(0, np.int32)
    order = np.zeros(0, int)
    most = MOST_LOOKED_AT if source.available is None else min(MOST_LOOKED_AT, source.available)
    while True:
        more = min(FIRST_LOOK, most - len(answers), run.ledger.left)
        if more <= 0:
            break
        fresh = source.draw(len(answers), more)
        images = jnp.concatenate([images, fresh])
        answers = np.concatenate([answers, run.labels(fresh)])
        order = _by_turns(answers)
        if all((answers != k).sum() >= m for k in range(num_classes)):
            break
    served = [k for k in range(num_classes) if (answers != k).sum() >= m]
    if not served:
        raise Inconclusive(
            f"of {len(answers)} probes fewer than {m} are not of one and the same class to this "
            "model: give other `probes`."
        )
    # Probes of the class most often predicted come last by turns, so that few are wasted.
    serves = np.stack([answers[order] != k for k in served])
    counts = np.cumsum(serves, 1)
    size = int(np.argmax((counts >= m).all(0))) + 1
    size = min(-(-size // RACE_WIDTH) * RACE_WIDTH, len(order) // RACE_WIDTH * RACE_WIDTH)
    chosen = order[:size]
    valid = answers[chosen] != np.arange(num_classes)[:, None]
    valid &= np.cumsum(valid, 1) <= m
    valid &= valid.sum(1, keepdims=True) == m
    return Pool(images[chosen], valid, len(answers))


def _by_turns(answers: np.ndarray) -> np.ndarray:
    """The places of all answers, ordered so that classes take turns while they last."""
    turn = np.zeros(len(answers), int)
    for k in np.unique(answers):
        turn[answers == k] = np.arange((answers == k).sum())
    return np.lexsort((np.arange(len(answers)), turn))


def compile_draws(
    run: Run, space: TriggerSpace, pool: Pool, success: float, n: int
) -> Callable[[Array, np.ndarray], Draws]:
    """Compiles ``(key, watched bool[K]) -> Draws`` of n random triggers, booked.

    Args:
      run: whose model is asked.
      space: where triggers come from.
      pool: the probes; images, weights and what is watched are traced.
      success: share of probes that makes the event.
      n: triggers at once.
    """
    model, m = run.model, int(pool.valid.sum(1).max())
    slack, size = m - needed(success, m), pool.probes.shape[0]
    raced = model.race(race_to_all_classes(model, space, size, slack), run.books)
    sample = jax.jit(lambda key: space.search.sample(key, n))

    def draws(key: Array, args: dict[str, Any]) -> Any:
        return raced(sample(key), jnp.ones(n, bool), jnp.float32(0), args)

    draw = model.program(draws, run.books)
    fixed = {"weights": model.weights, "probes": pool.probes, "valid": jnp.asarray(pool.valid)}
    judged = pool.valid.any(1)

    def draw_and_book(key: Array, watched: np.ndarray) -> Draws:
        (hits, led), cost = draw(key, fixed | {"watched": jnp.asarray(watched & judged)})
        return Draws(hits, led, cost)

    return draw_and_book
