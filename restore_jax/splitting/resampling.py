"""Which survivors are cloned."""

import jax
import jax.numpy as jnp

from restore_jax.splitting.types import Array


def balanced(key: Array, survives: Array) -> Array:
    """Fills the places of the dead with clones, as evenly as can be.

    Survivors keep their places. Of n particles and m survivors each survivor ends with
    floor(n/m) or ceil(n/m) copies, itself included; which ones get the odd copy is drawn
    uniformly, so that every survivor has n/m copies in expectation (residual resampling
    of equal weights; Douc & Cappé 2005, section 2.4).

    Args:
      key: a typed key.
      survives: bool[n].

    Returns:
      int32[n], the index of the particle that each place takes; its own where it survives.
      Without any survivor: every index its own.
    """
    n = survives.shape[0]
    places = jnp.arange(n, dtype=jnp.int32)
    num_survivors = jnp.sum(survives, dtype=jnp.int32)
    # uint32 bits could tie a survivor with a dead place; a float below 2 cannot.
    order = jnp.where(survives, jax.random.uniform(key, (n,), jnp.float32), 2.0)
    shuffled = jnp.argsort(order).astype(jnp.int32)
    dead_rank = jnp.cumsum(~survives, dtype=jnp.int32) - 1
    clones = shuffled[dead_rank % jnp.maximum(num_survivors, 1)]
    return jnp.where(survives | (num_survivors == 0), places, clones)


def seeds(key: Array, survives: Array, number: int) -> Array:
    """Chooses the survivors that chains start from, each as often as any other can be.

    Args:
      key: a typed key.
      survives: bool[n].
      number: how many.

    Returns:
      int32[number], indices of survivors; distinct ones while there are enough, each
      floor or ceil of number / survivors times where there are not. Drawn uniformly.
    """
    n = survives.shape[0]
    num_survivors = jnp.sum(survives, dtype=jnp.int32)
    order = jnp.where(survives, jax.random.uniform(key, (n,), jnp.float32), 2.0)
    shuffled = jnp.argsort(order).astype(jnp.int32)
    return shuffled[jnp.arange(number, dtype=jnp.int32) % jnp.maximum(num_survivors, 1)]


def num_unique(ancestors: Array) -> Array:
    """int32[]: how many distinct indices in [0, n) there are in ``ancestors`` int32[n]."""
    present = jnp.zeros(ancestors.shape[0], bool).at[ancestors].set(True)
    return jnp.sum(present, dtype=jnp.int32)
