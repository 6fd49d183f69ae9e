"""Asking a traced model about the candidates still racing, a chunk at a time.

What happens when searches are vmapped, each of them a *lane*, depends on the device:

- On a CPU lanes take turns chunk by chunk: together their images would leave the cache, and
  nobody's chunks could be skipped.
- Elsewhere the candidates of all lanes become one batch of the plain network. Left to `jax.vmap`,
  a condition that differs by lane gives each lane weights of its own, and a convolution with
  such weights is a grouped one, several times as slow.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap, sequential_vmap

from restore_jax.compilation import chunk_size
from restore_jax.splitting.types import Args, Particle, Particles, Tree

Array = jax.Array


class Asking(NamedTuple):
    """How a model is asked about a candidate.

    Attributes:
      show: ``(particle, probes f32[w, H, W, C], args) -> images f32[w, H, W, C]``.
      answer: ``(weights, images f32[b, H, W, C]) -> outputs [b, ...]``.
      read: ``(outputs [b, ...], args) -> answers [b]``.
    """

    show: Callable[[Particle, Array, Args], Array]
    answer: Callable[[Tree, Array], Tree]
    read: Callable[[Tree, Args], Array]


def ask_racing(
    asking: Asking,
    weights: Tree,
    args: Args,
    particles: Particles,
    probes: Array,
    racing: Array,
) -> Array:
    """Asks about some probes with the particles still racing; whole chunks of others are skipped.

    Args:
      asking: how.
      weights: the model's, a pytree of arrays.
      args: a pytree of all arrays that ``show`` and ``read`` look at besides.
      particles: a pytree with leading axis n.
      probes: f32[w, H, W, C].
      racing: bool[n].

    Returns:
      [n, w]: of particles that do not race it means nothing.
    """
    if lanes_take_turns():
        return _in_turns(asking, weights, args, particles, probes, racing)
    lanes = _in_one_batch(asking)
    given = (args, particles, probes, racing)
    return lanes(weights, *jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], given))[0]


def lanes_take_turns() -> bool:
    """Whether vmapped searches take turns here; see the top of this file."""
    return jax.default_backend() == "cpu"


def _in_turns(
    asking: Asking, weights: Tree, args: Args, particles: Particles, probes: Array, racing: Array
) -> Array:
    """See `ask_racing`."""
    n, width = racing.shape[0], probes.shape[0]
    # An eighth of the candidates at most: of few, others would be asked about for want of a chunk
    # to skip.
    together = min(-(-n // 8), _chunk(probes.shape))
    order, runners = _runners_first(racing, together)

    def answers_of(weights: Tree, args: Args, particles: Particles, probes: Array) -> Array:
        show = jax.vmap(lambda one, probes: asking.show(one, probes, args), (0, None))
        images = show(particles, probes)
        outputs = asking.answer(weights, images.reshape(-1, *images.shape[2:]))
        return asking.read(outputs, args).reshape(-1, width)

    some = jax.tree.map(lambda leaf: leaf[:together], particles)
    like = jax.eval_shape(answers_of, weights, args, some, probes)

    @sequential_vmap
    def ask_some(some_race: Array, *given: Tree) -> Array:
        return lax.cond(some_race, answers_of, lambda *_: jnp.zeros(like.shape, like.dtype), *given)

    def chunk(_: None, first: Array) -> tuple[None, Array]:
        rows = lax.dynamic_slice_in_dim(order, first, together)
        shown = jax.tree.map(lambda leaf: leaf[rows], particles)
        return None, ask_some(first < runners, weights, args, shown, probes)

    _, asked = lax.scan(chunk, None, jnp.arange(0, n, together))
    return _in_place(asked, order, n)


def _in_one_batch(asking: Asking) -> Callable[..., Array]:
    """Makes ``(weights, args, particles, probes, racing) -> answers [lanes, n, w]``.

    All but the weights have a leading axis of lanes; that of ``args`` and ``probes`` may be 1, of
    what all lanes share. Under `jax.vmap` there are more lanes; networks whose weights differ take
    turns.
    """

    @custom_vmap
    def ask(weights: Tree, args: Args, particles: Particles, probes: Array, racing: Array) -> Array:
        return _ask_lanes(asking, weights, args, particles, probes, racing)

    @ask.def_vmap
    def more_lanes(
        size: int, batched: list[Tree], weights: Tree, *given: Tree
    ) -> tuple[Array, bool]:
        weights_differ, *differ = batched
        if any(jax.tree.leaves(weights_differ)):
            everything, differs = (weights, *given), tuple(batched)
            return lax.map(lambda i: ask(*_taken(everything, differs, i)), jnp.arange(size)), True
        inner = jax.tree.leaves(given[-1])[0].shape[int(jax.tree.leaves(differ[-1])[0])]
        args, particles, probes, racing = given
        shared = [_merged(leaf, size, inner, own, True) for leaf, own in
                  ((args, differ[0]), (probes, differ[2]))]  # fmt: skip
        own = [_merged(leaf, size, inner, own, False) for leaf, own in
               ((particles, differ[1]), (racing, differ[3]))]  # fmt: skip
        answers = ask(weights, shared[0], own[0], shared[1], own[1])
        return answers.reshape(size, inner, *answers.shape[1:]), True

    return ask


def _taken(given: Tree, batched: Tree, index: Array) -> Tree:
    """One entry of the leading axis, of leaves that have it."""
    return jax.tree.map(lambda leaf, own: leaf[index] if own else leaf, given, batched)


def _merged(given: Tree, size: int, inner: int, batched: Tree, may_share: bool) -> Tree:
    """Leaves [size, lanes, ...], or [lanes, ...] where not batched, as [size * inner, ...].

    Where ``may_share``, what all lanes share keeps a leading axis of 1.
    """

    def merged(leaf: Array, own: bool) -> Array:
        lanes = leaf.shape[int(own)]
        if may_share and not own and lanes == 1:
            return leaf
        if not own:
            leaf = leaf[None]
        shape = leaf.shape[2:]
        return jnp.broadcast_to(leaf, (size, inner, *shape)).reshape(size * inner, *shape)

    return jax.tree.map(merged, given, batched)


def _ask_lanes(
    asking: Asking, weights: Tree, args: Args, particles: Particles, probes: Array, racing: Array
) -> Array:
    """See `_in_one_batch`: the runners of all lanes, one after the other, in chunks."""
    lanes, n = racing.shape
    width = probes.shape[1]
    everybody = jax.tree.map(lambda leaf: leaf.reshape(lanes * n, *leaf.shape[2:]), particles)
    # What a lane has of its own is taken for each candidate; what all share is not copied.
    given = (args, probes)
    axes = jax.tree.map(lambda leaf: None if leaf.shape[0] == 1 else 0, given)

    def of_each(rows: Array) -> Tree:
        return jax.tree.map(lambda leaf: leaf[0] if leaf.shape[0] == 1 else leaf[rows // n], given)

    def answers_of(weights: Tree, rows: Array) -> Array:
        some = jax.tree.map(lambda leaf: leaf[rows], everybody)
        args, probes = of_each(rows)
        images = jax.vmap(asking.show, (0, axes[1], axes[0]))(some, probes, args)
        outputs = asking.answer(weights, images.reshape(-1, *images.shape[2:]))
        outputs = jax.tree.map(lambda leaf: leaf.reshape(-1, width, *leaf.shape[1:]), outputs)
        return jax.vmap(asking.read, (0, axes[0]))(outputs, args)

    together = _chunk(probes.shape[1:])
    if together >= lanes * n:
        # One chunk, in which somebody nearly always races. A condition is decided by the host, and
        # the device would have to wait.
        return answers_of(weights, jnp.arange(lanes * n)).reshape(lanes, n, width)
    order, runners = _runners_first(racing.reshape(-1), together)
    like = jax.eval_shape(answers_of, weights, order[:together])

    def chunk(_: None, first: Array) -> tuple[None, Array]:
        rows = lax.dynamic_slice_in_dim(order, first, together)
        nothing = lambda *_: jnp.zeros(like.shape, like.dtype)  # noqa: E731
        return None, lax.cond(first < runners, answers_of, nothing, weights, rows)

    _, asked = lax.scan(chunk, None, jnp.arange(0, lanes * n, together))
    return _in_place(asked, order, lanes * n).reshape(lanes, n, width)


def _runners_first(racing: Array, together: int) -> tuple[Array, Array]:
    """In what order to ask, so that chunks behind the runners can be skipped; how many they are.

    The last chunk is filled up with copies of the first candidate.
    """
    n = racing.shape[0]
    order = jnp.pad(jnp.argsort(~racing, stable=True), (0, -n % together))
    return order, jnp.sum(racing, dtype=jnp.int32)


def _in_place(asked: Array, order: Array, n: int) -> Array:
    """Answers by chunk, in the order asked, as [n, ...] in the order of the candidates."""
    asked = asked.reshape(-1, *asked.shape[2:])[:n]
    return jnp.zeros_like(asked).at[order[:n]].set(asked)


def _chunk(probes: tuple[int, ...]) -> int:
    """How many candidates, each with probes (w, H, W, C), make a good chunk of images."""
    return max(1, round(chunk_size(probes[1:]) / probes[0]))
