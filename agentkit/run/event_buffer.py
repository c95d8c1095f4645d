"""Buffer of events between a run and the reader of its stream, in bounded memory.

A run sends events in a plain function call and so cannot wait there. It waits between two actions instead, while
too many events are unread. Events beyond the bound are merged: deltas of one text become one delta, and only the
newest progress report of a call stays.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass, replace

from agentkit.events import AgentEvent, TextDeltaEvent, ThinkingDeltaEvent, ToolCallDeltaEvent, ToolProgressEvent

MAX_UNREAD_EVENTS = 1024
"""Maximum number of unread events when a run begins its next action: some hundred steps, or 100 kB of deltas."""


@dataclass(slots=True)
class _Unread:
    event: AgentEvent
    more: list[str]
    """Texts of later deltas that belong to the event."""

    def joined(self) -> AgentEvent:
        event = self.event
        if not self.more:
            return event
        if isinstance(event, (TextDeltaEvent, ThinkingDeltaEvent)):
            return replace(event, text=event.text + "".join(self.more))
        assert isinstance(event, ToolCallDeltaEvent)
        return replace(event, arguments=event.arguments + "".join(self.more))


class EventBuffer:
    """A queue with one reader and one writer, which never blocks; bound to the event loop that created it."""

    def __init__(self, max_unread: int = MAX_UNREAD_EVENTS) -> None:
        """Start empty."""
        self._max_unread = max_unread
        self._unread: deque[_Unread] = deque()
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._ended = False

    def push(self, event: AgentEvent) -> None:
        """Add an event; thread-safe, because a synchronous tool reports progress from a worker thread."""
        with self._lock:
            if len(self._unread) < self._max_unread or not _join(self._unread[-1], event):
                self._unread.append(_Unread(event, []))
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


def _join(unread: _Unread, event: AgentEvent) -> bool:
    """Merge an event into the last unread one if both concern the same text or call; return whether it did."""
    last = unread.event
    match last, event:
        case (TextDeltaEvent(), TextDeltaEvent(text=text)) | (ThinkingDeltaEvent(), ThinkingDeltaEvent(text=text)):
            unread.more.append(text)
        case ToolCallDeltaEvent(), ToolCallDeltaEvent() if last.index == event.index:
            unread.more.append(event.arguments)
            if last.tool_name is None and event.tool_name is not None:
                unread.event = replace(last, tool_name=event.tool_name)
        case ToolProgressEvent(), ToolProgressEvent() if last.tool_call_id == event.tool_call_id:
            unread.event = event
        case _:
            return False
    return True
