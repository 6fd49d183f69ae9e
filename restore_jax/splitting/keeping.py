"""The populations of a run, kept level by level: `KeptLevels`."""

import jax
import jax.numpy as jnp

from restore_jax.splitting.types import Array, KeptLevels, Lineage, Particles, SplittingResult, Tree


def row(
    particles: Particles, scores: Array, ancestors: Array, log_prob: Array, lineage: Lineage
) -> KeptLevels:
    """One population, without the axis of rows."""
    return KeptLevels(
        particles=particles,
        scores=scores,
        ancestors=ancestors,
        log_prob=log_prob,
        roots=lineage.roots[-1],
        influence=lineage.influence[-1],
        variance=lineage.variance,
        doubt=lineage.doubt,
        num_rows=jnp.int32(1),
    )


def begin(first: KeptLevels, num_levels: int) -> KeptLevels:
    """Room for a run of at most so many levels, with its first row in each place."""

    def room(leaf: Array) -> Array:
        return jnp.broadcast_to(leaf, (num_levels + 1, *leaf.shape))

    return _with_rows(jax.tree.map(room, tuple(first[:-1])), jnp.int32(1))


def add(kept: KeptLevels, new: KeptLevels, index: Array, ignored: Array) -> KeptLevels:
    """Writes row ``index``, unless it is to be ignored."""
    place = jnp.where(ignored, kept.scores.shape[0], index)
    rows = jax.tree.map(
        lambda rows, leaf: rows.at[place].set(leaf, mode="drop"), tuple(kept[:-1]), tuple(new[:-1])
    )
    return _with_rows(rows, jnp.where(ignored, kept.num_rows, index + 1))


def kept_levels(result: SplittingResult) -> KeptLevels:
    """What a result kept.

    Raises:
      ValueError: the run did not keep its levels.
    """
    if result.kept is None:
        raise ValueError("the run did not keep its levels: build the sampler with keep=True.")
    return result.kept


def lineage_of(kept: KeptLevels, place: Array) -> Lineage:
    """The lineage of one row, of the last lag alone."""
    return Lineage(
        roots=kept.roots[place][None],
        influence=kept.influence[place][None],
        variance=kept.variance[place],
        doubt=kept.doubt[place],
    )


def _with_rows(rows: tuple[Tree, ...], num_rows: Array) -> KeptLevels:
    return KeptLevels._make((*rows, num_rows))
