"""Progress on stderr: a rich bar on a terminal, plain lines elsewhere."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

HEARTBEAT = 10.0
"""Seconds of silence at most, where there is no terminal."""


class Tell(Protocol):
    """Says how far the work is."""

    def __call__(self, done: float, total: float, text: str, *, line: bool = True) -> None:
        """Shows ``text``; off a terminal only if ``line``. A total of 0: not known."""


class _Count(ProgressColumn):
    """Done of total with thousands separated; nothing while the total is unknown."""

    def __init__(self, unit: str):
        self._unit = unit
        super().__init__()

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        return Text(
            f"{task.completed:,.0f}/{task.total:,.0f}{self._unit}", style="progress.download"
        )


class _Left:
    """How long what is left takes, at the speed since the first report that said how far it is."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        self._over = self._last = 0.0  # when it will be over, and what was done by then

    def note(self, done: float, total: float, now: float) -> None:
        """Notes that so much of it is done; a total of 0 says that nobody knows what is left."""
        if not total:
            self._over = 0.0
        if not total or not done or done == self._last:
            return
        self._last = done
        if self._first is None:
            self._first = now, done
            return
        began, before = self._first
        if done > before:
            self._over = now + (now - began) / (done - before) * max(0.0, total - done)

    def words(self, now: float) -> str:
        """To end a line with; nothing where it is not known, or should be over."""
        left = self._over - now
        if left < 1:
            return ""
        return f", about {left:.0f} s left" if left < 120 else f", about {left / 60:.0f} min left"


class _Heart:
    """Plain lines; one every `HEARTBEAT` seconds at least, which says what is still going on."""

    def __init__(self, label: str, console: Console):
        self._label, self._console = label, console
        self._text, self._since, self._shown = "starting", time.monotonic(), time.monotonic()
        self._left = _Left()
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "_Heart":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def report(self, done: float, total: float, text: str, *, line: bool = True) -> None:
        """See `Tell`."""
        with self._lock:
            self._left.note(done, total, time.monotonic())
            if text != self._text:
                self._text, self._since = text, time.monotonic()
            if line:
                self._show(f"{text}{self._left.words(time.monotonic())}")

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT / 10):
            with self._lock:
                now = time.monotonic()
                if now - self._shown >= 0.9 * HEARTBEAT:
                    left = self._left.words(now)
                    self._show(f"{self._text}, for {now - self._since:.0f} s now{left}")

    def _show(self, text: str) -> None:
        self._shown = time.monotonic()
        with contextlib.suppress(OSError):  # nobody reads any more
            self._console.print(
                f"{self._label}: {text}", markup=False, highlight=False, emoji=False, soft_wrap=True
            )


@contextlib.contextmanager
def progress(label: str, console: Console | None = None, unit: str = "") -> Iterator[Tell]:
    """A context that yields a `Tell`; whatever is printed meanwhile stays above the bar.

    Args:
      label: the command, in front of everything.
      console: where to; None: stderr.
      unit: what is counted, as "images".
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        with _Heart(label, console) as heart:
            yield heart.report
        return
    columns = (
        TextColumn(label, markup=False),
        BarColumn(bar_width=24),
        _Count(f" {unit}" if unit else ""),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=None, text="starting")

        def fancy(done: float, total: float, text: str, *, line: bool = True) -> None:
            # Without a total there is no measure: a bar that has none yet goes on pulsing.
            if total:
                bar.update(task, completed=done, total=total)
            bar.update(task, text=text)

        yield fancy
