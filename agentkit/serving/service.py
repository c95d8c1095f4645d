"""Runs of a served agent: accepted, performed, decided about, cancelled, and followed by their events.

Any number of processes may serve one journal. A request changes nothing but the journal, and is acknowledged when
it is stored there: a run is accepted, a decision is applied, a cancellation is noted. Each process performs runs
that nobody holds, as many as it has room for, so the runs of a process that was killed go on in another one, and
readers notice no more than `RunResumedEvent`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Literal

import anyio

from agentkit.approvals.pending import Approve, Decision, Deny, Settle
from agentkit.errors import CheckpointError, UserError
from agentkit.events import (
    AgentEvent,
    CancelRequestedEvent,
    DecisionEvent,
    ResumeRequestedEvent,
    RewardEvent,
    RunRequestedEvent,
)
from agentkit.persistence.checkpointer import (
    UNENDED,
    EventCheckpointer,
    RunJournal,
    RunSummary,
    StoredRun,
    StoredStatus,
    UnendedRun,
)
from agentkit.run.resume import decided
from agentkit.run.state import RunState
from agentkit.serving.errors import RequestRefused
from agentkit.serving.followers import Batches, RunEnd
from agentkit.serving.forks import forked_state
from agentkit.serving.limits import ServiceLimits
from agentkit.serving.request_spans import trace_metadata
from agentkit.serving.run_request import RunRequest
from agentkit.serving.run_statuses import FAILED, WAITING, require_status, session_busy
from agentkit.serving.worker import (
    CANCELLED,
    OWNER,
    SERVED,
    SESSION,
    HeldRun,
    Known,
    Past,
    Worker,
    cancel,
    interrupted,
)
from agentkit.usage import RunUsage

if TYPE_CHECKING:
    from agentkit.agent import Agent
    from agentkit.persistence.session import Session
    from agentkit.run.setup import ResumeOptions

FIRST_PAGE, PAGE = 100, 1000
"""Events of an ended run that are read at a time; a short run needs no worker thread."""
LAST_EVENTS = 8
"""Events that are read at a time to find a run's end."""
CANCEL_S = 5.0
"""Seconds that a request to cancel waits for the run's end; it is cancelled all the same."""
_KINDS: Mapping[type[Decision], Literal["approve", "deny", "settle"]] = {
    Approve: "approve",
    Deny: "deny",
    Settle: "settle",
}


class AgentService:
    """An agent whose runs are served from a journal; `running` must be entered before requests are made."""

    def __init__(
        self,
        agent: Agent[Any, Any],
        *,
        checkpointer: EventCheckpointer,
        session_of: Callable[[str], Session],
        name: str = "agent",
        deps: Callable[[str], Any] | None = None,
        limits: ServiceLimits = ServiceLimits(),
    ) -> None:
        """Serve an agent.

        Args:
            agent: The agent; its own `checkpointer` has no part in served runs.
            checkpointer: Journal of the runs, which stores events (`agentkit.testing.check_stored_events`).
            session_of: Returns the conversation with an id.
            name: Name of the service; processes with the same name, journal and agent share their runs.
            deps: Returns the `deps` of a run, from the name of the client's key.
            limits: Limits of number and time.
        """
        declared = replace(agent._declared, checkpointer=None)  # pyright: ignore[reportPrivateUsage]
        self._agent = agent
        self.agent_name, self.name, self.limits = declared.name, name, limits
        self.telemetry, self.file_limits = declared.telemetry, declared.file_limits
        checkpointer.group_writes()
        self._journal, self._session_of, self._deps = checkpointer, session_of, deps
        self._worker = Worker(declared, checkpointer, name=name, options=self._options, limits=limits)

    @property
    def n_running(self) -> int:
        """Number of runs that this process performs."""
        return self._worker.n_running

    @property
    def spent(self) -> RunUsage:
        """Usage of all runs while this process performed them."""
        return self._worker.spent

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted."""
        return self._worker.is_open

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Perform runs while the context is open, with the model and the tool servers kept open between them."""
        async with self._agent, self._worker.running():
            yield

    def _options(self, owner: str, session: str | None) -> ResumeOptions[Any]:
        options: ResumeOptions[Any] = {}
        if self._deps is not None:
            options["deps"] = self._deps(owner)
        if session is not None:
            options["session"] = self.session(session, owner)
        return options

    # -- requests -----------------------------------------------------------------------------------------

    async def submit(self, request: RunRequest, owner: str) -> str:
        """Accept a run and return its id; it is performed in the background, here or in another process.

        Raises:
            RequestRefused: the service is closing or full, the session has a run that has not ended, or the
                idempotency key was used for another request.
            CheckpointError: the journal cannot be written.
        """
        self._require_open()
        run_id = RunState().run_id
        if request.idempotency_key is not None:
            run_id = _id_of_key(self.name, owner, request.idempotency_key)
            if await self._journal.has(run_id):
                return await self._same(run_id, request, owner)
        metadata, trace = {SERVED: self.name, OWNER: owner}, trace_metadata()
        if request.session is not None:
            metadata[SESSION] = request.session
        has_room = self._worker.take_place(run_id)
        try:
            if not has_room:
                await self._require_waiting_room()
            known, past = Known(0), Past()
            asked = request.event(run_id, self._deadline(request.timeout_s))
            past.see(asked)
            outbox = self._worker.outbox(run_id, known)
            outbox(asked)
            if has_room:
                self._worker.followers.performs(run_id)
            state = RunState(run_id=run_id, user=owner)
            if request.is_fork:
                state = forked_state(state, request.history)
            all_metadata = {**request.metadata, **trace, **metadata}
            journal = await self._journal.create(
                state,
                agent_name=self.agent_name,
                metadata=all_metadata,
                outbox=outbox,
                alone_with=None if request.session is None else metadata,
            )
        except BaseException as error:
            self._worker.give_place_back(run_id)
            if isinstance(error, CheckpointError) and await self._journal.has(run_id):
                return await self._same(run_id, request, owner)  # a concurrent request with the same key
            if isinstance(error, UnendedRun):
                raise session_busy(request.session, error.other) from error
            raise
        if has_room:
            self._worker.begin(HeldRun(run_id, owner, request.session, past, journal, known, trace), state)
        else:
            await journal.release()
        return run_id

    async def decide(self, run_id: str, decisions: Sequence[Decision], owner: str) -> None:
        """Apply decisions about the waiting calls of a run; it goes on once none waits.

        Raises:
            RequestRefused: the run is unknown to this client, or does not wait; or a decision is about a call that
                does not wait, or about another question than the waiting one.
            CheckpointError: the journal cannot be written.
        """
        self._require_open()
        summary = await self._owned(run_id, owner)
        require_status(summary, WAITING)
        stored, journal = await self._claimed(run_id, WAITING)
        try:
            state = _with_decisions(interrupted(stored), decisions)
            held = await self._worker.held_again(stored, journal)
            assert journal.outbox is not None
            for each in decisions:
                journal.outbox(DecisionEvent(each.tool_call_id, _KINDS[type(each)], owner))
            if state.pending:
                is_external = all(call.kind == "external" for call in state.pending)
                await journal.save(state, "needs_results" if is_external else "needs_approval")
                return
            await journal.save(state, "running")
        except BaseException:
            with anyio.CancelScope(shield=True):
                await journal.release()
            raise
        await self._worker.go_on(held, state)

    async def resume(self, run_id: str, owner: str) -> None:
        """Continue a run that failed or was cancelled, from its last stored step.

        Raises:
            RequestRefused: the run is unknown to this client, or has not failed.
            CheckpointError: the journal cannot be written.
        """
        self._require_open()
        summary = await self._owned(run_id, owner)
        require_status(summary, FAILED)
        if (session := summary.metadata.get(SESSION)) is not None:
            await self._require_idle({SERVED: self.name, OWNER: owner, SESSION: session})
        stored, journal = await self._claimed(run_id, FAILED)
        held = await self._worker.held_again(stored, journal)
        resumed = ResumeRequestedEvent(owner, self._deadline(None))
        held.past.see(resumed)
        assert journal.outbox is not None
        journal.outbox(resumed)
        state = interrupted(stored)
        await journal.save(state, "running")
        await self._worker.go_on(held, state)

    async def cancel(self, run_id: str, owner: str) -> None:
        """Cancel a run, wherever it is performed; a run that another process performs ends within a second.

        Raises:
            RequestRefused: the run is unknown to this client, or has ended.
            CheckpointError: the journal cannot be written.
        """
        summary = await self._owned(run_id, owner)
        require_status(summary, UNENDED)
        await self._journal.append_event(run_id, CancelRequestedEvent(owner))
        if (held := self._worker.held(run_id)) is not None:
            cancel(held, owner)
            with anyio.move_on_after(CANCEL_S):  # a tool in a thread cannot be stopped
                await held.ended.wait()
            return
        try:
            stored, journal = await self._claimed(run_id, UNENDED)
        except RequestRefused:
            return  # the process that performs it reads the event, or it has just ended
        held = await self._worker.held_again(stored, journal)
        await self._worker.note_end(held, CANCELLED, f"{owner} cancelled it.", stored.state)

    async def reward(self, run_id: str, reward: RewardEvent, owner: str) -> None:
        """Store a reward of a run or of one of its steps.

        Raises:
            RequestRefused: the run is unknown to this client, or has not ended.
            CheckpointError: the journal cannot be written.
        """
        summary = await self._owned(run_id, owner)
        if summary.status in UNENDED:
            raise RequestRefused("not_ended", f"run {run_id} has not ended: its status is {summary.status!r}.")
        await self._journal.append_event(run_id, reward)

    async def delete(self, run_id: str, owner: str) -> None:
        """Delete a run that is not being performed.

        Raises:
            RequestRefused: the run is unknown to this client, or is being performed.
            CheckpointError: the journal cannot be written.
        """
        summary = await self._owned(run_id, owner)
        await self._claimed(run_id, (summary.status,))
        await self._journal.delete(run_id)

    async def follow(self, run_id: str, after: int, owner: str) -> Batches:
        """Return an iterator over the events of a run behind number `after`, which never ends.

        Raises:
            RequestRefused: the run is unknown to this client, or has no event with that number.
        """
        if after == 0 and self.performs(run_id, owner):
            return self._worker.followers.follow(run_id, after)
        await self.n_events_behind(run_id, after, owner)
        return self._worker.followers.follow(run_id, after)

    def performs(self, run_id: str, owner: str) -> bool:
        """Return whether this process performs a run of a client; that it does not says nothing of the run."""
        held = self._worker.held(run_id)
        return held is not None and held.owner == owner

    async def n_events_behind(self, run_id: str, after: int, owner: str) -> int:
        """Return how many stored events of a run have a number above `after`.

        Raises:
            RequestRefused: the run is unknown to this client, or has no event with that number.
        """
        last = await self.n_events(run_id, owner)
        if not 0 <= after <= last:
            raise RequestRefused(
                "bad_request",
                f"run {run_id} has the events 1 to {last}, and none with number {after}; begin with 0.",
            )
        return last - after

    async def n_events(self, run_id: str, owner: str) -> int:
        """Return the number of the last stored event of a run.

        Raises:
            RequestRefused: the run is unknown to this client.
        """
        await self._owned(run_id, owner)
        return (await self._journal.last_events([run_id])).get(run_id, 0)

    async def pages(self, run: RunSummary, after: int = 0) -> Batches:
        """Yield the stored events of a run behind number `after`, several at a time, and no later ones.

        Args:
            run: Entry of the run, as `summary` returns it to the client whose run it is.
            after: Number of an event; 0: all.

        Raises:
            CheckpointError: the run was deleted meanwhile, or is damaged.
        """
        run_id = run.run_id
        for limit in chain((FIRST_PAGE,), repeat(PAGE)):
            if events := await self._journal.events(run_id, after=after, limit=limit):
                yield events
                after = events[-1].number
            if len(events) < limit:
                return

    async def file(self, run_id: str, sha256: str, owner: str) -> bytes:
        """Return a file of a run by the SHA-256 of its bytes.

        Raises:
            RequestRefused: the run is unknown to this client, or has no such file.
        """
        await self._owned(run_id, owner)
        if (data := await self._journal.file(run_id, sha256)) is None:
            raise RequestRefused("not_found", f"run {run_id} has no file {sha256!r}.")
        return data

    async def summary(self, run_id: str, owner: str) -> RunSummary:
        """Return the entry of a run.

        Raises:
            RequestRefused: the run is unknown to this client.
        """
        return await self._owned(run_id, owner)

    async def stored(self, run_id: str, owner: str) -> tuple[StoredRun, AgentEvent | None]:
        """Return a run, and the event that ended its last part; None while it goes on.

        Raises:
            RequestRefused: the run is unknown to this client.
            CheckpointError: the run is damaged.
        """
        await self._owned(run_id, owner)
        stored = await self._journal.load(run_id)
        last = (await self._journal.last_events([run_id])).get(run_id, 0)
        while stored.summary.status != "running" and last > 0:  # from the end, where rewards may stand behind it
            before = max(0, last - LAST_EVENTS)
            for each in reversed(await self._journal.events(run_id, after=before, limit=last - before)):
                if isinstance(each.event, RunEnd):
                    return stored, each.event
            last = before
        return stored, None

    async def runs(self, owner: str, *, session: str | None = None, limit: int = 100) -> Sequence[RunSummary]:
        """Return the runs of a client, latest first."""
        metadata = {SERVED: self.name, OWNER: owner}
        if session is not None:
            metadata[SESSION] = session
        return await self._journal.list_runs(metadata=metadata, limit=limit)

    async def delete_session(self, session: str, owner: str) -> None:
        """Delete a conversation of a client that no run continues.

        Raises:
            RequestRefused: a run of the session has not ended.
            CheckpointError: the journal cannot be written.
        """
        await self._require_idle({SERVED: self.name, OWNER: owner, SESSION: session})
        await self.session(session, owner).delete()

    def session(self, session: str, owner: str) -> Session:
        """Return a conversation of a client."""
        return self._session_of(f"{self.name}/{owner}/{session}")

    # -- checks -------------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if not self.is_ready:
            raise RequestRefused("closing", "the service is shutting down; ask again.")

    async def _owned(self, run_id: str, owner: str) -> RunSummary:
        """Return the entry of a client's run; a run of another client is unknown to this one."""
        unknown = RequestRefused("not_found", f"there is no run {run_id!r}.")
        try:
            summary = await self._journal.summary(run_id)
        except CheckpointError as error:
            if await self._journal.has(run_id):  # raises if the journal cannot be used
                raise
            raise unknown from error
        if (summary.metadata.get(SERVED), summary.metadata.get(OWNER)) != (self.name, owner):
            raise unknown
        return summary

    async def _claimed(self, run_id: str, statuses: Sequence[StoredStatus]) -> tuple[StoredRun, RunJournal]:
        """Claim a run that nobody performs and that has one of some statuses still."""
        try:
            stored, journal = await self._journal.claim(run_id)
        except CheckpointError as error:
            await self._journal.has(run_id)  # raises if the journal cannot be used
            raise RequestRefused("held", f"run {run_id} is going on; cancel it first, or wait.") from error
        try:
            require_status(stored.summary, statuses)
        except RequestRefused:
            await journal.release()
            raise
        return stored, journal

    async def _require_idle(self, metadata: dict[str, str]) -> None:
        for found in await self._journal.unended_runs(metadata=metadata, limit=1):
            raise session_busy(metadata[SESSION], found)

    async def _require_waiting_room(self) -> None:
        most = self.limits.max_waiting
        if len(await self._journal.unheld_runs(metadata={SERVED: self.name}, limit=most)) >= most:
            raise RequestRefused("busy", f"{most} runs wait already; ask again later.")

    async def _same(self, run_id: str, request: RunRequest, owner: str) -> str:
        await self._owned(run_id, owner)
        (first,) = await self._journal.events(run_id, limit=1)
        if not (isinstance(first.event, RunRequestedEvent) and request.is_repeated_by(first.event)):
            raise RequestRefused(
                "idempotency_conflict",
                f"the idempotency key {request.idempotency_key!r} was used for another request; use a new one.",
            )
        return run_id

    def _deadline(self, timeout_s: float | None) -> float | None:
        most = self.limits.run_timeout_s
        timeout_s = most if timeout_s is None else timeout_s if most is None else min(timeout_s, most)
        return None if timeout_s is None else time.time() + timeout_s


def _with_decisions(state: RunState, decisions: Sequence[Decision]) -> RunState:
    """Return the state with decisions applied.

    Raises:
        RequestRefused: a decision is about a call that does not wait, or about another question.
    """
    waiting = {call.tool_call_id: call for call in state.pending}
    for each in decisions:
        call = waiting.get(each.tool_call_id)
        digest = None if isinstance(each, Deny) else each.digest
        if call is not None and digest not in (None, call.digest):
            raise RequestRefused(
                "stale_decision",
                f"the decision about call {each.tool_call_id!r} names the digest {digest!r}, and the question "
                f"that waits has {call.digest!r}: read the pending calls of the run, and decide again.",
            )
    try:
        return decided(state, decisions)
    except UserError as error:
        raise RequestRefused("not_waiting", str(error)) from error


def _id_of_key(service: str, owner: str, key: str) -> str:
    """Return the id of the run of an idempotency key, which other clients cannot guess or meet."""
    digest = hashlib.sha256("\0".join((service, owner, key)).encode("utf-8", "surrogatepass")).hexdigest()
    return f"run_{digest[:32]}"
