"""The functions that users call: a purifier, and a defended model that counts."""

import dataclasses
from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.errors import InputError
from restore_jax.oracles.checking import check_outputs
from restore_jax.oracles.opening import Opening, open_model
from restore_jax.oracles.types import NOBODY, Books, Images, Model, Oracle, labels
from restore_jax.purification.blind import Blind, answer_blindly
from restore_jax.purification.guarding import (
    Recovered,
    blind_report,
    defences,
    defend_blindly,
    report,
)
from restore_jax.purification.rules import verdict
from restore_jax.purification.types import Guard, Report
from restore_jax.run import Run

Array = jax.Array
NO_LIMIT = 1 << 62


@dataclasses.dataclass(frozen=True, eq=False)
class Purifier:
    """A function that keeps a model's answers free of triggers; see `purifier`.

    Attributes:
      report: what it can do, and what it cannot.
    """

    report: Report
    _oracle: Oracle
    _guards: Sequence[Guard] | Blind
    _books: Books = NOBODY

    def __call__(self, images: Array, outputs: Array) -> tuple[Array, Array]:
        """Purifies answers.

        Args:
          images: f32[b, H, W, C] in [0, 1].
          outputs: the model's on the images, f32[b, K], or int32[b] labels.

        Returns:
          ``(outputs, flags bool[b])``: those that stand, and which images carry a trigger.
        """
        return purify(self._oracle, self._guards, images, outputs, self._books)


def purifier(
    model: Model,
    recoveries: Recovered | None = None,
    *,
    blind: bool = False,
    access: str | None = None,
    probes: str | np.ndarray = "dead_leaves",
    seed: int = 0,
    **opening: Unpack[Opening],
) -> Purifier:
    """Makes the function that keeps a model's answers free of triggers.

    It guards classes, not patterns: the recovered triggers, those that work around them, and probes
    without any decide which other looks at an image tell this model's stamped images from honest
    ones.

    Args:
      model: what `open_model` takes, or an `Oracle`.
      recoveries: a scan, or what was recovered, one or several; of recoveries those that were
        found.
      blind: guards all classes instead, without a recovery: three changed copies of each image are
        asked about, and together they give the answer; see `blind`.
      access: what the model is asked for; None: logits, or what an open model is asked for.
      probes: images that guards are chosen with; see `open_probes`. Clean images of the
        model's own kind choose better than synthetic ones.
      seed: of what is drawn.
      **opening: how the model is opened; see `open_model`.

    Returns:
      A pure function ``(images, outputs) -> (outputs, flags)`` for `jax.jit` and `jax.vmap`, if
      the model is a JAX function; its ``report`` says what it can do. It asks the model about every
      image twice more at most, or three times blindly, whatever the answers; `Defended` spares the
      queries that are of no use.

    Raises:
      InputError: nothing was found in the recoveries, so that there is no class to guard; or both
        recoveries and ``blind`` were given, or neither.
      Inconclusive: a trigger leads no probe, so that nothing can be learned from it.

    >>> from restore_jax.backdoors import Trigger
    >>> def model(images):  # class 1 if the first pixel is white, else 0
    ...     return jnp.stack([jnp.full(len(images), 0.5), images[:, 0, 0].min(-1) - 0.45], -1)
    >>> mask = jnp.zeros((32, 32, 1)).at[0, 0].set(1.0)
    >>> purify = purifier(model, Trigger(mask, jnp.ones((32, 32, 3)), jnp.int32(1)))
    >>> purify.report.guards[0].asr_after
    0.0
    """
    if blind == (recoveries is not None):
        raise InputError("give either `recoveries` or `blind`.")
    oracle = open_model(model, access, **opening)
    run = Run(oracle, budget=NO_LIMIT, probes=probes, seed=seed).examine()
    if recoveries is None:
        blindly = defend_blindly(run)
        return Purifier(blind_report(blindly), run.model, blindly)
    guards = defences(run, recoveries)
    return Purifier(report(run, guards, recoveries), run.model, tuple(guards))


def purify(
    oracle: Oracle,
    guards: Sequence[Guard] | Blind,
    images: Array,
    outputs: Array,
    books: Books = NOBODY,
) -> tuple[Array, Array]:
    """Answers free of triggers; see `Purifier`. As many queries an image as a guard has looks."""
    if isinstance(guards, Blind):
        return answer_blindly(oracle, guards.looks, images, outputs, books)
    predicted = labels(oracle.access, outputs)
    changed = [images] * most_looks(guards)
    for guard in guards:
        mine = (predicted == guard.target)[:, None, None, None]
        for place in range(len(changed)):
            look = guard.rule.looks[min(place, len(guard.rule.looks) - 1)]
            changed[place] = jnp.where(mine, look.change(images), changed[place])
    answers = [oracle.answer(oracle.weights, some, books) for some in changed]
    flags = jnp.zeros(images.shape[0], bool)
    stands = outputs
    for guard in guards:
        after, found = verdict(
            guard.rule.name, oracle.access, guard.target, answers[0], answers[-1]
        )
        found = found & (predicted == guard.target)
        flags = flags | found
        stands = jnp.where(found.reshape((-1,) + (1,) * (outputs.ndim - 1)), after, stands)
    return stands.astype(outputs.dtype), flags


def most_looks(guards: Sequence[Guard]) -> int:
    """How many queries a suspicious image takes: 1 or 2."""
    return max((len(guard.rule.looks) for guard in guards), default=1)


class Defended:
    """A model that takes triggers' effects out of its answers.

    It answers as the model does, counts what that costs, and asks again only where the first
    answer is a guarded class.
    """

    def __init__(self, run: Run, guards: Sequence[Guard] | Blind, chunk: int = 250):
        """Defends a run's model; the run pays for every image."""
        oracle = run.model
        self._run, self._chunk = run, chunk
        self._plain = lambda x: (oracle.answer(oracle.weights, x, run.books),)
        if isinstance(guards, Blind):
            self._targets = np.arange(oracle.num_classes)
            self._each = len(guards.looks)
        else:
            self._targets = np.array([guard.target for guard in guards])
            self._each = most_looks(guards)
        self._purify = lambda x, y: purify(oracle, guards, x, y, run.books)
        self.queries = 0

    def warm(self) -> None:
        """Compiles both questions, with one grey image each, which count."""
        model = self._run.model
        grey = np.full((1, *model.image_shape), 0.5, np.float32)
        plain = self(grey)[2]
        self._run.ledger.charge(self._each)
        self.queries += self._each
        model.map(self._purify, (grey, plain), self._chunk)

    def __call__(self, images: Images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Answers.

        Args:
          images: f32[b, H, W, C] in [0, 1].

        Returns:
          ``(outputs, flags bool[b], plain)``: what stands, which images carry a trigger, and
          what the model said.
        """
        model, ledger = self._run.model, self._run.ledger
        images = np.asarray(images, np.float32)
        ledger.charge(len(images))
        plain = model.map(self._plain, (images,), self._chunk)[0]
        self.queries += len(images)
        check_outputs(model.name, model.access, plain)
        outputs, flags = plain.copy(), np.zeros(len(images), bool)
        predicted = np.asarray(labels(model.access, jnp.asarray(plain)))
        again = np.flatnonzero(np.isin(predicted, self._targets))
        if len(again):
            ledger.charge(self._each * len(again))
            self.queries += self._each * len(again)
            some, flagged = model.map(self._purify, (images[again], plain[again]), self._chunk)
            check_outputs(model.name, model.access, some)
            outputs[again], flags[again] = some, flagged
        return outputs, flags, plain
