"""The reference protocol, kept reproducible so that old and new can be compared on one model.

The author's own reimplementation of REStore, not the paper's code, does this: 8 probes of
neither target class; the score is the mean target logit; in each of 100 levels, always all of
them, every particle is scored and the lower half makes 40 moves each, of which only improvements
are accepted; nobody is cloned, so its level count is not an estimate of a probability. The IID
kernel (grey pixels, 10 % of them on, each redrawn with probability 0.5, 128 particles) asks about
2,150,400 images, the Gaussian one (48 particles, strength falling from 1 by 1/100 a level)
about 806,400.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from restore_jax.compilation import compiler_options
from restore_jax.oracles import ModelError, Oracle
from restore_jax.recovery import NUM_CONFIRMATION, Progress, Recovery, ask, conclude
from restore_jax.spaces import TriggerSpace, make_space

Array = jax.Array
NUM_PROBES = 8
NUM_LEVELS = 100
NUM_MOVES = 40
NUM_PARTICLES = {"sparse": 128, "gaussian": 48}
OPTIONS: dict[str, dict[str, Any]] = {
    "sparse": {"density": 0.1, "channels": "grey"},
    "gaussian": {},
}
RATE = 0.5


class Population(NamedTuple):
    """What the protocol carries from level to level.

    Attributes:
      particles: pytree with leading axis n.
      scores: f32[n], mean target logits as of the last level's scoring.
    """

    particles: Any
    scores: Array


def queries_per_level(n: int) -> int:
    """Images asked about in one level by n particles."""
    return NUM_PROBES * (n + (n // 2) * NUM_MOVES)


def recover_reference(
    model: Any = "shipped",
    target: str | int | None = None,
    *,
    trigger: str | None = None,
    access: str = "logits",
    space: str = "sparse",
    probes: str | Path = "dead_leaves",
    budget: int | None = None,
    success: float = 0.95,
    seed: int = 0,
    data_dir: str | None = None,
    test_data: tuple[np.ndarray, np.ndarray] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Recovery:
    """Recovers a trigger as the reference does, then confirms it as `recover` does.

    Args:
      model, target, trigger, success, seed, data_dir, test_data, on_progress: see
        `restore_jax.recovery.recover`.
      access: "logits", which this protocol reads.
      space: "sparse" (the reference's IID kernel) or "gaussian".
      probes: the reference took CIFAR-10 test images ("cifar10").
      budget: images that may be sent; None: as many as all 100 levels need. With fewer, as
        many whole levels are made as it pays for.

    Raises:
      ValueError: an argument out of range.
      Inconclusive: see `restore_jax.recovery.recover`.
    """
    began = time.perf_counter()
    if space not in NUM_PARTICLES:
        raise ValueError(
            f"the reference protocol knows the spaces {', '.join(NUM_PARTICLES)}, not {space!r}."
        )
    if access != "logits":
        raise ModelError(f"the reference protocol reads logits; {access} do not do.")
    n = NUM_PARTICLES[space]
    # Screening may meet probes of a target class; twice as many is ample.
    beside = 20 * NUM_PROBES + 3 * NUM_CONFIRMATION
    level_cost = queries_per_level(n)
    question = ask(
        model,
        target,
        trigger=trigger,
        access=access,
        probes=probes,
        budget=NUM_LEVELS * level_cost + beside if budget is None else budget,
        least=level_cost + beside,
        success=success,
        seed=seed,
        data_dir=data_dir,
        exclude_planted=True,
    )
    oracle, ledger = question.oracle, question.ledger
    if oracle.foreign:
        raise ValueError(
            f"--protocol reference runs inside JAX, where {oracle.name} cannot be asked: drop it."
        )
    trigger_space = make_space(space, oracle.image_shape, **OPTIONS[space])
    search_probes = question.feed.take(NUM_PROBES, 20 * NUM_PROBES)
    num_levels = min(NUM_LEVELS, (ledger.left - 3 * NUM_CONFIRMATION) // level_cost)
    args = {
        "weights": oracle.weights,
        "probes": search_probes,
        "target": jnp.int32(question.target),
    }
    key = jax.random.key(seed)
    compiling = time.perf_counter()
    first = trigger_space.search.sample(jax.random.fold_in(key, 0), n)
    population = Population(first, jnp.full(n, -jnp.inf))
    one_level = make_level(oracle, trigger_space, space)
    compiled_level = (
        jax.jit(one_level)
        .lower(key, population.particles, jnp.int32(0), args)
        .compile(compiler_options())
    )
    compiled = time.perf_counter()

    history: list[dict[str, Any]] = []
    before = ledger.spent
    status = "out_of_levels"
    try:
        for index in range(num_levels):
            ledger.charge(level_cost)
            population, level, acceptance = compiled_level(
                key, population.particles, jnp.int32(index), args
            )
            scores = np.asarray(population.scores)
            history.append(
                {
                    "level": float(level),
                    "survival": 0.5,
                    "log10_prob": None,
                    "acceptance": float(acceptance),
                    "best_score": float(scores.max()),
                    "unique_ancestors": n,
                    "queries": ledger.spent - before,
                }
            )
            if on_progress is not None:
                on_progress(
                    Progress(
                        index + 1,
                        float(level),
                        float("nan"),
                        float(acceptance),
                        ledger.spent,
                        ledger.budget,
                        float(scores.max()),
                    )
                )
    except KeyboardInterrupt:
        status = "interrupted"
    search_queries = ledger.spent - before
    searched = time.perf_counter()
    top = int(np.argmax(np.asarray(population.scores)))
    best_particle = jax.tree.map(lambda leaf: leaf[top], population.particles)
    return conclude(
        question,
        trigger_space.trigger(best_particle, jnp.int32(question.target)),
        status=status,
        particles=population.particles,
        scores=population.scores,
        search_probes=search_probes,
        levels=history,
        seconds={"compile": compiled - compiling, "run": searched - compiled},
        began=began,
        stages={"screening": before, "search": search_queries},
        test_data=test_data,
        fields={
            "space": trigger_space.name,
            "prior": trigger_space.description,
            "protocol": "reference",
            "stop": "levels",
            "log10_prob": None,
            "log10_prob_interval": None,
            "best_score": history[-1]["best_score"] if history else None,
            "goal": None,
            "settings": {
                "num_probes": NUM_PROBES,
                "num_particles": n,
                "survival": 0.5,
                "num_moves": NUM_MOVES,
                "max_levels": num_levels,
                "options": OPTIONS[space],
            },
        },
    )


def make_level(
    oracle: Oracle, trigger_space: TriggerSpace, space: str
) -> Callable[[Array, Any, Array, Any], tuple[Population, Array, Array]]:
    """One level of the protocol, pure.

    Returns:
      ``(key, particles, index int32[], args) -> (population, level f32[], acceptance f32[])``.
    """

    def score(particles: Any, args: Any) -> Array:
        def one(particle: Any) -> Array:
            images = trigger_space.stamp(particle, args["probes"])
            logits = oracle.answer(args["weights"], images)
            return jnp.mean(jnp.take(logits, args["target"], axis=-1))

        count = jax.tree.leaves(particles)[0].shape[0]
        return lax.map(one, particles, batch_size=_batch(count))

    def level(
        key: Array, particles: Any, index: Array, args: Any
    ) -> tuple[Population, Array, Array]:
        scores = score(particles, args)
        order = jnp.argsort(scores, stable=True)
        losers = order[: scores.shape[0] // 2]
        height = scores[order[scores.shape[0] // 2]]
        strength = jnp.float32(RATE) if space == "sparse" else 1.0 - index / NUM_LEVELS
        level_key = jax.random.fold_in(jax.random.fold_in(key, 1), index)

        def move(carry: tuple[Any, Array, Array], number: Array) -> Any:
            mine, mine_scores, accepted = carry
            keys = jax.random.split(jax.random.fold_in(level_key, number), losers.shape[0])
            proposals = jax.vmap(trigger_space.refresh, (0, 0, None))(keys, mine, strength)
            proposal_scores = score(proposals, args)
            better = proposal_scores > mine_scores
            mine = jax.tree.map(
                lambda new, old: jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old),
                proposals,
                mine,
            )
            mine_scores = jnp.where(better, proposal_scores, mine_scores)
            return (mine, mine_scores, accepted + jnp.mean(better, dtype=jnp.float32)), None

        mine = jax.tree.map(lambda leaf: leaf[losers], particles)
        start = (mine, scores[losers], jnp.float32(0))
        (mine, mine_scores, accepted), _ = lax.scan(move, start, jnp.arange(NUM_MOVES))
        particles = jax.tree.map(lambda leaf, new: leaf.at[losers].set(new), particles, mine)
        scores = scores.at[losers].set(mine_scores)
        return Population(particles, scores), height, accepted / NUM_MOVES

    return level


def _batch(n: int) -> int:
    """Particles scored at once: about 64 images on a CPU, 4,096 elsewhere; a divisor of n."""
    most = 8 if jax.default_backend() == "cpu" else 512
    return max(k for k in range(1, min(n, most) + 1) if n % k == 0)
