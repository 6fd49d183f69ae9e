"""A model as a black box: what may be asked of it, and what an answer is worth.

There are two kinds of model, `restore_jax.oracles.traced.TracedOracle` (a JAX function, part of
whatever program asks it) and `restore_jax.oracles.hosted.HostedOracle` (anything else, asked from
the host). Both are an `Oracle`, and nobody outside this folder asks which kind one is.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from restore_jax.oracles.accesses import ACCESSES as ACCESSES
from restore_jax.oracles.checking import NONE as NONE
from restore_jax.oracles.errors import ModelError as ModelError
from restore_jax.oracles.journal import Journal
from restore_jax.oracles.ledger import Ledger
from restore_jax.splitting import (
    Scorer,
    SearchSpace,
    SplittingResult,
    SplittingState,
)
from restore_jax.splitting.types import Args, Particle, Particles, Tree
from restore_jax.types import JSON, Argument

Array = jax.Array
LOG_FLOOR = -30.0
"""Log-probabilities are clamped here: a probability of 0 is an ordinary answer."""


Images = Array | np.ndarray
"""f32[b, H, W, C]."""


class Books(NamedTuple):
    """Who pays for asking, and where answers are kept.

    Attributes:
      ledger: pays; None: nobody counts.
      journal: keeps what a model asked from the host answers; None: nobody does.
    """

    ledger: Ledger | None = None
    journal: Journal | None = None

    def charge(self, images: int) -> None:
        """Books images about to be sent; see `Ledger.charge`."""
        if self.ledger is not None:
            self.ledger.charge(images)

    def book(self, images: int) -> None:
        """Books images just sent; see `Ledger.book`."""
        if self.ledger is not None:
            self.ledger.book(images)

    def go_on(self, booked: int) -> None:
        """Refuses to go on when the time is over, and gives back what was booked.

        Args:
          booked: images that were booked and are not sent yet.

        Raises:
          OutOfTime: the time is over.
        """
        if self.ledger is not None and self.ledger.time_is_over():
            self.ledger.give_back(booked)
            self.ledger.go_on()


NOBODY = Books()


class Race(NamedTuple):
    """Candidates are shown probes a few at a time, and leave when they can no longer matter.

    The order of the probes is fixed, so that what is decided of a candidate is what all probes
    would have decided. This is a description; `Oracle.race` makes the race of it.

    Attributes:
      num_legs: L, how often candidates are shown some probes.
      width: w, how many at a time.
      legs: ``(args) -> (probes f32[L, w, H, W, C], notes)``, the notes a pytree with leading axis
        L of what `tally` wants to know of each leg.
      reads: the names of the arrays in ``args`` that `show` and `read` look at.
      show: ``(particle, probes f32[w, H, W, C], args) -> images f32[w, H, W, C]``, of one
        candidate.
      read: ``(outputs [b, ...], args) -> answers [b]``, what an answer of the model says.
      begin: ``(n) -> tally``, a pytree with leading axis n, before the first leg.
      tally: ``(tally, answers [n, w], racing bool[n], notes, level, args) -> (tally, racing)``
        after a leg; of candidates that do not race the answers mean nothing.
      finish: ``(tally, answers [n, L w], finished bool[n], args) -> result``.
    """

    num_legs: int
    width: int
    legs: Callable[[Args], tuple[Array, Tree]]
    reads: tuple[str, ...]
    show: Callable[[Particle, Array, Args], Array]
    read: Callable[[Array, Args], Array]
    begin: Callable[[int], Tree]
    tally: Callable[[Tree, Array, Array, Tree, Array, Args], tuple[Tree, Array]]
    finish: Callable[[Tree, Array, Array, Args], Tree]


class Raced(Protocol):
    """A race with a model."""

    def __call__(
        self, particles: Particles, active: Array, level: Array, args: Args
    ) -> tuple[Tree, ArrayLike]:
        """Lets candidates race.

        Args:
          particles: a pytree with leading axis n.
          active: bool[n], who races at all.
          level: f32[], what must be exceeded.
          args: what the race reads, and ``weights``, the model's.

        Returns:
          ``(result, cost)``: what the race's ``finish`` says, and the images it took.
        """


class Begin(Protocol):
    """Begins a search with particles from elsewhere."""

    def __call__(
        self, key: Array, particles: Particles, args: Args, scores: ArrayLike | None = None
    ) -> SplittingState:
        """A state of these particles, n of them.

        Args:
          key: of the search.
          particles: a pytree with leading axis n.
          args: what the score reads.
          scores: f32[n], theirs; None: they are scored here, and booked.
        """


class Seen(NamedTuple):
    """What a model said of b images.

    Attributes:
      labels: int32[b].
      margins: f32[b], see `margins`.
      lowest, sums: f32[b], the smallest of an image's outputs, and their sum; 0 of labels.
    """

    labels: np.ndarray
    margins: np.ndarray
    lowest: np.ndarray
    sums: np.ndarray


class Lanes(NamedTuple):
    """Several searches that differ in what their score reads; what they send is booked.

    Attributes:
      begin: see `Begin`.
      advance: ``(states, args) -> states``, lists of one length: one level of each. Searches that
        are over stay as they are. ``args`` hold all that the score reads but the model's weights.
    """

    begin: Begin
    advance: Callable[[list[SplittingState], list[dict[str, Tree]]], list[SplittingState]]


class Sampler(NamedTuple):
    """A search made ready; what it sends is booked.

    Attributes:
      init: ``(key, args) -> SplittingState``.
      begin: the same with particles from elsewhere, see `Begin`.
      advance: ``(state, args) -> SplittingState``, one level.
      result: ``(state) -> SplittingResult``.
      seconds: what compiling took.
    """

    init: Callable[[Array, Args], SplittingState]
    begin: Begin
    advance: Callable[[SplittingState, Args], SplittingState]
    result: Callable[[SplittingState], SplittingResult]
    seconds: float


class Oracle(Protocol):
    """A model that answers queries, and nothing else.

    Attributes:
      name: how the user named it.
      access: "logits", "probabilities" (both f32[b, K]) or "labels" (int32[b]).
      image_shape: (H, W, C).
      class_names: K names.
      weights: a pytree of arrays that `answer` reads; () where there are none to be had.
      metadata: what the model says of itself (planted triggers, accuracy); may be empty.
      asked: images that opening it took.
      options: what the user said of it, where anything was.
      each: how often it is sent an image that it is asked about, >= 1.
      together: how many images it is best asked about at once, >= 1.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def access(self) -> str: ...  # noqa: D102
    @property
    def image_shape(self) -> tuple[int, int, int]: ...  # noqa: D102
    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def weights(self) -> Tree: ...  # noqa: D102
    @property
    def metadata(self) -> dict[str, JSON]: ...  # noqa: D102
    @property
    def asked(self) -> int: ...  # noqa: D102
    @property
    def options(self) -> dict[str, JSON]: ...  # noqa: D102
    @property
    def each(self) -> int: ...  # noqa: D102
    @property
    def together(self) -> int: ...  # noqa: D102
    @property
    def num_classes(self) -> int:
        """K."""

    def reading(self, access: str) -> "Oracle":
        """The same model, whose answers are read as something else than they were opened for."""

    def query(self, images: Images) -> Array:
        """Images f32[b, H, W, C] in [0, 1] to outputs: f32[b, K], or int32[b] for labels.

        Raises:
          ModelError: images of another shape or range.
        """

    def answer(self, weights: Tree, images: Images, books: Books = NOBODY) -> Tree:
        """Outputs of images f32[b, H, W, C] in [0, 1], unchecked and not counted.

        Part of any JAX program that calls it, if the model is a JAX function. ``books`` pays for
        images that must be sent again, and keeps answers.

        Raises:
          ModelError: no JAX program can ask this model.
        """

    def read(
        self, images: np.ndarray, target: ArrayLike, books: Books = NOBODY
    ) -> tuple[np.ndarray, np.ndarray]:
        """The labels int32[b] and `margins` f32[b] of images f32[b, H, W, C], not counted."""

    def look(self, images: np.ndarray, target: ArrayLike, books: Books = NOBODY) -> Seen:
        """`read`, with what tells logits from probabilities."""

    def map(
        self,
        function: Callable[..., tuple[Tree, ...]],
        arrays: Sequence[np.ndarray],
        size: int,
        given: Tree = None,
        pay: Callable[[int], None] = lambda number: None,
    ) -> list[np.ndarray]:
        """Applies a function that asks the model to pieces of arrays.

        Args:
          function: ``(*pieces [k, ...]) -> arrays [k, ...]``, a tuple of them; with ``given``
            ``(given, *pieces)``.
          arrays: NumPy arrays of one length b.
          size: how long pieces are.
          given: a pytree of arrays that every piece is asked with (weights, probes): what is an
            argument is not part of the program, which then serves other models, too.
          pay: called with the length of each piece before it is asked about.

        Returns:
          Arrays of length b.
        """

    def race(self, race: Race, books: Books = NOBODY) -> Raced:
        """Makes a race with this model, to be called in the score of a search."""

    def sampler(
        self,
        scorer: Scorer,
        space: SearchSpace,
        books: Books,
        key: Array,
        args: Args,
        **how: Argument,
    ) -> Sampler:
        """Makes a search ready.

        Args:
          scorer: made of a race with this model and these books.
          space: where is searched.
          books: who pays.
          key, args: as it will be run with.
          **how: what `importance_splitting` takes, ``max_queries`` among it.
        """

    def lanes(self, scorer: Scorer, space: SearchSpace, books: Books, **how: Argument) -> Lanes:
        """Makes searches ready that go side by side, as far as that suits the device.

        Args:
          scorer, space, books: as for `sampler`.
          **how: what `importance_splitting` takes.
        """

    def repeat_cost(self, images: int) -> int:
        """What asking about so many images counts where the search could do without it: nothing,
        of a model in this process."""

    def spending(self, ledger: Ledger) -> dict[str, JSON] | None:
        """What asking took, fit for JSON; None of a model in this process."""


Model = str | Path | Callable[..., Tree] | Oracle
"""What `restore_jax.open_model` opens."""


def labels(access: str, outputs: Array) -> Array:
    """int32[b]: the predicted classes of an oracle's outputs.

    >>> labels("logits", jnp.array([[0.1, 0.9], [0.8, 0.2]])).tolist()
    [1, 0]
    """
    return outputs if access == "labels" else jnp.argmax(outputs, -1).astype(jnp.int32)


def margins(access: str, outputs: Array, target: ArrayLike) -> Array:
    """How clearly each answer is the target; at least 0 where (and only where) it is.

    Args:
      access: what the outputs are.
      outputs: as `Oracle.answer` gives them.
      target: int32[].

    Returns:
      f32[b]: with logits (or log-probabilities, clamped) the target's lead over the best
      other class; with labels 0 for the target and -1 for any other. Where the answer is not
      the target although the two are level (the other class has the lower number, or both are
      clamped), the margin is the largest number below 0. Of an answer that is none, it is no
      finite number.

    >>> margins("logits", jnp.array([[0.0, 3.0], [2.0, 0.0]]), 1).tolist()
    [3.0, -2.0]
    """
    hit = labels(access, outputs) == target
    if access == "labels":
        return jnp.where(hit, jnp.float32(0), jnp.where(outputs == NONE, jnp.nan, -1.0))
    if access == "probabilities":
        outputs = jnp.maximum(jnp.log(outputs), LOG_FLOOR)
    mine = jnp.arange(outputs.shape[-1]) == target
    lead = jnp.sum(jnp.where(mine, outputs, 0.0), -1) - jnp.max(
        jnp.where(mine, -jnp.inf, outputs), -1
    )
    return jnp.where(hit, jnp.maximum(lead, 0.0), jnp.minimum(lead, -1e-30))


def read_outputs(
    access: str, outputs: Array, target: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    """The four parts of `Seen`, of a model's outputs."""
    found, lead = labels(access, outputs), margins(access, outputs, target)
    if access == "labels":
        nothing = jnp.zeros_like(lead)
        return found, lead, nothing, nothing
    return found, lead, jnp.min(outputs, -1), jnp.sum(outputs, -1)


def check_images(name: str, image_shape: tuple[int, int, int], images: Images) -> Array:
    """Images as f32[b, H, W, C].

    Raises:
      ModelError: they have another shape or range.
    """
    images = jnp.asarray(images, jnp.float32)
    if images.ndim != 4 or images.shape[1:] != image_shape:
        raise ModelError(
            f"{name} takes images of shape (b, {', '.join(map(str, image_shape))}), "
            f"not {images.shape}."
        )
    if images.size and not bool((images.min() >= 0) & (images.max() <= 1)):
        raise ModelError(
            f"images must lie in [0, 1]; these lie in [{float(images.min()):g}, "
            f"{float(images.max()):g}]."
        )
    return images
