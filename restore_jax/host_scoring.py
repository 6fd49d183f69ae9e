"""`scoring`, of a model that is asked from the host: the same races, the same scores."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.oracles import Oracle, margins
from restore_jax.scoring import faded, hopeful, labels_score, plan_race
from restore_jax.spaces import TriggerSpace
from restore_jax.splitting import Scorer

Array = jax.Array
MOST_BYTES = 1 << 26
"""Of stamped images at once."""
Book = Callable[[int], None]
AskStamped = Callable[[Any, np.ndarray, Array, float], np.ndarray]


def make_host_scorer(
    oracle: Oracle,
    space: TriggerSpace,
    success: float,
    num_probes: int,
    book: Book,
    *,
    num_guides: int = 0,
) -> Scorer:
    """`make_scorer` for `host_driven`.

    Args:
      oracle: a foreign one.
      space, success, num_probes, num_guides: as `make_scorer`.
      book: told how many images are about to be sent; what it raises ends the score.
    """
    plan = plan_race(oracle, success, num_probes, num_guides)
    ask = ask_stamped(oracle, space, book)
    read = jax.jit(lambda outputs, target: margins(oracle.access, outputs, target))
    weigh = jax.jit(lambda guided, passed: labels_score(plan, guided, passed))
    can = jax.jit(lambda guided, passed, level: hopeful(plan, guided, passed, level))

    def score(
        key: Array, particles: Any, level: Array, active: Array, args: dict[str, Any]
    ) -> tuple[np.ndarray, int]:
        del key
        racing, cost = np.array(active), 0
        margin = np.full((len(racing), plan.num_guides + num_probes), -np.inf, np.float32)
        guided = np.zeros(len(racing), np.int32)
        passed = np.zeros(len(racing), np.int32)
        bar = np.float32(-0.5) if plan.by_labels else np.asarray(level)
        for leg in range(plan.num_legs):
            rows = np.flatnonzero(racing)
            if not len(rows):
                break
            shown = slice(leg * plan.width, (leg + 1) * plan.width)
            outputs = ask(particles, rows, args["probes"][shown], float(args["fade"]))
            lead = np.asarray(read(*_padded(outputs, args["target"])))[: len(outputs)]
            margin[rows, shown] = lead.reshape(len(rows), plan.width)
            cost += len(rows) * plan.width
            successes = np.sum(margin[:, shown] > bar, -1) * racing
            if plan.is_guides[leg]:
                guided += successes.astype(np.int32)
            else:
                passed += successes.astype(np.int32)
            most = guided + plan.guides_left[leg], passed + plan.probes_left[leg]
            racing = racing & np.asarray(can(*most, level))
        if plan.by_labels:
            scores = np.asarray(weigh(guided, passed))
        else:
            scores = np.sort(margin[:, plan.num_guides :], -1)[:, num_probes - plan.needed]
        return np.where(racing, scores, -np.inf), cost

    return Scorer(score=score, max_cost=plan.num_guides + num_probes)


def ask_stamped(oracle: Oracle, space: TriggerSpace, book: Book) -> AskStamped:
    """Makes ``(particles, rows int[k], probes f32[w, H, W, C], fade) -> outputs [k w, ...]``."""

    @jax.jit
    def stamped(particles: Any, rows: Array, probes: Array, fade: Array) -> Array:
        some = jax.tree.map(lambda leaf: leaf[rows], particles)
        images = faded(jax.vmap(space.stamp, (0, None))(some, probes), probes, fade)
        return images.reshape(-1, *images.shape[2:])

    def ask(particles: Any, rows: np.ndarray, probes: Array, fade: float) -> np.ndarray:
        width, size = probes.shape[0], int(np.prod(probes.shape[1:])) * 4
        together = max(1, MOST_BYTES // (width * size))
        outputs = []
        for first in range(0, len(rows), together):
            some = rows[first : first + together]
            # Of one of few sizes, so that few programs are compiled.
            padded = np.resize(some, max(16, 1 << (len(some) - 1).bit_length()))
            images = stamped(particles, padded, probes, jnp.float32(fade))
            number = len(some) * width
            book(number)
            outputs.append(oracle.answer(oracle.weights, np.asarray(images)[:number]))
        return np.concatenate(outputs)

    return ask


def _padded(outputs: np.ndarray, target: Any) -> tuple[np.ndarray, Any]:
    """Outputs up to a power of two of rows, so that few programs are compiled."""
    more = max(64, 1 << (len(outputs) - 1).bit_length()) - len(outputs)
    return np.concatenate([outputs, np.repeat(outputs[:1], more, 0)]), target
