"""Progress on stderr: a rich bar on a terminal, plain lines elsewhere."""

import contextlib
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


class Report(Protocol):
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


@contextlib.contextmanager
def progress(label: str, console: Console | None = None, unit: str = "") -> Iterator[Report]:
    """A context that yields a `Report`; whatever is printed meanwhile stays above the bar.

    Args:
      label: the command, in front of everything.
      console: where to; None: stderr.
      unit: what is counted, as "images".
    """
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
