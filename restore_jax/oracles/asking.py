"""Asking a model about images, outside the compiled search, and finding probes for it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.compilation import compiler_options
from restore_jax.data.probes import ProbeSource
from restore_jax.oracles.ledger import Ledger
from restore_jax.oracles.types import Oracle, labels, margins

Array = jax.Array
CHUNK = 64


class Inconclusive(RuntimeError):
    """The question cannot be answered with these probes; one sentence says why."""


def account(oracle: Oracle, ledger: Ledger) -> dict[str, Any]:
    """What asking a model took, to be written into a result: nothing more for our own."""
    if not oracle.foreign:
        return {"model_options": oracle.options} if oracle.options else {}
    answer: Any = oracle.answer
    return {
        "model_options": oracle.options,
        "asking": {
            "images_sent_again": ledger.resent,
            "cost": ledger.spent * float(oracle.options.get("price", 0.0)),
            **answer.statistics(),
        },
    }


class Asker:
    """Asks an oracle about any number of images: with one compiled program, or from the host."""

    def __init__(self, oracle: Oracle, ledger: Ledger | None = None):
        """For one run: ``ledger`` pays for images that a foreign model must be sent again."""
        self._oracle = oracle
        if oracle.foreign:
            foreign: Any = oracle.answer
            foreign.ledger = ledger

    @functools.cached_property
    def _answer(self) -> Any:
        """The one program, for `CHUNK` images: compiled once, wherever its arguments lie."""
        oracle = self._oracle

        def answer(weights: Any, images: Array, target: Array) -> tuple[Array, Array]:
            return _read(oracle.access, oracle.answer(weights, images), target)

        images = jax.ShapeDtypeStruct((CHUNK, *oracle.image_shape), jnp.float32)
        target = jax.ShapeDtypeStruct((), jnp.int32)
        lowered = jax.jit(answer).lower(oracle.weights, images, target)
        return lowered.compile(compiler_options())

    def labels(self, images: Any) -> np.ndarray:
        """int32[b], the predicted classes of images f32[b, H, W, C] in [0, 1]."""
        return self._ask(images, jnp.int32(0))[0]

    def margins(self, images: Any, target: Array) -> np.ndarray:
        """f32[b], the `margins` of images f32[b, H, W, C] for class target int32[]."""
        return self._ask(images, target)[1]

    def _ask(self, images: Any, target: Array) -> tuple[np.ndarray, np.ndarray]:
        # In NumPy: each number of images would be a program of its own to JAX, compiled anew.
        images = np.asarray(images)
        number = images.shape[0]
        if not number:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        if self._oracle.foreign:
            outputs = np.asarray(self._oracle.answer(self._oracle.weights, images))
            # Of one of few sizes, so that few programs are compiled.
            padded = np.concatenate([outputs, np.repeat(outputs[:1], -number % CHUNK, 0)])
            found, lead = _read(self._oracle.access, padded, target)
            return np.asarray(found)[:number], np.asarray(lead)[:number]
        answers = []
        for first in range(0, number, CHUNK):
            some = images[first : first + CHUNK]
            padded = np.zeros((CHUNK, *images.shape[1:]), np.float32)
            padded[: len(some)] = some
            found, lead = self._answer(self._oracle.weights, padded, target)
            answers.append((np.asarray(found)[: len(some)], np.asarray(lead)[: len(some)]))
        found, lead = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return found, lead


@functools.partial(jax.jit, static_argnums=0)
def _read(access: str, outputs: Array, target: Array) -> tuple[Array, Array]:
    """int32[b] and f32[b], the classes and the margins of a model's outputs."""
    return labels(access, outputs), margins(access, outputs, target)


class ProbeFeed:
    """Hands out fresh probes whose unstamped prediction is none of the excluded classes."""

    def __init__(self, source: ProbeSource, asker: Asker, ledger: Ledger, excluded: frozenset[int]):
        self._source, self._asker, self._ledger = source, asker, ledger
        self._excluded = np.array(sorted(excluded), np.int32)
        self._next = 0
        self._turned_away: list[tuple[np.ndarray, np.ndarray]] = []

    def take(self, wanted: int, most: int) -> Array:
        """f32[wanted, H, W, C], having asked (and booked) about at most ``most`` images.

        Raises:
          Inconclusive: too many of them are of an excluded class already.
          DataError: the source has no more.
        """
        kept: list[np.ndarray] = []
        have, asked = 0, 0
        while have < wanted:
            more = min(wanted - have, most - asked)
            if more <= 0 or asked > 20 * wanted:
                raise Inconclusive(
                    f"to this model only {have} of {asked} probes are not already of class "
                    f"{', '.join(map(str, self._excluded))}: give other --probes, or a larger "
                    "--budget."
                )
            images = np.asarray(self._source.draw(self._next, more))
            self._ledger.charge(more)
            answers = self._asker.labels(images)
            fit = np.all(answers[:, None] != self._excluded, -1)
            self._turned_away.append((images[~fit], answers[~fit]))
            images = images[fit]
            self._next, asked = self._next + more, asked + more
            kept, have = [*kept, images], have + images.shape[0]
        return jnp.asarray(np.concatenate(kept))

    def turned_away(self, target: int) -> Array:
        """f32[k, H, W, C]: the images met so far that the model gives class ``target``."""
        met = [images[answers == target] for images, answers in self._turned_away]
        return jnp.asarray(np.concatenate(met)) if met else self._source.draw(0, 0)
