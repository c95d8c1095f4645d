"""Progress of long work: bars on a terminal, elsewhere a line every ten seconds.

A terminal that cannot move its cursor (TERM=dumb, as in Emacs) gets lines, too: rich shows no bar on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

INTERVAL_S = 10.0
"""Minimum number of seconds between two lines."""

Clock = Callable[[], float]


class Tell(Protocol):
    """Receiver of a work's progress."""

    def __call__(self, name: str, done: float = 0, total: float | None = None, note: str = "") -> None:
        """Report progress.

        Args:
            name: Name of the part of the work; each name has a bar.
            done: Amount that is done.
            total: Whole amount; None if unknown.
            note: Latest facts, such as a loss.
        """
        ...


@contextmanager
def progress_bars(
    console: Console,
    *,
    count: Callable[[float], str] = "{:,.0f}".format,
    keep: bool = False,
    clock: Clock = time.monotonic,
) -> Iterator[Tell]:
    """Show progress while the context lasts; yield the function to report it with.

    Args:
        console: Receives bars or lines.
        count: Text of an amount, such as megabytes of a number of bytes.
        keep: Whether the finished bars stay on the terminal.
        clock: Seconds of a clock that never goes back.
    """
    if not _has_bars(console):
        yield _Lines(console, count, clock)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),  # short, so that a training's loss and speed fit 80 columns beside it
        TextColumn("{task.fields[counted]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=not keep) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(name: str, done: float = 0, total: float | None = None, note: str = "") -> None:
            counted = _counted(done, total, count)
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total, counted=counted, note=note)
            bars.update(tasks[name], completed=done, total=total, counted=counted, note=note)

        yield tell
        for task in bars.tasks:
            if task.total is None:  # else the bar of a finished part would stay half full
                bars.update(task.id, completed=1, total=1)


@contextmanager
def activity(console: Console, first: str, *, clock: Clock = time.monotonic) -> Iterator[Callable[[str], None]]:
    """Show what is being done, where no amount is known; yield the function that changes the text.

    Args:
        console: Receives a spinner with the text, or lines.
        first: First text.
        clock: Seconds of a clock that never goes back.
    """
    if _has_bars(console):
        with console.status(first) as status:
            yield status.update
        return
    lines = _Lines(console, str, clock, wait_s=0.0)
    yield lambda text: lines(text)


def _has_bars(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


class _Lines:
    """Prints the newest progress, at most once per interval.

    The first line comes `wait_s` after the start, so that short work prints nothing.
    """

    def __init__(
        self, console: Console, count: Callable[[float], str], clock: Clock, wait_s: float = INTERVAL_S
    ) -> None:
        self._console = console
        self._count = count
        self._clock = clock
        self._due = clock() + wait_s

    def __call__(self, name: str, done: float = 0, total: float | None = None, note: str = "") -> None:
        """Print a line if the last one is old enough."""
        now = self._clock()
        if now < self._due:
            return
        self._due = now + INTERVAL_S
        line = "  ".join(part for part in (name, _counted(done, total, self._count), note) if part)
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _counted(done: float, total: float | None, count: Callable[[float], str]) -> str:
    if total is not None:
        return f"{count(done)} of {count(total)}"
    return count(done) if done else ""
