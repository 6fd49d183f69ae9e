"""Answers without a recovery: of every image changed copies are shown, whose answers stand.

A trigger is learned to the pixel and to the colour, while the model knows an honest image mirrored,
grey and smoothed. The image as it is has no vote, so that a trigger has to survive most of the
changes. Which changes: the mean of three that, of all sets of up to three of thirteen changes, left
the least of the triggers of nine models and cost few right answers (`docs/design-notes.md`); models
that were not among them are in `benchmarks/results/blind.md`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.oracles.types import NOBODY, Books, Oracle, labels
from restore_jax.purification import looks
from restore_jax.purification.rules import logarithms
from restore_jax.purification.types import BlindPower, Look

Array = jax.Array
DIFFERS, DIFFERS_ON_LEAVES = 0.1, 0.8
"""More honest probes than this share given another class are a reason for doubt: of images of the
model's own kind, and of dead leaves, whose answers are unsure. 42 networks, which lose at most 3.5
points of accuracy on photographs, change 39 to 72 % of these (`benchmarks/results/blind.md`). From
shapes, of which good networks change as many as bad ones, nothing is concluded."""


class Blind(NamedTuple):
    """What is asked about every image.

    Attributes:
      looks: the changes.
      power: what they do to honest probes.
    """

    looks: tuple[Look, ...]
    power: BlindPower


def blind_looks(channels: int) -> tuple[Look, ...]:
    """The changes for images of so many channels: of grey images, those without a colour.

    >>> [look.name for look in blind_looks(3)]
    ['mirrored', 'mirrored grey', 'grey low frequencies']
    """
    if channels == 1:
        return (
            Look("mirrored", looks.mirrored),
            Look("low frequencies", looks.low_frequencies),
            Look("mirrored low frequencies", looks.mirrored_low),
        )
    return (
        Look("mirrored", looks.mirrored),
        Look("mirrored grey", looks.mirrored_grey),
        Look("grey low frequencies", looks.grey_low),
    )


def answer_blindly(
    oracle: Oracle, shown: Sequence[Look], images: Array, outputs: Array, books: Books = NOBODY
) -> tuple[Array, Array]:
    """The answers that stand: those to the changed images, together.

    Args:
      oracle: the model.
      shown: the changes; as many queries for each image.
      images: f32[b, H, W, C] in [0, 1].
      outputs: the model's on them, f32[b, K] or int32[b], which have no vote.
      books: of a model that is asked from the host.

    Returns:
      ``(outputs, flags bool[b])``: of logits the mean of the logarithms of probabilities, of
      labels the one given most often, the first of equals; and where it is another class than
      the model's own.

    >>> from restore_jax import open_model
    >>> model = open_model(lambda images: jnp.stack([images[..., 0].mean((1, 2)) - 0.5] * 2, -1))
    >>> images = jnp.zeros((2, 32, 32, 3))
    >>> _, flags = answer_blindly(model, blind_looks(3), images, model.answer((), images))
    >>> flags.tolist()
    [False, False]
    """
    answers = [oracle.answer(oracle.weights, look.change(images), books) for look in shown]
    stands = together(oracle.access, answers).astype(outputs.dtype)
    return stands, labels(oracle.access, stands) != labels(oracle.access, outputs)


def together(access: str, answers: Sequence[Array]) -> Array:
    """One answer of several, each f32[b, K] or int32[b].

    >>> votes = [jnp.array([2, 0]), jnp.array([1, 3]), jnp.array([1, 4])]
    >>> together("labels", votes).tolist()
    [1, 0]
    """
    votes = jnp.stack(answers)
    if access == "labels":
        agreeing = (votes[:, None] == votes[None]).sum(1)
        place = jnp.argmax(agreeing, 0)  # the first of equals
        return jnp.take_along_axis(votes, place[None], 0)[0]
    logs = jnp.mean(jnp.stack([logarithms(access, one) for one in answers]), 0)
    return jax.nn.softmax(logs) if access == "probabilities" else logs


def power_of(
    access: str,
    names: Sequence[str],
    shown: Sequence[Look],
    ask: Callable[[Array], np.ndarray],
    honest: Array,
    probes: str,
) -> BlindPower:
    """What the changes do to honest probes f32[b, H, W, C], asked about four times each.

    Args:
      access: what the model is asked for.
      names: of its classes.
      shown: the changes.
      ask: asks it.
      honest, probes: images without a trigger, and what they are called.
    """
    before = np.asarray(labels(access, jnp.asarray(ask(honest))))
    answers = [jnp.asarray(ask(look.change(honest))) for look in shown]
    after = np.asarray(labels(access, together(access, answers)))
    changed = {
        name: float(np.mean(after[before == k] != k))
        for k, name in enumerate(names)
        if (before == k).any()
    }
    return BlindPower(
        looks=tuple(look.name for look in shown),
        probes=probes,
        honest=len(before),
        changed=float(np.mean(after != before)),
        changed_by_class=changed,
    )
