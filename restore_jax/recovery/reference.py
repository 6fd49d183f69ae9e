"""The reference protocol, a search of its own, kept so that old and new can be compared.

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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from restore_jax.compilation import compiler_options
from restore_jax.errors import OutOfTime
from restore_jax.oracles.checking import check_scores
from restore_jax.oracles.types import ModelError, Oracle
from restore_jax.recovery.aims import NUM_CONFIRMATION, one_of
from restore_jax.recovery.found import Found
from restore_jax.recovery.types import Level, Progress
from restore_jax.run import Run
from restore_jax.spaces.settings import Settings
from restore_jax.spaces.types import TriggerSpace
from restore_jax.splitting.types import Args, Particle, Particles
from restore_jax.types import Argument

Array = jax.Array
NUM_PROBES = 8
NUM_LEVELS = 100
NUM_MOVES = 40
MOST_SCREENED = 20 * NUM_PROBES
BESIDE = MOST_SCREENED + 3 * NUM_CONFIRMATION
"""Images besides the levels: screening may meet probes of a target class."""
NUM_PARTICLES = {"sparse": 128, "gaussian": 48}
OPTIONS: dict[str, dict[str, Argument]] = {
    "sparse": {"density": 0.1, "channels": "grey"},
    "gaussian": {},
}
RATE = 0.5


Carry = tuple[Particles, Array, Array]
"""Those that move, their scores f32[k], and the sum of the shares accepted f32[]."""


class Population(NamedTuple):
    """What the protocol carries from level to level.

    Attributes:
      particles: pytree with leading axis n.
      scores: f32[n], mean target logits as of the last level's scoring.
    """

    particles: Particles
    scores: Array


def queries_per_level(n: int) -> int:
    """Images asked about in one level by n particles."""
    return NUM_PROBES * (n + (n // 2) * NUM_MOVES)


def settings_of(oracle: Oracle, space: str) -> Settings:
    """How the protocol searches a space, if it can search it with this model at all.

    Raises:
      InputError: it knows no such space.
      ModelError: the model does not give logits, or no JAX program can ask it.
    """
    one_of("space", space, tuple(NUM_PARTICLES))
    check_access(oracle)
    image = jax.ShapeDtypeStruct((1, *oracle.image_shape), jnp.float32)
    jax.eval_shape(oracle.answer, oracle.weights, image)
    return Settings(
        num_probes=NUM_PROBES,
        num_particles=NUM_PARTICLES[space],
        survival=0.5,
        num_moves=NUM_MOVES,
        max_levels=NUM_LEVELS,
        options=OPTIONS[space],
    )


def check_access(oracle: Oracle) -> None:
    """Refuses a model that gives anything but logits.

    Raises:
      ModelError: it does.
    """
    if oracle.access != "logits":
        raise ModelError(f"the reference protocol reads logits; {oracle.access} do not do.")


def follow_reference(run: Run, found: Found) -> Found:
    """As many whole levels as the budget pays for; the best particle is the trigger."""
    aim, n = found.aim, found.aim.settings.num_particles
    cost, key = queries_per_level(n), jax.random.key(run.seed)
    with run.stage("search"):
        num_levels = min(NUM_LEVELS, (run.ledger.left - 3 * NUM_CONFIRMATION) // cost)
        args = {
            "weights": run.model.weights,
            "probes": found.probes,
            "target": jnp.int32(aim.target),
        }
        begun = time.perf_counter()
        first = aim.space.search.sample(jax.random.fold_in(key, 0), n)
        one_level = jax.jit(make_level(run.model, aim.space)).lower(key, first, jnp.int32(0), args)
        compiled = one_level.compile(compiler_options())
        compiling = time.perf_counter() - begun
        population, status = Population(first, jnp.full(n, -jnp.inf)), "out_of_levels"
        levels: list[Level] = []
        before, begun = run.ledger.spent, time.perf_counter()
        try:
            for index in range(num_levels):
                run.ledger.charge(cost)
                population, height, acceptance = compiled(
                    key, population.particles, jnp.int32(index), args
                )
                check_scores(run.model.name, np.asarray(population.scores))
                levels.append(_level(population, height, acceptance, run.ledger.spent - before))
                if aim.on_progress is not None:
                    aim.on_progress(_progress(run, levels))
        except KeyboardInterrupt:
            status = "interrupted"
        except OutOfTime:
            status = "out_of_time"
        seconds = {"compile": compiling, "run": time.perf_counter() - begun}
    top = int(np.argmax(np.asarray(population.scores)))
    best = jax.tree.map(lambda leaf: leaf[top], population.particles)
    return found.now(
        trigger=aim.space.trigger(best, jnp.int32(aim.target)),
        particles=population.particles,
        scores=population.scores,
        levels=tuple(levels),
        best_score=levels[-1].best_score if levels else None,
        status=status,
        seconds=seconds,
    )


def _level(population: Population, height: Array, acceptance: Array, queries: int) -> Level:
    return Level(
        level=float(height),
        survival=0.5,
        acceptance=float(acceptance),
        best_score=float(population.scores.max()),
        unique_ancestors=population.scores.shape[0],
        queries=queries,
    )


def _progress(run: Run, levels: list[Level]) -> Progress:
    last = levels[-1]
    numbers = [float("nan") if x is None else x for x in (last.level, last.acceptance)]
    return Progress(
        levels=len(levels),
        level=numbers[0],
        goal=float("nan"),
        acceptance=numbers[1],
        queries=run.ledger.spent,
        budget=run.ledger.budget,
        best=float("nan") if last.best_score is None else last.best_score,
    )


def make_level(
    oracle: Oracle, space: TriggerSpace
) -> Callable[[Array, Particles, Array, Args], tuple[Population, Array, Array]]:
    """One level of the protocol, pure.

    Returns:
      ``(key, particles, index int32[], args) -> (population, level f32[], acceptance f32[])``.
    """
    falls = space.name == "gaussian"

    def score(particles: Particles, args: Args) -> Array:
        def one(particle: Particle) -> Array:
            images = space.stamp(particle, args["probes"])
            logits = oracle.answer(args["weights"], images)
            return jnp.mean(jnp.take(logits, args["target"], axis=-1))

        count = jax.tree.leaves(particles)[0].shape[0]
        scores: Array = lax.map(one, particles, batch_size=_batch(count))
        return scores

    def level(
        key: Array, particles: Particles, index: Array, args: Args
    ) -> tuple[Population, Array, Array]:
        scores = score(particles, args)
        order = jnp.argsort(scores, stable=True)
        losers = order[: scores.shape[0] // 2]
        height = scores[order[scores.shape[0] // 2]]
        strength = 1.0 - index / NUM_LEVELS if falls else jnp.float32(RATE)
        level_key = jax.random.fold_in(jax.random.fold_in(key, 1), index)

        def move(carry: Carry, number: Array) -> tuple[Carry, None]:
            mine, mine_scores, accepted = carry
            keys = jax.random.split(jax.random.fold_in(level_key, number), losers.shape[0])
            proposals = jax.vmap(space.refresh, (0, 0, None))(keys, mine, strength)
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
