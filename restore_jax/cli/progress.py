"""Progress on stderr: a rich bar on a terminal, plain lines elsewhere."""

import contextlib
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Report(Protocol):
    """Says how far the work is."""

    def __call__(self, done: float, total: float, text: str, *, line: bool = True) -> None:
        """Shows ``text``; off a terminal only if ``line``."""


@contextlib.contextmanager
def progress(label: str, console: Console | None = None) -> Iterator[Report]:
    """A context that yields a `Report`; whatever is printed meanwhile stays above the bar."""
    console = console or Console(stderr=True)
    if not console.is_terminal:

        def plain(done: float, total: float, text: str, *, line: bool = True) -> None:
            if line:
                console.print(f"{label}: {text}", markup=False, highlight=False, soft_wrap=True)

        yield plain
        return
    columns = (
        TextColumn(label, markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=None, text="starting")

        def fancy(done: float, total: float, text: str, *, line: bool = True) -> None:
            bar.update(task, completed=done, total=total, text=text)

        yield fancy
