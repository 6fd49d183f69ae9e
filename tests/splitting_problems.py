"""Problems with a known answer for the sampler's tests."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from restore_jax.splitting import (
    Kernel,
    MoveInfo,
    SearchSpace,
    importance_splitting,
    metropolis,
    particle_keys,
)

all_move = partial(
    importance_splitting, num_particles=128, survival=0.5, num_moves=10, moving="all"
)
"""A population in which everybody moves: the simplest to reason about."""


def gaussian_space(dim, **kernel_options):
    """Standard normal vectors, moved by the autoregressive (pCN) proposal."""

    def sample(key, n):
        return jax.vmap(lambda key: jax.random.normal(key, (dim,)))(particle_keys(key, n))

    def propose(key, particle, strength):
        noise = jax.random.normal(key, particle.shape)
        return jnp.sqrt(1.0 - strength**2) * particle + strength * noise, 0.0

    return SearchSpace(sample, metropolis([propose], **kernel_options))


def linear_score(particles, level):
    """Past the threshold 0 with probability Phi(-level)."""
    return jnp.sum(particles, axis=-1) / jnp.sqrt(particles.shape[-1]) - level


def log_tail(level):
    return float(norm.logcdf(-level))


def coins_space(dim):
    """Fair coins int32[dim]; moves toss one coin, or three, anew. All arithmetic is exact."""

    def sample(key, n):
        def toss(key):
            return jax.random.bernoulli(key, 0.5, (dim,)).astype(jnp.int32)

        return jax.vmap(toss)(particle_keys(key, n))

    def toss_anew(number):
        def propose(key, particle, strength):
            del strength
            place_key, toss_key = jax.random.split(key)
            places = jax.random.randint(place_key, (number,), 0, dim)
            tosses = jax.random.bernoulli(toss_key, 0.5, (number,)).astype(jnp.int32)
            return particle.at[places].set(tosses), 0.0

        return propose

    return SearchSpace(sample, metropolis([toss_anew(1), toss_anew(3)]))


def heads(particles, args):
    """Heads counted in steps of ``args["width"]``, minus ``args["least"]``, maybe stretched.

    The stretched score is a strictly increasing function of the plain one with the same sign.
    """
    plain = jnp.sum(particles, axis=-1) // args["width"] - args["least"]
    return jnp.where(args["stretched"], 2.0 ** (plain / 2.0) - 1.0, plain)


def heads_args(least, width=1, stretched=False):
    return {
        "least": np.asarray(least, np.int32),
        "width": np.int32(width),
        "stretched": np.bool_(stretched),
    }


def climbing_space(step_size=1.0):
    """Particles 0 .. n-1 that climb at every move, for ever: cheap to compile."""

    def sample(key, n):
        return jnp.arange(n, dtype=jnp.float32)

    def step(keys, particles, scores, try_, tuning):
        higher = particles + step_size
        trial = try_(higher, jnp.ones(particles.shape[0], bool))
        return higher, trial.scores, tuning, MoveInfo(jnp.mean(trial.above), trial.cost)

    return SearchSpace(sample, Kernel(init=lambda: (), step=step))


def identity_score(particles, args):
    return particles


def listed_score(particles, values):
    """Particle ``i`` of a climbing space that does not climb has the score ``values[i]``."""
    return values[particles.astype(jnp.int32)]


def quick_jit(function):
    """`jax.jit` that compiles three times faster and runs slower: for small runs."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": "0"})


def host(tree):
    """The same tree as NumPy arrays."""
    return jax.tree.map(np.asarray, tree)
