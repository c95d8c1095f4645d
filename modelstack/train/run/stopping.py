"""Graceful stop: the first SIGINT or SIGTERM ends a run after the current step; the second ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

STOPPED = 130
"""Exit status of a run that was asked to stop: as a shell reports SIGINT."""


@dataclass(slots=True)
class Stop:
    """Whether a run was asked to stop."""

    asked: bool = False
    before: dict[int, Callable[[int, FrameType | None], object] | int | None] = field(default_factory=dict)
    """Previous handlers by signal."""

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Request a stop after this step, and restore the previous handler for the next signal."""
        self.asked = True
        signal.signal(number, self.before[number])


@contextmanager
def stop_asked() -> Iterator[Stop]:
    """Yield an object that the first SIGINT or SIGTERM marks as asked to stop."""
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        stop.before[number] = signal.signal(number, stop.ask)
    try:
        yield stop
    finally:
        for number, handler in stop.before.items():
            signal.signal(number, handler)
