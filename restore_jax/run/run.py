"""The run: its ledger, journal, probes, clock and provenance."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.typing import ArrayLike

from restore_jax.data.probes import ProbeSource, open_probes
from restore_jax.environment import device_name, versions
from restore_jax.errors import BudgetError
from restore_jax.oracles import ledger as clock
from restore_jax.oracles.asking import Asker
from restore_jax.oracles.errors import ModelError, ModelFailed
from restore_jax.oracles.journal import Journal, JournalError
from restore_jax.oracles.ledger import Ledger
from restore_jax.oracles.types import Books, Images, Oracle, Seen
from restore_jax.run import examining
from restore_jax.run.feed import ProbeFeed
from restore_jax.run.limits import NO_LIMITS, SECONDS, Limits
from restore_jax.run.records import Cost, Provenance
from restore_jax.run.saving import Saved


class Run:
    """One piece of work with one model.

    Its methods ask the model outside compiled searches, and count. A search that
    `Oracle.sampler` or `Oracle.lanes` makes ready with `books` counts in the same ledger.

    Attributes:
      model: what is asked.
      seed: of everything drawn.
      ledger: counts; of a run within another, the other's counts as well.
      books: what the model is asked with: the ledger, and the journal, if answers are kept.
      source: the probes, in order.
      saved: where its searches are saved, if they are.
      notes: what a reader of the result should know of the model, a sentence each.
      pace: seconds that asking about one image takes, as measured; None: not measured.

    >>> import jax.numpy as jnp
    >>> from restore_jax import open_model
    >>> bright = lambda images: jnp.stack([1 - images.mean((1, 2, 3)), images.mean((1, 2, 3))], -1)
    >>> run = Run(open_model(bright), budget=100)
    >>> with run.stage("looking"):
    ...     answers = run.labels(run.source.draw(0, 10))
    >>> run.cost().queries_by_stage
    {'looking': 10}
    """

    def __init__(
        self,
        model: Oracle,
        *,
        budget: int,
        probes: str | Path | np.ndarray | ProbeSource = "dead_leaves",
        seed: int = 0,
        data_dir: str | None = None,
        journal: Journal | Saved | None = None,
        within: "Run | None" = None,
        limits: Limits = NO_LIMITS,
    ):
        """Begins a run; opening the model is booked first.

        Args:
          model: an open model.
          budget: images that may be sent, everything counted.
          probes, data_dir: see `open_probes`; or a source that is open already.
          seed: of everything drawn, probes too.
          journal: keeps the answers of a model that is asked from the host, or saves where a
            search in this process stands; None: nobody does.
          within: the run that this one is a part of, which has paid for opening the model, pays
            for all of this one, too, and keeps the answers.
          limits: what it may take beside its budget; the time begins here.

        Raises:
          BudgetError: the budget is not even one image.
          DataError: there are no such probes.
        """
        if budget < 1:
            raise BudgetError(f"`budget` must be at least 1 image, not {budget}.")
        self._began = time.perf_counter()
        self.model: Oracle = model
        self.seed = seed
        self.source = (
            probes if isinstance(probes, ProbeSource)
            else open_probes(probes, seed, model.image_shape, data_dir)
        )  # fmt: skip
        self._limit = limits.ends_by(budget)
        self._ended: str | None = None
        price = limits.price
        if within is not None and price is None:
            price = within.ledger.price
        self.ledger: Ledger = Ledger(
            limits.images(budget),
            spent=0 if within is not None else model.asked,
            payer=None if within is None else within.ledger,
            each=model.each,
            price=price,
            end=math.inf if limits.seconds is None else clock.now() + limits.seconds,
            at_end=self._time_is_over,
        )
        self.pace: float | None = None if within is None else within.pace
        self.saved: Saved | None = journal if isinstance(journal, Saved) else None
        answers = None if isinstance(journal, Saved) else journal
        if within is not None:
            self.saved, answers = within.saved, within.books.journal
        self.books: Books = Books(self.ledger, answers)
        self.notes: list[str] = [] if within is None else within.notes
        self._queries: dict[str, int] = {}
        self._seconds: dict[str, float] = {}

    @property
    def asker(self) -> Asker:
        """Asks the model about images that are booked otherwise."""
        return Asker(self.model, self.books)

    def examine(self) -> "Run":
        """Looks at the model before anything is concluded from it; see `examining`."""
        journal = self.books.journal
        try:
            examining.examine(self)
        except ModelError as error:
            if journal is not None:
                journal.vain = not isinstance(error, ModelFailed | JournalError)
            raise
        return self

    def look(self, images: np.ndarray) -> Seen:
        """What the model says of images f32[b, H, W, C] that the search could do without.

        They are booked where asking about them again would cost anything.

        Raises:
          OutOfQueries: the budget does not pay for them.
        """
        self.ledger.charge(self.model.repeat_cost(len(images)))
        return self.model.look(images, np.int32(0), self.books)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Books what is spent until its end under a name; several of one name add up.

        What was spent before the first stage, to open the model, is the first one's. A search's
        NaN says that a number is not known, so `jax_debug_nans` is off until the stage's end; a
        model that answers with NaN is refused without it.
        """
        began = time.perf_counter()
        try:
            with _nan_allowed():
                yield
        finally:
            more = self.ledger.spent - sum(self._queries.values())
            self._queries[name] = self._queries.get(name, 0) + more
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began

    def labels(self, images: Images) -> np.ndarray:
        """int32[b], the predicted classes of images f32[b, H, W, C] in [0, 1], booked.

        Raises:
          OutOfQueries: the budget does not pay for them.
        """
        self.ledger.charge(len(images))
        return self.asker.labels(images)

    def margins(self, images: Images, target: ArrayLike) -> np.ndarray:
        """f32[b], the `restore_jax.oracles.margins` of images f32[b, H, W, C], booked.

        Raises:
          OutOfQueries: the budget does not pay for them.
        """
        self.ledger.charge(len(images))
        return self.asker.margins(images, target)

    def beside(self, images: int) -> Asker | None:
        """What asks the model about so many images that the search could do without.

        They are booked here, if asking again costs anything; None if the budget does not pay, or
        the time is over.
        """
        cost = self.model.repeat_cost(images)
        if cost > self.ledger.left or (cost and self.ledger.time_is_over()):
            return None
        self.ledger.charge(cost)
        return self.asker

    def feed(self, excluded: frozenset[int], only: int | None = None) -> ProbeFeed:
        """The run's probes from the first on, without those of some classes, or of one class."""
        return ProbeFeed(self.source, self.labels, excluded, only)

    @contextlib.contextmanager
    def keeping(self, images: int) -> Iterator[None]:
        """Keeps back the time that so many images take, for what comes after it."""
        before = self.ledger.kept
        self.ledger.kept = before + images * (self.pace or 0.0)
        try:
            yield
        finally:
            self.ledger.kept = before

    @contextlib.contextmanager
    def untimed(self) -> Iterator[None]:
        """Does not look at the clock until its end."""
        before = self.ledger.kept
        self.ledger.kept = -math.inf
        try:
            yield
        finally:
            self.ledger.kept = before

    @contextlib.contextmanager
    def until(self, end: float) -> Iterator[None]:
        """Ends the time earlier, on the clock of limits, for one part of the work."""
        before = self.ledger.end
        self.ledger.end = min(before, end)
        try:
            yield
        finally:
            self.ledger.end = before

    def ended(self) -> None:
        """Says that there were not images enough, so that the result can say which limit it was."""
        if self._ended is None:
            self._ended = self._limit

    @property
    def limit(self) -> str | None:
        """Which limit ended the run, or a part of it; None: none did."""
        return self._ended

    def _time_is_over(self) -> None:
        self._ended = SECONDS
        if self.books.journal is not None:
            # What is asked to wind up is not what the run would have asked.
            self.books.journal.leaves = True

    def seconds(self) -> float:
        """Since the run began, on the clock."""
        return time.perf_counter() - self._began

    def cost(self, seconds: Mapping[str, float] | None = None) -> Cost:
        """What the run took until now; ``seconds`` is what else is known of the clock."""
        return Cost(
            queries=self.ledger.spent,
            budget=self.ledger.budget,
            queries_by_stage=dict(self._queries),
            seconds=dict(seconds or {}),
            seconds_by_stage=dict(self._seconds),
            asking=self.model.spending(self.ledger),
            price=self.ledger.price,
            limit=self._ended,
        )

    def provenance(self) -> Provenance:
        """What the run's result comes from."""
        return Provenance(
            model=self.model.name,
            access=self.model.access,
            probes=self.source.name,
            seed=self.seed,
            model_options=self.model.options,
            versions=versions(),
            device=device_name(),
            notes=tuple(self.notes),
        )


def _nan_allowed() -> contextlib.AbstractContextManager[None]:
    """Lets compiled programs of this thread hand back NaN, where JAX was told to refuse it."""
    if not jax.debug_nans.value:
        return contextlib.nullcontext()
    return jax.debug_nans(False)
