"""A first SIGINT or SIGTERM asks a run to end after the step in flight; a second one ends it at once."""

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
    """Handlers by signal."""

    def ask(self, number: int, frame: FrameType | None) -> None:
        """End after this step; the next signal does what it did before."""
        self.asked = True
        signal.signal(number, self.before[number])


@contextmanager
def stop_asked() -> Iterator[Stop]:
    """Give what a first SIGINT or SIGTERM sets."""
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        stop.before[number] = signal.signal(number, stop.ask)
    try:
        yield stop
    finally:
        for number, handler in stop.before.items():
            signal.signal(number, handler)
