"""BlackJAX, nested slice sampling. See `protocol` for the command line and the answer.

The log-likelihood is the score. A run ends when every live point is at or past the threshold; the
log-probability is the expected log of the prior volume left, by BlackJAX's own count of the live
points at each death, which knows what ties do (Fowlie, Handley & Su 2021).
"""

import functools
import time
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.ns.base import NSInfo, StateWithLogLikelihood
from blackjax.ns.utils import compute_num_live
from protocol import (
    PILOT_REPLICATES,
    PROBLEMS,
    NoEstimate,
    Problem,
    answer,
    arguments,
    seeds,
    settle,
)

STEPS = 64
"""Deaths between two looks of the host."""

FEWEST = 10
"""Live points below which nothing is tried."""

STUCK = 3.0
"""Times the evaluations asked for: a replicate past that is given up, as one whose live points
all share a score is never done."""


class Sampler:
    """Nested sampling of one problem: replicates advance together, one death at a time.

    One death at a time (``num_delete`` 1, the default) is what gives most accuracy per evaluation.

    Args:
      problem: whose score and prior.
      name: "nss" (slices along directions from the live points' covariance) or "nsswig" (sweeps
        along the axes).
      inner: slices, or sweeps, per new point.
    """

    def __init__(self, problem: Problem, name: str, inner: int):
        law, dim = problem.prior
        self.dim, self.uniform = dim, law == "uniform"

        def log_prior(x: Any) -> Any:
            if self.uniform:
                return jnp.where(jnp.all((x >= 0) & (x <= 1)), 0.0, -jnp.inf)
            return -0.5 * jnp.sum(jnp.square(x))

        self.algorithm = getattr(blackjax, name)(
            log_prior, lambda x: problem.score(x[None])[0].astype(jnp.float32), inner
        )
        # A slice tries both ends of its first bracket before it reports expansions and shrinks.
        self.ends = inner * (2 if name == "nss" else 2 * dim)

    def start(self, key: Any, live: int) -> tuple:
        """Live points from the prior, and the evaluations made."""
        draw = jax.random.uniform if self.uniform else jax.random.normal
        draw_key, key = jax.random.split(key)
        state = self.algorithm.init(draw(draw_key, (live, self.dim)), key)
        return state, jnp.int32(live), key

    def advance(self, carry: tuple, ceiling: Any) -> tuple[tuple, tuple]:
        """Up to ``STEPS`` more deaths; their scores and births, NaN once a replicate is done."""

        def death(carry: tuple, _: Any) -> tuple[tuple, tuple]:
            state, evaluations, key = carry
            key, step_key = jax.random.split(key)
            done = (jnp.min(state.particles.loglikelihood) >= 0) | (evaluations > ceiling)
            new, info = self.algorithm.step(step_key, state)
            slices = info.update_info
            more = self.ends + jnp.sum(slices.num_expansions) + jnp.sum(slices.num_shrink)
            state = jax.tree.map(lambda old, new: jnp.where(done, old, new), state, new)
            evaluations = jnp.where(done, evaluations, evaluations + more.astype(jnp.int32))
            dead = (info.particles.loglikelihood[0], info.particles.loglikelihood_birth[0])
            # A birth before the first level is NaN by BlackJAX's convention, so a flag it is.
            return (state, evaluations, key), (*dead, ~done)

        return jax.lax.scan(death, carry, None, STEPS)

    def run(
        self, live: int, replicates: int, seed: int, ceiling: float, seconds: float = np.inf
    ) -> tuple[list[float | None], np.ndarray, float]:
        """Estimated log-probabilities (None if stuck), evaluations and seconds.

        Compilation is left out of the seconds.

        Raises:
          NoEstimate: the time ran out. Replicates advance together, so then none is done.
        """
        keys = jax.random.split(jax.random.key(seed), replicates)
        ceiling = np.int32(min(ceiling, 2**31 - 2**20))
        start = jax.jit(jax.vmap(functools.partial(self.start, live=live))).lower(keys).compile()
        shapes = jax.eval_shape(jax.vmap(functools.partial(self.start, live=live)), keys)
        advance = jax.jit(jax.vmap(self.advance, (0, None))).lower(shapes, ceiling).compile()
        begin, computed = time.perf_counter(), time.process_time()
        carry = start(keys)
        history = []
        while True:
            carry, dead = advance(carry, ceiling)
            history.append(jax.device_get(dead))
            scores, evaluations = jax.device_get((carry[0].particles.loglikelihood, carry[1]))
            reached = scores.min(1) >= 0
            if np.all(reached | (evaluations > ceiling)):
                break
            if time.perf_counter() - begin > seconds:
                raise NoEstimate("not done within the time limit; replicates advance together")
        took = time.process_time() - computed
        death, birth, valid = (np.concatenate(parts, 1) for parts in zip(*history, strict=True))
        # Flagged entries sort behind all others, so every replicate keeps one shape.
        death = np.concatenate([np.where(valid, death, np.inf), scores], 1)
        last_birth = jax.device_get(carry[0].particles.loglikelihood_birth)
        birth = np.concatenate([np.where(valid, birth, np.inf), last_birth], 1)
        estimates: list[float | None] = []
        for r in range(replicates):
            points = StateWithLogLikelihood(
                None, None, jnp.asarray(death[r]), jnp.asarray(birth[r])
            )
            num_live = np.asarray(compute_num_live(NSInfo(points, None)), np.float64)
            log_volume = -np.sum(1.0 / num_live[: valid[r].sum()])
            estimates.append(float(log_volume) if reached[r] else None)
        return estimates, evaluations, took


def choices(dim: int) -> list[tuple[str, int, int]]:
    """Samplers to try in order: name, slices or sweeps per new point, fewest live points.

    BlackJAX recommends ``max(5, 2 dim)`` slices and calls ``dim`` the minimum. A covariance of
    fewer than ``2 dim`` points is hardly one, so with fewer the axes are swept, once: as many
    slices as that minimum.
    """
    least = max(FEWEST, 2 * dim)
    return [("nss", max(5, 2 * dim), least), ("nss", max(5, dim), least), ("nsswig", 1, FEWEST)]


def main() -> None:
    args = arguments()
    problem = PROBLEMS[args.problem]()
    packages = ["blackjax", "jax", "jaxlib", "numpy", "scipy"]
    ceiling = STUCK * args.evaluations
    for name, inner, least in choices(problem.prior.dim):
        sampler = Sampler(problem, name, inner)
        method = f"{name}, {inner} {'slices' if name == 'nss' else 'sweep'} per point"
        stream = 0

        def pilot(live: int, sampler: Sampler = sampler) -> float:
            nonlocal stream
            stream += 1
            seed = seeds(args.seed, stream)(0)
            _, evaluations, _ = sampler.run(live, PILOT_REPLICATES, seed, ceiling)
            return float(evaluations.mean())

        # The fewest live points first: whether they fit at all.
        fewest = pilot(least)
        if fewest > args.evaluations:
            continue
        live = settle(pilot, args.evaluations, round(least * args.evaluations / fewest), 1)
        try:
            estimates, evaluations, seconds = sampler.run(
                live, args.replicates, seeds(args.seed, 0)(0), ceiling, args.seconds
            )
        except NoEstimate as error:
            answer(args, method, packages, size=live, notes={str(error): args.replicates})
            return
        stuck = sum(estimate is None for estimate in estimates)
        answer(
            args,
            method,
            packages,
            size=live,
            notes={f"not done after {STUCK:g} times the evaluations": stuck} if stuck else {},
            log_prob=estimates,
            evaluations=evaluations.tolist(),
            seconds=seconds,
        )
        return
    note = f"{FEWEST} live points and {problem.prior.dim} slices per point cost more evaluations"
    answer(args, "nss, nsswig", packages, size=None, notes={note: args.replicates})


if __name__ == "__main__":
    main()
