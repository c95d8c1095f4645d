"""Checkpointers: the protocol for storing runs, and an in-memory implementation for tests.

One process at a time performs a run. To resume a run, a process claims it; the claim is refused while another
process performs the run (`agentkit.persistence.leases`). After a claim, every write of the previous process fails,
so a process that was presumed dead and wakes up changes nothing (a fencing token, Kleppmann 2016).
`agentkit.testing.check_checkpointer` tests an implementation against this contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from agentkit.errors import CheckpointError
from agentkit.events import AgentEvent
from agentkit.messages import ToolCallPart
from agentkit.persistence.outbox import Outbox
from agentkit.persistence.stored_events import StoredEvent
from agentkit.results import RunResultStatus
from agentkit.run.state import CallAnswer, InnerRun, RunState
from agentkit.usage import RunUsage

StoredStatus = RunResultStatus | Literal["running", "failed"]
"""Status of a result, or "running" (also after a process was killed), or "failed" (after an error)."""
UNENDED: tuple[StoredStatus, ...] = ("running", "needs_approval", "needs_results")
"""Statuses of runs that have not ended."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Entry of a run in a list of runs."""

    run_id: str
    agent_name: str | None
    status: StoredStatus
    created_at: float
    """Time of creation, in seconds since 1970."""
    updated_at: float
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as stored in a journal."""

    summary: RunSummary
    state: RunState
    """State, with the answers of all answered calls."""
    in_flight: tuple[str, ...] = ()
    """Ids of calls that were started and not answered; calls of an inner run as `CALL.INNER_CALL`."""
    inner_kept: tuple[str, ...] = ()
    """Ids of calls whose inner runs the journal stored up to their last step."""


class UnendedRun(CheckpointError):
    """A run was not created because another one has not ended."""

    def __init__(self, other: RunSummary) -> None:
        """Name the other run."""
        super().__init__(f"run {other.run_id!r} has not ended: its status is {other.status!r}.")
        self.other = other


class RunJournal(ABC):
    """Journal of one run, held by the process that performs the run."""

    outbox: Outbox | None = None
    """Events that the following writes store with what they report; None: events are not stored."""

    @abstractmethod
    async def save(
        self,
        state: RunState,
        status: StoredStatus,
        *,
        starting: ToolCallPart | None = None,
        durable: bool = False,
    ) -> None:
        """Store a state atomically; messages that are already stored are not written again.

        The state may replace or drop the last stored messages, because a guardrail may withhold or rewrite text. A
        later `load` returns only the messages of this state.

        Saving deletes the recorded starts and answers of calls, since the state has the answers; only calls that
        the state has as pending with an unknown outcome stay in flight. `starting` is a call of this state that is
        about to run: the same write records it, like `call_started` with `durable`.

        Raises:
            CheckpointError: the state cannot be written, or another process has claimed the run.
        """

    @abstractmethod
    async def failed(self) -> None:
        """Record that the run ended with an error; the stored state stays, so the run can be resumed.

        Raises:
            CheckpointError: see `save`.
        """

    @abstractmethod
    async def call_started(self, call: ToolCallPart, *, durable: bool) -> None:
        """Record that a call is about to run; a `durable` record survives a power failure, not only a crash.

        Raises:
            CheckpointError: see `save`.
        """

    @abstractmethod
    async def call_answered(self, answer: CallAnswer) -> None:
        """Record the answer of a call; for the last open call of a response `save` does that.

        Raises:
            CheckpointError: see `save`.
        """

    async def release(self) -> None:
        """Release the run, so that other processes may claim it at once.

        `save` with a status other than "running", and `failed`, release the run too. Idempotent; a journal without
        claims does nothing.

        Raises:
            CheckpointError: the release cannot be written.
        """
        return

    async def inner_run(self, call_id: str, state: RunState) -> RunJournal | None:
        """Begin, or restart, the journal of a run that a call of this run performs, and return it.

        The inner run is part of this run: `load` and `claim` return its latest state in `RunState.inner`, its call
        in `StoredRun.inner_kept`, and its calls in flight as `CALL.INNER_CALL`. `save` of this run deletes it,
        since the state has it. None: this journal stores no inner runs; after a crash the outcome of such a call
        is unknown.

        Raises:
            CheckpointError: see `save`.
        """
        return None


class Checkpointer(ABC):
    """Storage of runs."""

    @abstractmethod
    async def create(
        self, state: RunState, *, agent_name: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> RunJournal:
        """Create the journal of a run; this process holds the run until it ends or is released.

        Raises:
            CheckpointError: a run with that id exists, or the journal cannot be written.
        """

    @abstractmethod
    async def has(self, run_id: str) -> bool:
        """Return whether a run with that id exists."""

    @abstractmethod
    async def load(self, run_id: str) -> StoredRun:
        """Return a run without claiming it.

        Raises:
            CheckpointError: the run is unknown or damaged.
        """

    @abstractmethod
    async def claim(self, run_id: str) -> tuple[StoredRun, RunJournal]:
        """Claim a run and hold its lease; journals of earlier holders can no longer write.

        `create` takes the lease too. The lease ends with `RunJournal.release`, `failed`, a `save` with a status
        other than "running", or the death of the process; see `agentkit.persistence.leases`.

        Raises:
            CheckpointError: see `load`; or another live holder has the lease.
        """

    @abstractmethod
    async def list_runs(
        self,
        *,
        status: StoredStatus | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int = 100,
    ) -> Sequence[RunSummary]:
        """Return the runs of this status whose metadata contains all of `metadata`, latest first."""

    @abstractmethod
    async def delete(self, run_id: str) -> None:
        """Delete a run.

        Raises:
            CheckpointError: the run is unknown.
        """


class EventCheckpointer(Checkpointer):
    """Storage of runs with their events, as agents that are served need it (`agentkit.serving`)."""

    def group_writes(self) -> None:
        """Prepare for many runs in one event loop: what they write at the same time may be stored together."""

    @abstractmethod
    async def create(
        self,
        state: RunState,
        *,
        agent_name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        outbox: Outbox | None = None,
        alone_with: Mapping[str, str] | None = None,
    ) -> RunJournal:
        """Create the journal of a run; `outbox` becomes the journal's, and the same write stores its events.

        Args:
            state: The run's first state.
            agent_name: Name of the agent.
            metadata: Stored with the run.
            outbox: Events of the run.
            alone_with: Metadata that no other run may have that has not ended; of several runs that are created at
                the same time, in any processes, one is. None: any number of runs.

        Raises:
            UnendedRun: another run with the metadata `alone_with` has not ended; this one is not created.
            CheckpointError: see `Checkpointer.create`.
        """

    @abstractmethod
    async def unended_runs(
        self, *, metadata: Mapping[str, str] | None = None, limit: int = 100
    ) -> Sequence[RunSummary]:
        """Return runs that go on or wait, latest first; see `list_runs`."""

    @abstractmethod
    async def unheld_runs(
        self, *, metadata: Mapping[str, str] | None = None, limit: int = 100
    ) -> Sequence[RunSummary]:
        """Return runs with status "running" that no live process holds, longest waiting first; see `list_runs`."""

    @abstractmethod
    async def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        """Return the stored events of a run whose number is above `after`, at most `limit`.

        Raises:
            CheckpointError: the run is unknown, or an event is damaged.
        """

    async def summary(self, run_id: str) -> RunSummary:
        """Return the entry of a run.

        Raises:
            CheckpointError: see `load`.
        """
        return (await self.load(run_id)).summary

    @abstractmethod
    async def file(self, run_id: str, sha256: str) -> bytes | None:
        """Return a file of a run's events or conversation by its hash; None if they have no such file.

        Raises:
            CheckpointError: the run is unknown.
        """

    @abstractmethod
    async def last_events(self, run_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the number of the last stored event of each run; runs that are unknown are left out."""

    @abstractmethod
    async def append_event(self, run_id: str, event: AgentEvent) -> int:
        """Store an event of a run that another process may hold; return its number.

        Raises:
            CheckpointError: the run is unknown.
        """

    @abstractmethod
    async def delete_ended(self, *, before: float, metadata: Mapping[str, str] | None = None) -> int:
        """Delete runs that ended before a time, in seconds since 1970; return their number. See `list_runs`."""

    @abstractmethod
    async def store_events(self, journals: Sequence[RunJournal]) -> None:
        """Store the events in the outboxes of some journals that need no other write (`Outbox.alone`).

        A journal whose run another process has claimed is left out: its next write fails.
        """


def with_calls(state: RunState, calls: Mapping[str, CallAnswer | None]) -> tuple[RunState, tuple[str, ...]]:
    """Return a state with the answers recorded since it was saved, and the ids of the calls in flight."""
    answers = tuple(part for part in calls.values() if part is not None)
    if answers:
        state = replace(state, answers=(*state.answers, *answers))
    return state, tuple(call_id for call_id, part in calls.items() if part is None)


def with_inner(stored: StoredRun, inner: Mapping[str, StoredRun]) -> StoredRun:
    """Return a run with the inner runs, by call, that continued since it was saved, and with their usage."""
    if not inner:
        return stored
    kept = {run.call_id: run for run in stored.state.inner}
    usage = stored.state.usage
    for call_id, run in inner.items():
        before = kept[call_id].state.usage if call_id in kept else RunUsage()
        usage = usage.plus(run.state.usage.minus(before))
    kept |= {call_id: InnerRun(call_id, run.state) for call_id, run in inner.items()}
    in_flight = [f"{call_id}.{each}" for call_id, run in inner.items() for each in run.in_flight]
    further = [f"{call_id}.{each}" for call_id, run in inner.items() for each in run.inner_kept]
    return replace(
        stored,
        state=replace(stored.state, inner=tuple(kept.values()), usage=usage),
        in_flight=(*stored.in_flight, *in_flight),
        inner_kept=(*inner, *further),
    )


def unknown_calls(state: RunState) -> list[str]:
    """Return the ids of the pending calls whose outcome is unknown."""
    return [call.tool_call_id for call in state.pending if call.kind == "unknown"]


def unknown_run(run_id: str) -> CheckpointError:
    """Return the error for an unknown run."""
    return CheckpointError(f"run {run_id!r} is not in this journal; `agentkit runs` lists what is.")


def going_on(run_id: str, where: str) -> CheckpointError:
    """Return the error for a run that cannot be claimed because a process performs it."""
    return CheckpointError(
        f"run {run_id!r} is going on in {where}: two processes would do its work twice. Wait for it to end, or "
        f"end that process; then resume it."
    )


def known_already(run_id: str) -> CheckpointError:
    """Return the error for a run that exists already."""
    return CheckpointError(f"run {run_id!r} is in this journal already; resume it instead of starting it again.")


def taken_over(run_id: str) -> CheckpointError:
    """Return the error for a run that another process has claimed."""
    return CheckpointError(
        f"run {run_id!r} was resumed elsewhere, or deleted, while it was going on here; this one stops."
    )
