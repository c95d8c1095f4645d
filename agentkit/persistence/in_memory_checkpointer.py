"""Journals of runs in memory, for tests and for applications whose runs may end with their process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from weakref import ref

from agentkit.events import AgentEvent
from agentkit.file_references import Files, with_references
from agentkit.messages import ToolCallPart
from agentkit.persistence.checkpointer import (
    UNENDED,
    EventCheckpointer,
    RunJournal,
    RunSummary,
    StoredRun,
    StoredStatus,
    UnendedRun,
    going_on,
    known_already,
    taken_over,
    unknown_calls,
    unknown_run,
    with_calls,
    with_inner,
)
from agentkit.persistence.outbox import Outbox, SentEvent
from agentkit.persistence.stored_events import StoredEvent, numbered
from agentkit.run.state import CallAnswer, RunState


@dataclass(slots=True)
class _Kept:
    summary: RunSummary
    state: RunState
    owner: ref[_MemoryJournal] | None = None
    """Journal that holds the run; a weak reference, so that an abandoned journal does not block a claim."""
    calls: dict[str, CallAnswer | None] = field(default_factory=dict[str, "CallAnswer | None"])
    events: list[StoredEvent] = field(default_factory=list[StoredEvent])
    files: Files = field(default_factory=dict[str, bytes])
    inner: dict[str, _Kept] = field(default_factory=dict[str, "_Kept"])

    @property
    def is_held(self) -> bool:
        owner = self.owner() if self.owner is not None else None
        return owner is not None and not owner.is_released

    def store(self, sent: Sequence[SentEvent]) -> list[StoredEvent]:
        new = numbered(sent, len(self.events))
        for each in new:
            self.files.update(each.files)
        new = [each.without_files() for each in new]
        self.events += new
        return new


class InMemoryCheckpointer(EventCheckpointer):
    """Stores runs in memory, for the lifetime of the process."""

    def __init__(self) -> None:
        """Start empty."""
        self._runs: dict[str, _Kept] = {}
        self._unended: dict[str, _Kept] = {}
        """Runs that have not ended; looked through for each request of a served agent, unlike all runs."""

    async def create(
        self,
        state: RunState,
        *,
        agent_name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        outbox: Outbox | None = None,
        alone_with: Mapping[str, str] | None = None,
    ) -> RunJournal:
        """Create the journal of a run."""
        if state.run_id in self._runs:
            raise known_already(state.run_id)
        if alone_with is not None and (others := _found(self._unended, None, alone_with)):
            raise UnendedRun(others[0])
        now = time.time()
        summary = RunSummary(state.run_id, agent_name, "running", now, now, dict(metadata or {}))
        kept = self._runs[state.run_id] = self._unended[state.run_id] = _Kept(summary, state)
        journal = _owned(kept, _MemoryJournal(self._runs, self._unended, kept))
        journal.outbox = outbox
        if outbox is not None:
            journal.store(outbox.with_state())
        return journal

    async def has(self, run_id: str) -> bool:
        """Return whether a run with that id exists."""
        return run_id in self._runs

    async def load(self, run_id: str) -> StoredRun:
        """Return a run without claiming it."""
        return _stored(self._known(run_id))

    async def claim(self, run_id: str) -> tuple[StoredRun, RunJournal]:
        """Claim a run."""
        kept = self._known(run_id)
        if kept.is_held:
            raise going_on(run_id, "this process")
        return _stored(kept), _owned(kept, _MemoryJournal(self._runs, self._unended, kept))

    async def list_runs(
        self,
        *,
        status: StoredStatus | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int = 100,
    ) -> Sequence[RunSummary]:
        """Return runs, latest first."""
        found = _found(self._runs, status, metadata)
        return sorted(found, key=lambda summary: summary.updated_at, reverse=True)[:limit]

    async def delete(self, run_id: str) -> None:
        """Delete a run."""
        self._known(run_id)
        del self._runs[run_id]
        self._unended.pop(run_id, None)

    async def unended_runs(
        self, *, metadata: Mapping[str, str] | None = None, limit: int = 100
    ) -> Sequence[RunSummary]:
        """Return runs that have not ended."""
        found = _found(self._unended, None, metadata)
        return sorted(found, key=lambda summary: summary.updated_at, reverse=True)[:limit]

    async def unheld_runs(
        self, *, metadata: Mapping[str, str] | None = None, limit: int = 100
    ) -> Sequence[RunSummary]:
        """Return runs that no journal holds."""
        found = _found(self._unended, "running", metadata)
        free = [summary for summary in found if not self._runs[summary.run_id].is_held]
        return sorted(free, key=lambda summary: summary.updated_at)[:limit]

    async def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        """Return stored events of a run."""
        return self._known(run_id).events[after : after + limit]

    async def file(self, run_id: str, sha256: str) -> bytes | None:
        """Return a file of a run by its hash."""
        kept = self._known(run_id)
        files = dict(kept.files)
        with_references(kept.state.messages, files)
        return files.get(sha256)

    async def last_events(self, run_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the number of the last stored event of each run."""
        return {run_id: len(self._runs[run_id].events) for run_id in run_ids if run_id in self._runs}

    async def append_event(self, run_id: str, event: AgentEvent) -> int:
        """Store an event of a run."""
        (stored,) = self._known(run_id).store([(time.time(), event)])
        return stored.number

    async def delete_ended(self, *, before: float, metadata: Mapping[str, str] | None = None) -> int:
        """Delete runs that ended before a time."""
        ended = [each for each in _found(self._runs, None, metadata) if each.status not in UNENDED]
        old = [each.run_id for each in ended if each.updated_at < before]
        for run_id in old:
            del self._runs[run_id]
        return len(old)

    async def store_events(self, journals: Sequence[RunJournal]) -> None:
        """Store events that need no other write."""
        for journal in journals:
            if isinstance(journal, _MemoryJournal) and journal.outbox is not None and journal.is_owner:
                journal.store(journal.outbox.alone())

    def _known(self, run_id: str) -> _Kept:
        if run_id not in self._runs:
            raise unknown_run(run_id)
        return self._runs[run_id]


def _found(
    runs: Mapping[str, _Kept], status: StoredStatus | None, metadata: Mapping[str, str] | None
) -> list[RunSummary]:
    wanted = (metadata or {}).items()
    return [
        kept.summary
        for kept in runs.values()
        if status in (None, kept.summary.status) and wanted <= kept.summary.metadata.items()
    ]


def _owned(kept: _Kept, journal: _MemoryJournal) -> _MemoryJournal:
    kept.owner = ref(journal)
    return journal


class _MemoryJournal(RunJournal):
    def __init__(
        self,
        runs: dict[str, _Kept],
        unended: dict[str, _Kept],
        kept: _Kept,
        outer: _MemoryJournal | None = None,
    ) -> None:
        self._runs = runs
        self._unended = unended
        self._kept = kept
        self._outer = outer
        self.is_released = False

    async def save(
        self,
        state: RunState,
        status: StoredStatus,
        *,
        starting: ToolCallPart | None = None,
        durable: bool = False,
    ) -> None:
        kept = self._own()
        if self.outbox is not None:
            self.store(self.outbox.with_state())
        kept.state = state
        self._set_status(status)
        unknown = unknown_calls(state)
        kept.calls = {call_id: part for call_id, part in kept.calls.items() if call_id in unknown}
        kept.inner.clear()
        self.is_released = status != "running"
        if starting is not None:
            kept.calls[starting.tool_call_id] = None

    async def failed(self) -> None:
        self._own()
        if self.outbox is not None:
            self.store(self.outbox.with_state())
        self._set_status("failed")
        self.is_released = True

    def _set_status(self, status: StoredStatus) -> None:
        kept = self._kept
        kept.summary = replace(kept.summary, status=status, updated_at=time.time())
        if status in UNENDED:
            self._unended[kept.summary.run_id] = kept
        else:
            self._unended.pop(kept.summary.run_id, None)

    async def release(self) -> None:
        self.is_released = True

    async def call_started(self, call: ToolCallPart, *, durable: bool) -> None:
        self._own().calls[call.tool_call_id] = None
        self._store_of(call.tool_call_id)

    async def call_answered(self, answer: CallAnswer) -> None:
        call_id = answer.tool_call_id or ""
        self._own().calls[call_id] = answer
        self._store_of(call_id)

    def _store_of(self, call_id: str) -> None:
        if self.outbox is not None:
            self.store(self.outbox.with_call(call_id))

    def store(self, sent: Sequence[SentEvent]) -> None:
        """Store events that were taken from the outbox."""
        if sent and self.outbox is not None:
            self.outbox.stored(self._kept.store(sent))

    @property
    def is_owner(self) -> bool:
        """Whether this journal holds the run."""
        return self._kept.owner is not None and self._kept.owner() is self

    async def inner_run(self, call_id: str, state: RunState) -> RunJournal | None:
        own = self._own()
        kept = own.inner[call_id] = _Kept(replace(own.summary, run_id=state.run_id), state)
        return _owned(kept, _MemoryJournal({state.run_id: kept}, {}, kept, self))

    def _own(self) -> _Kept:
        if self._outer is not None and self._kept not in self._outer._own().inner.values():
            raise taken_over(self._kept.state.run_id)
        run_id = self._kept.state.run_id
        if self._runs.get(run_id) is not self._kept or not self.is_owner:
            raise taken_over(run_id)
        return self._kept


def _stored(kept: _Kept) -> StoredRun:
    stored = StoredRun(kept.summary, *with_calls(kept.state, kept.calls))
    return with_inner(stored, {call_id: _stored(inner) for call_id, inner in kept.inner.items()})
