"""Where runs are kept: the protocol, and a keeper in memory for tests.

A run is performed by one process at a time. A process that takes a run up claims it, which is refused while
another one goes on with it (`agentkit.persistence.leases`). After a claim, every write of the process that had
the run before fails, so a process that was believed dead and wakes up again changes nothing (a fencing token,
Kleppmann 2016). `agentkit.testing.check_checkpointer` holds an implementation to all that is promised here.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from weakref import ref

from agentkit.errors import CheckpointError
from agentkit.messages import ToolCallPart
from agentkit.results import RunResultStatus
from agentkit.state import CallAnswer, InnerRun, RunState

StoredStatus = RunResultStatus | Literal["running", "failed"]
"""As of a result; "running" also where a process was killed, and "failed" where it said so."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a list of runs tells of one."""

    run_id: str
    agent_name: str | None
    status: StoredStatus
    created_at: float
    """Seconds since 1970."""
    updated_at: float
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as it was left."""

    summary: RunSummary
    state: RunState
    """With the answers of all calls that have one."""
    in_flight: tuple[str, ...] = ()
    """Ids of calls that were started and not answered; those of an inner run as `CALL.INNER_CALL`."""
    inner_kept: tuple[str, ...] = ()
    """Ids of calls whose inner runs the journal kept up to their last step."""


class RunJournal(ABC):
    """The journal of one run, held by the process that performs it."""

    @abstractmethod
    async def save(
        self,
        state: RunState,
        status: StoredStatus,
        *,
        starting: ToolCallPart | None = None,
        durable: bool = False,
    ) -> None:
        """Store a state at once and whole; messages that are stored are not written again.

        What was noted of calls is forgotten with it, since the state has their answers; only the calls that it has
        as pending with an unknown outcome stay in flight. `starting` is a call of this state that is about to run:
        the same write notes it, as `call_started` would. `durable` as there.

        Raises:
            CheckpointError: it cannot be written, or another process has taken the run up.
        """

    @abstractmethod
    async def failed(self) -> None:
        """Note that the run ended with an error; what is stored of it stays, so it may be resumed.

        Raises:
            CheckpointError: as `save`.
        """

    @abstractmethod
    async def call_started(self, call: ToolCallPart, *, durable: bool) -> None:
        """Note that a call is about to run; `durable` survives a power failure, not only the process.

        Raises:
            CheckpointError: as `save`.
        """

    @abstractmethod
    async def call_answered(self, answer: CallAnswer) -> None:
        """Note what a call gave; `save` does that for a response's last one.

        Raises:
            CheckpointError: as `save`.
        """

    async def release(self) -> None:
        """Note that this process does not go on with the run: others may claim it at once.

        Also follows from `save` with a status other than "running", and from `failed`. Calling it again is
        harmless. A journal without claims does nothing.

        Raises:
            CheckpointError: it cannot be written.
        """
        return

    async def inner_run(self, call_id: str, state: RunState) -> RunJournal | None:
        """Begin, or begin anew, the journal of a run that a call of this run performs, and return it.

        It is part of this run: `load` and `claim` give its latest state in `RunState.inner`, name its call in
        `StoredRun.inner_kept`, and its calls in flight as `CALL.INNER_CALL`. `save` of this run forgets it, since
        the state has it. None: this journal keeps no inner runs, so after a crash the outcome of such a call is
        unknown.

        Raises:
            CheckpointError: as `save`.
        """
        return None


class Checkpointer(ABC):
    """A keeper of runs."""

    @abstractmethod
    async def create(
        self, state: RunState, *, agent_name: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> RunJournal:
        """Begin a run's journal; this process has the run until it ends or is released.

        Raises:
            CheckpointError: there is a run of that id, or it cannot be written.
        """

    @abstractmethod
    async def has(self, run_id: str) -> bool:
        """Say whether there is a run of that id."""

    @abstractmethod
    async def load(self, run_id: str) -> StoredRun:
        """Return a run without taking it up.

        Raises:
            CheckpointError: it is unknown or damaged.
        """

    @abstractmethod
    async def claim(self, run_id: str) -> tuple[StoredRun, RunJournal]:
        """Take a run up; what others still hold of it can no longer write.

        Raises:
            CheckpointError: as `load`; or a process that is alive goes on with the run.
        """

    @abstractmethod
    async def list_runs(
        self,
        *,
        status: StoredStatus | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int = 100,
    ) -> Sequence[RunSummary]:
        """Return the runs of this status whose metadata hold all of `metadata`, latest first."""

    @abstractmethod
    async def delete(self, run_id: str) -> None:
        """Forget a run.

        Raises:
            CheckpointError: it is unknown.
        """


@dataclass(slots=True)
class _Kept:
    summary: RunSummary
    state: RunState
    owner: ref[_MemoryJournal] | None = None
    """Held weakly: a run that is forgotten is not going on."""
    calls: dict[str, CallAnswer | None] = field(default_factory=dict[str, "CallAnswer | None"])
    inner: dict[str, _Kept] = field(default_factory=dict[str, "_Kept"])


class InMemoryCheckpointer(Checkpointer):
    """Keeps runs as long as the process lives."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._runs: dict[str, _Kept] = {}

    async def create(
        self, state: RunState, *, agent_name: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> RunJournal:
        """Begin a run's journal."""
        if state.run_id in self._runs:
            raise known_already(state.run_id)
        now = time.time()
        summary = RunSummary(state.run_id, agent_name, "running", now, now, dict(metadata or {}))
        kept = self._runs[state.run_id] = _Kept(summary, state)
        return _owned(kept, _MemoryJournal(self._runs, kept))

    async def has(self, run_id: str) -> bool:
        """Say whether there is a run of that id."""
        return run_id in self._runs

    async def load(self, run_id: str) -> StoredRun:
        """Return a run without taking it up."""
        return _stored(self._known(run_id))

    async def claim(self, run_id: str) -> tuple[StoredRun, RunJournal]:
        """Take a run up."""
        kept = self._known(run_id)
        owner = kept.owner() if kept.owner is not None else None
        if owner is not None and not owner.is_released:
            raise going_on(run_id, "this process")
        return _stored(kept), _owned(kept, _MemoryJournal(self._runs, kept))

    async def list_runs(
        self,
        *,
        status: StoredStatus | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int = 100,
    ) -> Sequence[RunSummary]:
        """Return runs, latest first."""
        wanted = (metadata or {}).items()
        found = [
            kept.summary
            for kept in self._runs.values()
            if status in (None, kept.summary.status) and wanted <= kept.summary.metadata.items()
        ]
        return sorted(found, key=lambda summary: summary.updated_at, reverse=True)[:limit]

    async def delete(self, run_id: str) -> None:
        """Forget a run."""
        self._known(run_id)
        del self._runs[run_id]

    def _known(self, run_id: str) -> _Kept:
        if run_id not in self._runs:
            raise unknown_run(run_id)
        return self._runs[run_id]


def _owned(kept: _Kept, journal: _MemoryJournal) -> _MemoryJournal:
    kept.owner = ref(journal)
    return journal


class _MemoryJournal(RunJournal):
    def __init__(self, runs: dict[str, _Kept], kept: _Kept, outer: _MemoryJournal | None = None) -> None:
        self._runs = runs
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
        kept.state = state
        kept.summary = replace(kept.summary, status=status, updated_at=time.time())
        unknown = unknown_calls(state)
        kept.calls = {call_id: part for call_id, part in kept.calls.items() if call_id in unknown}
        kept.inner.clear()
        self.is_released = status != "running"
        if starting is not None:
            kept.calls[starting.tool_call_id] = None

    async def failed(self) -> None:
        kept = self._own()
        kept.summary = replace(kept.summary, status="failed", updated_at=time.time())
        self.is_released = True

    async def release(self) -> None:
        self.is_released = True

    async def call_started(self, call: ToolCallPart, *, durable: bool) -> None:
        self._own().calls[call.tool_call_id] = None

    async def call_answered(self, answer: CallAnswer) -> None:
        self._own().calls[answer.tool_call_id or ""] = answer

    async def inner_run(self, call_id: str, state: RunState) -> RunJournal | None:
        own = self._own()
        kept = own.inner[call_id] = _Kept(replace(own.summary, run_id=state.run_id), state)
        return _owned(kept, _MemoryJournal({state.run_id: kept}, kept, self))

    def _own(self) -> _Kept:
        if self._outer is not None and self._kept not in self._outer._own().inner.values():
            raise taken_over(self._kept.state.run_id)
        run_id = self._kept.state.run_id
        if self._runs.get(run_id) is not self._kept or self._kept.owner is None or self._kept.owner() is not self:
            raise taken_over(run_id)
        return self._kept


def _stored(kept: _Kept) -> StoredRun:
    stored = StoredRun(kept.summary, *with_calls(kept.state, kept.calls))
    return with_inner(stored, {call_id: _stored(inner) for call_id, inner in kept.inner.items()})


def with_calls(state: RunState, calls: Mapping[str, CallAnswer | None]) -> tuple[RunState, tuple[str, ...]]:
    """Add to a state the answers that its calls got since it was saved; return it and the calls in flight."""
    answers = tuple(part for part in calls.values() if part is not None)
    if answers:
        state = replace(state, answers=(*state.answers, *answers))
    return state, tuple(call_id for call_id, part in calls.items() if part is None)


def with_inner(stored: StoredRun, inner: Mapping[str, StoredRun]) -> StoredRun:
    """Add to a run the inner runs that went on since it was saved, by the call that each serves."""
    if not inner:
        return stored
    kept = {run.call_id: run for run in stored.state.inner}
    kept |= {call_id: InnerRun(call_id, run.state) for call_id, run in inner.items()}
    in_flight = [f"{call_id}.{each}" for call_id, run in inner.items() for each in run.in_flight]
    further = [f"{call_id}.{each}" for call_id, run in inner.items() for each in run.inner_kept]
    return replace(
        stored,
        state=replace(stored.state, inner=tuple(kept.values())),
        in_flight=(*stored.in_flight, *in_flight),
        inner_kept=(*inner, *further),
    )


def unknown_calls(state: RunState) -> list[str]:
    """Return the ids of the calls of which a state says that their outcome is unknown."""
    return [call.tool_call_id for call in state.pending if call.kind == "unknown"]


def unknown_run(run_id: str) -> CheckpointError:
    """Return the error for a run that is not there."""
    return CheckpointError(f"run {run_id!r} is not in this journal; `agentkit runs` lists what is.")


def going_on(run_id: str, where: str) -> CheckpointError:
    """Return the error for a run that cannot be claimed, because a process goes on with it."""
    return CheckpointError(
        f"run {run_id!r} is going on in {where}: two processes would do its work twice. Wait for it to end, or "
        f"end that process; then resume it."
    )


def known_already(run_id: str) -> CheckpointError:
    """Return the error for a run that is there already."""
    return CheckpointError(f"run {run_id!r} is in this journal already; resume it instead of starting it again.")


def taken_over(run_id: str) -> CheckpointError:
    """Return the error for a run that another process goes on with."""
    return CheckpointError(
        f"run {run_id!r} was resumed elsewhere, or deleted, while it was going on here; this one stops."
    )
