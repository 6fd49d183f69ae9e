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
from jax import lax

from restore_jax.compilation import compiler_options
from restore_jax.data.probes import ProbeSource
from restore_jax.host_scoring import ask_stamped
from restore_jax.oracles import Asker, Inconclusive, Ledger, Oracle, labels
from restore_jax.scoring import RACE_WIDTH, ask_racing, needed
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


def make_pool(source: ProbeSource, asker: Asker, ledger: Ledger, num_classes: int, m: int) -> Pool:
    """Looks for the fewest probes of which m serve every class.

    Args:
      source: where they come from.
      asker, ledger: ask about them, and count.
      num_classes: K.
      m: probes of each class's event.

    Raises:
      Inconclusive: not even one class has as many.
      DataError: the source has no more images.
    """
    images, answers = source.draw(0, 0), np.zeros(0, np.int32)
    order = np.zeros(0, int)
    most = MOST_LOOKED_AT if source.available is None else min(MOST_LOOKED_AT, source.available)
    while True:
        more = min(FIRST_LOOK, most - len(answers), ledger.left)
        if more <= 0:
            break
        fresh = source.draw(len(answers), more)
        ledger.charge(more)
        images = jnp.concatenate([images, fresh])
        answers = np.concatenate([answers, np.asarray(asker.labels(fresh))])
        order = _by_turns(answers)
        if all((answers != k).sum() >= m for k in range(num_classes)):
            break
    served = [k for k in range(num_classes) if (answers != k).sum() >= m]
    if not served:
        raise Inconclusive(
            f"of {len(answers)} probes fewer than {m} are not of one and the same class to this "
            "model: give other --probes."
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


class Draws(NamedTuple):
    """What random triggers did.

    Attributes:
      hits: bool[n, K]: which made which class's event happen; False of a settled class.
      led: int32[n, K]: how many of the probes shown they led there.
      cost: int or uint32[], images sent.
    """

    hits: Any
    led: Any
    cost: Any


def compile_draws(
    oracle: Oracle,
    space: TriggerSpace,
    pool: Pool,
    success: float,
    n: int,
    book: Callable[[int], None] = lambda images: None,
) -> Callable[[Array, Any, np.ndarray], Draws]:
    """Compiles ``(key, weights, watched bool[K]) -> Draws`` of n random triggers.

    Args:
      oracle, space: the model, and where triggers come from.
      pool: the probes; images, weights and what is watched are traced.
      success: share of probes that makes the event.
      n: triggers at once.
      book: told how many images were sent; of a foreign model, before they are.
    """
    m = int(pool.valid.sum(1).max())
    slack = m - needed(success, m)
    size = pool.probes.shape[0]
    if oracle.foreign:
        return _host_draws(oracle, space, pool, slack, n, book)

    def draws(key: Array, args: dict[str, Any]) -> Draws:
        particles = space.search.sample(key, n)
        classes = jnp.arange(oracle.num_classes)

        def ask(weights: Any, particles: Any, probes: Array) -> Array:
            images = jax.vmap(space.stamp, (0, None))(particles, probes)
            outputs = oracle.answer(weights, images.reshape(-1, *images.shape[2:]))
            return labels(oracle.access, outputs).reshape(-1, RACE_WIDTH)

        def leg(carry: tuple[Array, Array, Array], shown: Any) -> Any:
            racing, led, missed = carry
            probes, valid = shown
            answers = ask_racing(ask, args["weights"], particles, probes, racing)
            there = (answers[..., None] == classes) & valid.T
            led = led + jnp.where(racing[:, None], jnp.sum(there, 1), 0)
            missed = missed + jnp.where(racing[:, None], jnp.sum(valid.T & ~there, 1), 0)
            cost = jnp.sum(racing, dtype=jnp.uint32) * jnp.uint32(RACE_WIDTH)
            racing = racing & jnp.any((missed <= slack) & args["watched"], -1)
            return (racing, led, missed), cost

        legs = args["probes"].reshape(size // RACE_WIDTH, RACE_WIDTH, *oracle.image_shape)
        valid = args["valid"].reshape(-1, size // RACE_WIDTH, RACE_WIDTH).transpose(1, 0, 2)
        nobody = jnp.zeros((n, oracle.num_classes), jnp.int32)
        start = (jnp.ones(n, bool), nobody, nobody)
        (_, led, missed), cost = lax.scan(leg, start, (legs, valid))
        # Who dropped out has missed too many probes of every watched class.
        return Draws((missed <= slack) & args["watched"], led, jnp.sum(cost, dtype=jnp.uint32))

    fixed = {"probes": pool.probes, "valid": jnp.asarray(pool.valid)}
    judged = pool.valid.any(1)
    compiled = jax.jit(draws, compiler_options=compiler_options())

    def run(key: Array, weights: Any, watched: np.ndarray) -> Draws:
        watching = jnp.asarray(watched & judged)
        found = compiled(key, fixed | {"weights": weights, "watched": watching})
        book(int(found.cost))
        return found

    return run


def _host_draws(
    oracle: Oracle,
    space: TriggerSpace,
    pool: Pool,
    slack: int,
    n: int,
    book: Callable[[int], None],
) -> Callable[[Array, Any, np.ndarray], Draws]:
    """`compile_draws` for a model that is asked from the host."""
    ask = ask_stamped(oracle, space, book)
    sample = jax.jit(lambda key: space.search.sample(key, n))
    classes, judged = np.arange(oracle.num_classes), pool.valid.any(1)

    def run(key: Array, weights: Any, watched: np.ndarray) -> Draws:
        del weights
        particles, watching, cost = sample(key), watched & judged, 0
        racing = np.ones(n, bool)
        led = np.zeros((n, oracle.num_classes), np.int32)
        missed = np.zeros_like(led)
        for first in range(0, pool.probes.shape[0], RACE_WIDTH):
            rows = np.flatnonzero(racing)
            if not len(rows):
                break
            shown = slice(first, first + RACE_WIDTH)
            outputs = ask(particles, rows, pool.probes[shown], 0.0)
            answers = np.asarray(labels(oracle.access, outputs)).reshape(len(rows), RACE_WIDTH)
            valid = pool.valid[:, shown].T
            there = (answers[..., None] == classes) & valid
            led[rows] += there.sum(1, dtype=np.int32)
            missed[rows] += (valid & ~there).sum(1, dtype=np.int32)
            cost += len(rows) * RACE_WIDTH
            racing &= ((missed <= slack) & watching).any(-1)
        return Draws((missed <= slack) & watching, led, cost)

    return run
