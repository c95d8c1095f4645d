"""Readers of the events of runs: each reads from the journal at its own pace, and is woken when there is more.

Events that this process stores are handed on from memory. Those of runs that another process performs are noticed
by asking the journal, for all of its readers at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import TypeAlias

import anyio

from agentkit.events import RunFailedEvent, RunFinishedEvent
from agentkit.persistence.checkpointer import EventCheckpointer
from agentkit.persistence.stored_events import StoredEvent

POLL_S = 0.1
"""Seconds between two looks at the events of runs that other processes perform."""
PAGE = 100
"""Events that are read from the journal at a time."""
RECENT = 256
"""Events of a run that are kept in memory while this process performs it."""
RunEnd: TypeAlias = RunFinishedEvent | RunFailedEvent
"""Event that is the last one of a run, or of its part before a client has to decide."""
_END_KINDS = ('"run_finished"', '"run_failed"')
"""Texts of which the JSON of such an event has one."""
Batches: TypeAlias = AsyncIterator[Sequence[StoredEvent]]
"""Events of a run, several at a time."""


def end_in(events: Sequence[StoredEvent]) -> RunEnd | None:
    """Return the last of some events if it ends a run or lets it wait, else None."""
    if not any(kind in events[-1].body for kind in _END_KINDS):
        return None  # most are not parsed
    last = events[-1].event
    return last if isinstance(last, RunEnd) else None


async def until_end(batches: Batches) -> Batches:
    """Yield the events of a run until it ends or waits."""
    async for events in batches:
        yield events
        if end_in(events) is not None:
            return


async def wait_for_end(batches: Batches) -> RunEnd:
    """Return the event that ends a run or lets it wait."""
    async for events in batches:
        if (end := end_in(events)) is not None:
            return end
    raise AssertionError("a run is followed until it ends")


class Followers:
    """Readers of runs in one process."""

    def __init__(self, checkpointer: EventCheckpointer) -> None:
        """Read from a checkpointer."""
        self._checkpointer = checkpointer
        self._recent: dict[str, deque[StoredEvent]] = {}
        """Last events of the runs that this process performs."""
        self._waiting: dict[str, set[anyio.Event]] = {}
        """Readers that have read all events, by run."""
        self._read_until: dict[str, int] = {}
        """Number up to which the waiting readers of a run have read; the smallest of them."""

    def performs(self, run_id: str) -> None:
        """Note that this process performs a run from now on."""
        self._recent[run_id] = deque(maxlen=RECENT)

    def left(self, run_id: str) -> None:
        """Note that this process no longer performs a run."""
        self._recent.pop(run_id, None)
        self._wake(run_id)

    def stored(self, run_id: str, events: Sequence[StoredEvent]) -> None:
        """Hand on events that were stored."""
        recent = self._recent.get(run_id)
        if recent is not None:
            recent.extend(events)
        self._wake(run_id)

    async def follow(self, run_id: str, after: int) -> Batches:
        """Yield the events behind number `after`, several at a time, for ever.

        Raises:
            CheckpointError: the run is unknown, or was deleted.
        """
        while True:
            while not (events := self._from_memory(run_id, after)):
                if events := await self._stored_or_news(run_id, after):
                    break
            yield events
            after = events[-1].number

    async def _stored_or_news(self, run_id: str, after: int) -> Sequence[StoredEvent]:
        """Return the events behind `after` that the journal has; without one, wait until there may be some."""
        news = anyio.Event()
        self._waiting.setdefault(run_id, set()).add(news)  # before the look, which another process may outrun
        self._read_until[run_id] = min(after, self._read_until.get(run_id, after))
        try:
            has_all = self._has_all(run_id, after)
            if not has_all and (found := await self._checkpointer.events(run_id, after=after, limit=PAGE)):
                return found
            await news.wait()
        finally:
            self._forget(run_id, news)
        return ()

    async def look(self) -> None:
        """Wake readers of runs of which other processes have stored events since they were read."""
        elsewhere = [run_id for run_id in self._waiting if run_id not in self._recent]
        if not elsewhere:
            return
        last = await self._checkpointer.last_events(elsewhere)
        for run_id in elsewhere:
            # A run that is gone wakes its readers too, which are then told so.
            if last.get(run_id, -1) != self._read_until.get(run_id):
                self._wake(run_id)

    def _has_all(self, run_id: str, after: int) -> bool:
        """Whether `after` is the last event of a run that this process performs, and which wakes its readers."""
        recent = self._recent.get(run_id)
        return bool(recent) and recent[-1].number == after

    def _from_memory(self, run_id: str, after: int) -> Sequence[StoredEvent]:
        """Return the events behind `after`; none if memory lacks one of them."""
        recent = self._recent.get(run_id)
        n = recent[-1].number - after if recent else 0
        # Numbers grow, so `n` events from `after + 1` on are whole.
        if recent is None or not 0 < n <= len(recent) or recent[-n].number != after + 1:
            return ()
        return [recent[at] for at in range(-n, 0)]

    def _wake(self, run_id: str) -> None:
        for news in self._waiting.get(run_id, ()):
            news.set()

    def _forget(self, run_id: str, news: anyio.Event) -> None:
        waiting = self._waiting.get(run_id, set())
        waiting.discard(news)
        if not waiting:
            self._waiting.pop(run_id, None)
            self._read_until.pop(run_id, None)
