"""Buffer of events between a run and the reader of its stream, in bounded memory.

A run sends events in a plain function call and so cannot wait there. It waits between two actions instead, while
too many events are unread. Events beyond the bound are merged: deltas of one text become one delta, and only the
newest progress report of a call stays.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from agentkit.events import AgentEvent
from agentkit.run.growing_event import GrowingEvent

MAX_UNREAD_EVENTS = 1024
"""Maximum number of unread events when a run begins its next action: some hundred steps, or 100 kB of deltas."""


class EventBuffer:
    """A queue with one reader and one writer, which never blocks; bound to the event loop that created it."""

    def __init__(self, max_unread: int = MAX_UNREAD_EVENTS) -> None:
        """Start empty."""
        self._max_unread = max_unread
        self._unread: deque[GrowingEvent] = deque()
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._ended = False

    def push(self, event: AgentEvent) -> None:
        """Add an event; thread-safe, because a synchronous tool reports progress from a worker thread."""
        with self._lock:
            if len(self._unread) < self._max_unread or not self._unread[-1].takes(event):
                self._unread.append(GrowingEvent(event))
        if threading.get_ident() == self._thread:
            self._filled.set()
        else:
            self._loop.call_soon_threadsafe(self._filled.set)

    def end(self) -> None:
        """Signal the end to the reader, after the last event."""
        self._ended = True
        self._filled.set()

    async def room(self) -> None:
        """Wait until the number of unread events is below the bound."""
        while len(self._unread) >= self._max_unread:
            self._drained.clear()
            await self._drained.wait()

    async def next(self) -> AgentEvent | None:
        """Return the next event; None at the end."""
        while not self._unread:
            if self._ended:
                return None
            self._filled.clear()
            await self._filled.wait()
        with self._lock:
            unread = self._unread.popleft()
        self._drained.set()
        return unread.joined()
