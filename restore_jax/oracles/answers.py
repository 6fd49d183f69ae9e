"""Asking a model outside JAX, in batches as large as it likes.

What every such model needs happens here, once: preprocessing, batches, checks of what comes back,
the clock, and the books. The files named after a format only open a model and ask it.
"""

import copy
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.oracles.binary import two_classes
from restore_jax.oracles.checking import check_outputs
from restore_jax.oracles.foreign import failed, foreign
from restore_jax.oracles.ledger import OutOfQueries
from restore_jax.oracles.options import Description, ModelOptions
from restore_jax.oracles.types import NOBODY, Books, ModelError

Ask = Callable[[np.ndarray, Callable[[int], None]], np.ndarray]
MOST_LATENCIES = 100_000
NOISY = 5
"""How often a noisy model is asked about every image."""


class HostAnswers:
    """Answers of a model outside: ``(images f32[b, H, W, C], books) -> outputs``, any b."""

    def __init__(
        self,
        name: str,
        ask: Ask,
        access: str,
        num_classes: int,
        prepare: Callable[[Any], Any],
        *,
        batch: int | None,
        most: int | None,
        statistics: Callable[[], dict[str, Any]] | None = None,
        binary: bool = False,
        times: int = 1,
        hint: str = "",
    ):
        """Wraps what asks a model.

        Args:
          name: of the model, for messages.
          ask: ``(images, sending) -> outputs``, of prepared images.
          access: what the outputs are.
          num_classes: K.
          prepare: preprocessing, of NumPy arrays.
          batch: the only number of images it takes at once, or None.
          most: the most images it is given at once, or None.
          statistics: what else is to be reported of the asking.
          binary: whether its one number an image is that of the second of two classes.
          times: how often it is asked about every image; the answers are averaged.
          hint: what else to try where its answers have another shape, to end a sentence with.
        """
        self._name, self._ask, self._access, self._classes = name, ask, access, num_classes
        self._prepare, self._batch = prepare, batch
        self._most = batch or most or 1 << 30
        self._statistics, self._binary, self._hint = statistics, binary, hint
        self.times, self._failure = times, failed(name)
        self._seconds: list[float] = []
        self._images = self._calls = 0

    def __call__(self, images: Any, books: Books = NOBODY) -> np.ndarray:
        """Outputs of images f32[b, H, W, C] in [0, 1]: f32[b, K], or int32[b] for labels.

        Args:
          images: what is asked about; the books have paid for each once.
          books: pay for what is sent again, and keep the answers.

        Raises:
          ModelError: the model fails, or answers what is no answer.
          OutOfQueries: the budget does not pay for sending images again.
          OutOfTime: the time is over; what is not sent then is given back.
        """
        images = np.asarray(images, np.float32)
        parts: list[np.ndarray] = []
        for first in range(0, len(images), self._most):
            if parts:
                books.go_on(len(images) - first)
            parts.append(self._once(images[first : first + self._most], books))
        if not parts:
            empty = np.zeros((0, self._classes), np.float32)
            return empty[:, 0].astype(np.int32) if self._access == "labels" else empty
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @property
    def together(self) -> int:
        """How many images it is best asked about at once: what goes in one call, at most 256."""
        return min(self._most, 256) if self._most < 1 << 30 else 64

    def reading(self, access: str) -> "HostAnswers":
        """The same model, with the same books, whose answers are read as something else."""
        other = copy.copy(self)
        other._access = access
        return other

    def statistics(self) -> dict[str, Any]:
        """Calls, images, and the seconds that a call took: median, 95 % and most."""
        found: dict[str, Any] = {"calls": self._calls, "images": self._images}
        if self._seconds:
            median, high, most = np.quantile(self._seconds, (0.5, 0.95, 1.0))
            found["latency_seconds"] = {
                "median": float(median), "p95": float(high), "max": float(most)
            }  # fmt: skip
        return found | (self._statistics() if self._statistics else {})

    def _once(self, images: np.ndarray, books: Books) -> np.ndarray:
        """One call of the model, or what the journal says it answered."""
        journal = books.journal
        if journal is not None:
            known, again, more = journal.known(images)
            _charge_again(books, again)
            _charge_again(books, more)
            if known is not None:
                return known
            journal.sending(len(images) * self.times, self._room(len(images)))
        size = len(images)
        shown = images
        if self._batch is not None and size < self._batch:
            # Copies that fill up a batch are no questions.
            shown = np.concatenate([images, np.repeat(images[:1], self._batch - size, 0)])
        prepared = self._prepare(shown)

        def sending(images: int) -> None:
            _charge_again(books, images)
            if journal is not None:
                journal.sent_again(images)

        asked = []
        for number in range(self.times):
            # In another order each time: what depends on the batch is averaged, too.
            began = time.perf_counter()
            turned = np.roll(prepared, number, 0) if number else prepared
            with foreign(self._failure):
                outputs = np.asarray(self._ask(turned, sending))
            if len(self._seconds) < MOST_LATENCIES:
                self._seconds.append(time.perf_counter() - began)
            self._calls, self._images = self._calls + 1, self._images + size
            outputs = self._checked(outputs, len(shown))
            asked.append((np.roll(outputs, -number, 0) if number else outputs)[:size])
        outputs = asked[0] if self.times == 1 else _averaged(asked)
        if self._access == "labels" and outputs.ndim == 2:
            outputs = outputs.argmax(-1).astype(np.int32)
        if journal is not None:
            journal.note(outputs)
        return outputs

    def _room(self, images: int) -> int:
        """Bytes that an answer takes in the journal, at most."""
        return 512 + images * (8 if self._access == "labels" else 6 * self._classes)

    def _checked(self, outputs: np.ndarray, number: int) -> np.ndarray:
        """The outputs as they are promised: f32[number, K], or int32[number] labels."""
        if self._binary:
            outputs = two_classes(self._name, self._access, outputs, number)
        integers = np.issubdtype(outputs.dtype, np.integer)
        if outputs.ndim == 1 and integers and self._access == "labels":
            if outputs.shape != (number,) or outputs.min() < 0 or outputs.max() >= self._classes:
                between = f" in {outputs.min()} to {outputs.max()}" if outputs.size else ""
                raise ModelError(
                    f"{self._name} must answer {number} labels in 0 to {self._classes - 1}, not "
                    f"{outputs.size}{between}."
                )
            return outputs.astype(np.int32)
        if outputs.shape != (number, self._classes):
            raise ModelError(
                f"{self._name} must answer {number} images with an array of shape ({number}, "
                f"{self._classes}), not {outputs.shape}{advice(outputs, self._access)}{self._hint}."
            )
        if not np.can_cast(outputs.dtype, np.float64, "same_kind"):
            raise ModelError(
                f"{self._name} must answer with numbers, not {outputs.dtype}{self._hint}."
            )
        with np.errstate(over="ignore"):  # what is then infinite is refused
            found = outputs.astype(np.float32)
        return check_outputs(self._name, self._access, found)


def advice(outputs: np.ndarray, access: str) -> str:
    """What may be wrong with outputs of another shape than [b, K], to end a sentence with."""
    if outputs.ndim == 0:
        return "; a list or a dict is taken for several outputs: return one array"
    if access == "labels" and outputs.shape[1:] in ((), (1,)):
        return f"; labels themselves must be whole numbers of shape (b,), not {outputs.dtype}"
    if outputs.ndim == 1:
        return "; if these are labels, say `access` labels"
    return "; if that is a sigmoid's, say `binary`" if outputs.shape[1:] == (1,) else ""


def _averaged(asked: list[np.ndarray]) -> np.ndarray:
    """The mean of answers f32[b, K], or of labels int32[b] that which was given most often."""
    if asked[0].ndim == 1:
        votes = np.stack(asked)
        counts = (votes[:, None] == votes).sum(1)
        return votes[counts.argmax(0), np.arange(votes.shape[1])]
    return np.asarray(np.mean(np.stack(asked), 0, np.float64), np.float32)


def _charge_again(books: Books, images: int) -> None:
    """Books images about to be sent again."""
    if not images or books.ledger is None:
        return
    try:
        books.ledger.charge_again(images)
    except OutOfQueries:
        if books.journal is not None:
            books.journal.unpaid(images)
        raise


def preprocessing(
    options: ModelOptions, own_shape: tuple[int, int, int], says: Description
) -> Callable[[Any], Any]:
    """What happens to images f32[b, h, w, C] in [0, 1] before a model sees them.

    Args:
      options: what the user said of it.
      own_shape: (H, W, C) of what the model takes.
      says: what the model says it takes, where the user says nothing.

    Returns:
      A function of NumPy arrays, or of JAX arrays, traced or not.

    Raises:
      ModelError: more numbers than channels.
    """
    low, high = options.value_range or says.value_range or (0.0, 1.0)
    if options.value_range is not None:
        # The model's own mean and deviation are those of another range.
        says = says._replace(mean=None, std=None)
    middle, spread = options.mean or says.mean or (0.0,), options.std or says.std or (1.0,)
    channels = own_shape[-1]
    for name, numbers in (("mean", middle), ("std", spread)):
        if len(numbers) not in (1, channels):
            raise ModelError(
                f"`{name}` takes one number or {channels}, one per channel, not {len(numbers)}."
            )
    mean, std = np.asarray(middle, np.float32), np.asarray(spread, np.float32)
    plain = (low, high) == (0.0, 1.0) and not mean.any() and (std == 1.0).all()

    def prepare(images: Any) -> Any:
        if tuple(images.shape[1:3]) != own_shape[:2]:
            resized = _resize(images, own_shape[:2])
            images = np.asarray(resized) if isinstance(images, np.ndarray) else resized
        if plain:
            return images
        scaled = images if (low, high) == (0.0, 1.0) else images * (high - low) + low
        return ((scaled - mean) / std).astype(np.float32)

    return prepare


@functools.partial(jax.jit, static_argnums=1)
def _resize(images: jax.Array, size: tuple[int, int]) -> jax.Array:
    shape = (images.shape[0], *size, images.shape[-1])
    return jax.image.resize(jnp.asarray(images), shape, "bilinear")
