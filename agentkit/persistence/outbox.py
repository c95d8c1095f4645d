"""Events of a run on their way into its journal: each is stored by the write that makes it true.

A reader of stored events must neither miss one nor see one twice, whenever the process that performs the run is
killed. So an event that reports a change of the state is stored in the same transaction as the state: the
response, the start and the result of a call, a plan, the end. Events that change nothing (pieces of text, progress
of a tool, a request) may be stored earlier; if the process is killed, the step is done again, and the event
`RunResumedEvent` says from which step. Pieces of tool calls of which none was stored before the response are left
out: the response has the calls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from agentkit.events import (
    AgentEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    RunResumedEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolCallDeltaEvent,
    ToolProgressEvent,
)
from agentkit.persistence.stored_events import StoredEvent
from agentkit.run.growing_event import GrowingEvent

_CHANGE_NOTHING = (
    ModelRequestEvent,
    RunResumedEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolCallDeltaEvent,
    ToolProgressEvent,
)
SentEvent = tuple[float, AgentEvent]
"""Time, in seconds since 1970, and event."""


class Outbox:
    """Listener that keeps the events of a run until its journal stores them."""

    def __init__(self, on_stored: Callable[[Sequence[StoredEvent]], None] | None = None) -> None:
        """Start empty; `on_stored` is called with the events of each write, once it is done."""
        self._waiting: list[tuple[float, GrowingEvent]] = []
        self._lock = threading.Lock()
        self._on_stored = on_stored
        self._left_out: type[object] | None = None
        self._has_told_pieces = False
        """Whether a piece of a tool call of the current response was taken."""
        self.last: int | None = None
        """Number of the last event that was stored from here; others may have added some since. None: unknown."""

    @property
    def is_empty(self) -> bool:
        """Whether no event waits."""
        return not self._waiting

    def leave_out_next(self, kind: type[object]) -> None:
        """Leave out the next event of a kind: the journal has it already."""
        self._left_out = kind

    def __call__(self, event: AgentEvent) -> None:
        """Add an event; thread-safe, because a synchronous tool reports progress from a worker thread.

        Pieces of one text are joined, so that a slow journal does not cost memory.
        """
        if self._left_out is not None and isinstance(event, self._left_out):
            self._left_out = None
            return
        with self._lock:
            if isinstance(event, ModelResponseEvent):
                self._leave_pieces_out()
            if not self._waiting or not self._waiting[-1][1].takes(event):
                self._waiting.append((time.time(), GrowingEvent(event)))

    def _leave_pieces_out(self) -> None:
        """Drop the pieces of calls that wait when the response comes, unless a reader may have earlier ones."""
        while not self._has_told_pieces and self._waiting and _is_piece_of_call(self._waiting[-1][1].event):
            self._waiting.pop()
        self._has_told_pieces = False

    def with_state(self) -> list[SentEvent]:
        """Take the events that a write of the state stores: all."""
        with self._lock:
            taken, self._waiting = self._waiting, []
            return self._joined(taken)

    def with_call(self, call_id: str) -> list[SentEvent]:
        """Take the events that the start or the answer of a call stores: its own, and those that change nothing.

        Events of calls that run at the same time wait for the writes of those calls.
        """
        return self._take(lambda event: getattr(event, "tool_call_id", None) == call_id or changes_nothing(event))

    def alone(self) -> list[SentEvent]:
        """Take the events that need no other write: those before the first one that reports a change."""
        has_changed = False

        def is_wanted(event: AgentEvent) -> bool:
            nonlocal has_changed
            has_changed = has_changed or not changes_nothing(event)
            return not has_changed

        return self._take(is_wanted)

    def stored(self, events: Sequence[StoredEvent]) -> None:
        """Note that the journal has stored events."""
        if events:
            self.last = events[-1].number
            if self._on_stored is not None:
                self._on_stored(events)

    def _take(self, is_wanted: Callable[[AgentEvent], bool]) -> list[SentEvent]:
        with self._lock:
            if not self._waiting:
                return []
            wanted = [is_wanted(each.event) for _, each in self._waiting]
            taken = [each for each, is_taken in zip(self._waiting, wanted, strict=True) if is_taken]
            self._waiting = [each for each, is_taken in zip(self._waiting, wanted, strict=True) if not is_taken]
            return self._joined(taken)

    def _joined(self, taken: list[tuple[float, GrowingEvent]]) -> list[SentEvent]:
        self._has_told_pieces |= any(_is_piece_of_call(each.event) for _, each in taken)
        return [(at, event.joined()) for at, event in taken]


def _is_piece_of_call(event: AgentEvent) -> bool:
    return isinstance(event, ToolCallDeltaEvent)


def changes_nothing(event: AgentEvent) -> bool:
    """Return whether an event reports no change of the state, so that a repeated step may report it again."""
    return isinstance(event, _CHANGE_NOTHING)
