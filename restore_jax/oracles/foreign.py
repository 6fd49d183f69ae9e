"""Running somebody else's code: whatever it does but return is the model's failure.

A user's module may call ``sys.exit``, and a model may raise what Python keeps for Ctrl-C. Neither
ends the program as if it were done. The user's own Ctrl-C does, even if the code swallows it.
"""

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from restore_jax.errors import OutOfQueries
from restore_jax.oracles.errors import ModelError, ModelFailed, cause

P = ParamSpec("P")
T = TypeVar("T")


@contextlib.contextmanager
def foreign(
    what: Callable[[BaseException], BaseException],
) -> Iterator[None]:
    """A context for code that is not ours.

    Args:
      what: makes the error of what the code raised; ModelError and OutOfQueries are let through.

    Raises:
      ModelError: the code raised anything else, SystemExit and KeyboardInterrupt among it.
      KeyboardInterrupt: the user interrupted it, whatever it made of that.
    """
    with _interruptions() as interrupted:
        try:
            yield
        except (ModelError, OutOfQueries):
            if interrupted():
                raise KeyboardInterrupt from None
            raise
        except BaseException as error:
            if interrupted():
                raise KeyboardInterrupt from None
            raise what(error) from error
    if interrupted():
        raise KeyboardInterrupt


def failed(name: str) -> Callable[[BaseException], ModelError]:
    """Makes the error of a model that was asked."""

    def what(error: BaseException) -> ModelError:
        if isinstance(error, MemoryError):
            return ModelFailed(f"{name} ran out of memory: give a smaller `batch`.")
        if isinstance(error, SystemExit):  # asked again it would quit again
            return ModelError(f"{name} failed: {told(error)}.")
        return ModelFailed(f"{name} failed: {told(error)}.")

    return what


def told(error: BaseException) -> str:
    """The kind of an error, and its reason."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({'' if error.code is None else repr(error.code)})"
    if isinstance(error, KeyboardInterrupt):
        return "it raised KeyboardInterrupt, though nobody pressed Ctrl-C"
    return f"{type(error).__name__}: {cause(error)}"


def guarded(name: str, function: Callable[P, T]) -> Callable[P, T]:
    """The function, whose errors are a model's; of traced ones that is while they are traced."""

    @functools.wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> T:
        with foreign(failed(name)):
            return function(*args, **keywords)

    return call


@contextlib.contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """Says whether a signal that ends programs has come since the context began.

    Signals come to the main thread only, and only where Python handles them; elsewhere the answer
    is no.
    """
    came = False
    before: dict[signal.Signals, Any] = {}

    def watch(number: signal.Signals, handler: Callable[[int, FrameType | None], Any]) -> None:
        def note(signum: int, frame: FrameType | None) -> None:
            nonlocal came
            came = True
            handler(signum, frame)

        before[number] = handler
        signal.signal(number, note)

    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    watch(number, handler)
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
