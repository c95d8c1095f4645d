"""Performs the runs of a served agent that this process holds, and takes up those that nobody holds.

A run that is killed with its process stays in the journal; whichever process looks next claims it and goes on from
its last stored step. Its events are numbered on, and a cancellation that another process wrote is read from them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from agentkit.errors import AgentKitError, CheckpointError
from agentkit.events import (
    AgentEvent,
    CancelRequestedEvent,
    HandoffEvent,
    ResumeRequestedEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunRequestedEvent,
)
from agentkit.file_references import references_in, with_files
from agentkit.messages import Content, ModelMessage, ModelRequest, UserPromptPart
from agentkit.persistence.checkpointer import EventCheckpointer, RunJournal, StoredRun
from agentkit.persistence.outbox import Outbox
from agentkit.persistence.stored_events import StoredEvent
from agentkit.run.agent_run import AgentRun, entered
from agentkit.run.resume import with_unknown
from agentkit.run.state import RunState
from agentkit.serving.client_tools import client_toolset
from agentkit.serving.followers import POLL_S, Followers
from agentkit.serving.limits import ServiceLimits
from agentkit.serving.request_spans import continued_trace
from agentkit.usage import RunUsage

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from agentkit.run.declaration import Declaration
    from agentkit.run.setup import ResumeOptions
    from agentkit.tools.definition import ToolDefinition

logger = logging.getLogger(__name__)

SERVED, OWNER, SESSION = "agentkit.served", "agentkit.owner", "agentkit.session"
"""Metadata of a served run: the service's name, the name of the client's key, the client's name of the session."""
LOCAL_OWNER = "local"
"""Owner of the runs of a service without keys."""
CANCELLED, TOO_LATE = "RunCancelled", "DeadlineExceeded"
"""Error types of runs that ended because a client cancelled them, or at their deadline."""
SCHEDULE_S, LISTEN_S, STORE_S, SWEEP_S = 0.5, 0.25, 0.05, 300.0
"""Seconds between looks for runs that nobody holds, for cancellations by way of another process, between writes of
pieces of text, and between deletions of old runs."""
AGAIN_S = 5.0
"""Seconds after which a run whose journal could not be written is tried again."""
PAGE = 1000
"""Events that are read at a time."""


@dataclass(slots=True)
class Past:
    """Facts from the stored events of a run that decide how it goes on."""

    prompt: Content = ""
    history: tuple[ModelMessage, ...] = ()
    tools: tuple[ToolDefinition, ...] = ()
    """Tools of the client."""
    deadline: float | None = None
    """Time at which the run is cancelled, in seconds since 1970."""
    n: int = 0
    """Number of the last event."""
    cancelled_by: str | None = None
    """Name of the key of a client that cancelled the run, if it has not ended since."""
    n_handoffs: int = 0

    def see(self, event: AgentEvent) -> None:
        """Note what an event says."""
        match event:
            case RunRequestedEvent():
                self.prompt, self.history = event.prompt, event.history
                self.tools, self.deadline = event.tools, event.deadline
            case CancelRequestedEvent():
                self.cancelled_by = event.by
            case ResumeRequestedEvent():
                self.deadline = event.deadline
            case RunFailedEvent() | RunFinishedEvent():
                self.cancelled_by = None
            case HandoffEvent():
                self.n_handoffs += 1
            case _:
                pass


@dataclass(slots=True)
class Known:
    """Number of events of a run that this process has stored, or that were stored before it took the run up."""

    n: int


@dataclass(slots=True, eq=False)
class HeldRun:
    """A run that this process performs."""

    run_id: str
    owner: str
    session: str | None
    past: Past
    journal: RunJournal
    known: Known
    trace: Mapping[str, str]
    """Metadata with the trace context of the request that began the run."""
    n_foreign: int = 0
    """Events that others have added, as far as they were read."""
    is_parked: bool = False
    """True if the run waits between two actions, because the service closes."""
    cancelled_by: str | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)


class Worker:
    """Runs that this process performs; `running` must be entered first."""

    def __init__(
        self,
        declared: Declaration[Any, Any],
        checkpointer: EventCheckpointer,
        *,
        name: str,
        options: Callable[[str, str | None], ResumeOptions[Any]],
        limits: ServiceLimits,
    ) -> None:
        """Perform the runs of an agent.

        Args:
            declared: The agent.
            checkpointer: Journal of the runs.
            name: Name of the service.
            options: Returns the options of a run, from the names of the client's key and session.
            limits: Limits of number and time.
        """
        self._declared, self._journal, self._options = declared, checkpointer, options
        self._name, self._limits = name, limits
        self.followers = Followers(checkpointer)
        self._held: dict[str, HeldRun] = {}
        self._places: set[str] = set()
        """Runs that are held here or about to be; at most `limits.max_runs`."""
        self._tasks: TaskGroup | None = None
        self._is_closing = False
        self._has_room = anyio.Event()
        self.spent = RunUsage()
        """Usage of all runs while this process performed them."""
        self._not_before: dict[str, float] = {}
        """Times before which runs that stopped here are not taken up again."""

    @property
    def n_running(self) -> int:
        """Number of runs that this process performs."""
        return len(self._held)

    @property
    def _n_free(self) -> int:
        return self._limits.max_runs - len(self._places | self._held.keys())

    @property
    def is_open(self) -> bool:
        """Whether runs are performed."""
        return self._tasks is not None and not self._is_closing

    def held(self, run_id: str) -> HeldRun | None:
        """Return a run that this process performs; None if it does not."""
        return self._held.get(run_id)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Perform runs while the context is open; at its end, running calls have `limits.drain_s` to finish."""
        failure: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._repeat, self._take_up_free_runs, self._until_room)
            tasks.start_soon(self._repeat, self._listen, partial(anyio.sleep, LISTEN_S))
            tasks.start_soon(self._repeat, self._store_pieces, partial(anyio.sleep, STORE_S))
            tasks.start_soon(self._repeat, self.followers.look, partial(anyio.sleep, POLL_S))
            tasks.start_soon(self._repeat, self._delete_old_runs, partial(anyio.sleep, SWEEP_S))
            try:
                yield
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # the task group would wrap it in an ExceptionGroup
                failure = error
            finally:
                self._is_closing = True
                with anyio.CancelScope(shield=True):
                    await self._drain()
                self._tasks = None
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def begin(self, held: HeldRun, state: RunState) -> None:
        """Perform a run in the background, which has a place and whose `state` is stored."""
        assert self._tasks is not None
        self._held[held.run_id] = held
        self._tasks.start_soon(self._perform, held, state)

    async def _perform(self, held: HeldRun, state: RunState) -> None:
        if (deadline := held.past.deadline) is not None:
            held.scope.deadline = anyio.current_time() + deadline - time.time()
        try:
            with held.scope, continued_trace(held.trace):
                await self._run(held, state)
            if held.scope.cancelled_caught and (end := self._why_cancelled(held)) is not None:
                with anyio.CancelScope(shield=True):
                    await self.note_end(held, *end, state)
        finally:
            del self._held[held.run_id]
            self.give_place_back(held.run_id)
            held.ended.set()

    async def _run(self, held: HeldRun, state: RunState) -> None:
        run: AgentRun[Any, Any] | None = None
        outbox = held.journal.outbox
        assert outbox is not None

        async def pace() -> None:
            if self._is_closing:
                held.is_parked = True
                await anyio.sleep_forever()

        try:
            setup = await self._declared.held_setup(
                held.journal,
                state,
                await self._opening(held),
                self._options(held.owner, held.session),
                outbox,
            )
            if held.past.tools:
                setup = replace(setup, toolsets=(*setup.toolsets, client_toolset(held.past.tools)))
            async with entered(setup) as run:
                try:
                    await run.finish(pace=pace)
                finally:
                    self.spent = self.spent.plus(run.state.usage.minus(setup.state.usage))
        except CheckpointError as error:
            if run is None:  # its session has gone on without it, or is damaged
                await self.note_end(held, type(error).__name__, str(error), state)
                return
            # Another process has taken it over, or the journal cannot be written.
            logger.warning("run %s stops here: %s", held.run_id, error)
            self._not_before[held.run_id] = time.monotonic() + AGAIN_S
        except Exception as error:
            if not isinstance(error, AgentKitError):
                logger.exception("run %s failed", held.run_id)
            if run is None or not run.has_failed:
                await self.note_end(held, type(error).__name__, str(error), state)

    async def _opening(self, held: HeldRun) -> tuple[Content, tuple[ModelMessage, ...]]:
        """Return prompt and earlier conversation of a run, with their files, which stored events refer to."""
        asked = ModelRequest((UserPromptPart(held.past.prompt),))
        messages: tuple[ModelMessage, ...] = (*held.past.history, asked)
        found = {sha256: await self._journal.file(held.run_id, sha256) for sha256 in references_in(messages)}
        files = {sha256: data for sha256, data in found.items() if data is not None}
        *history, last = with_files(messages, files, whose=f"run {held.run_id!r}")
        (part,) = last.parts
        assert isinstance(part, UserPromptPart)
        return part.content, tuple(history)

    def _why_cancelled(self, held: HeldRun) -> tuple[str, str] | None:
        """Return error type and text of a run that was cancelled for good; None: it goes on elsewhere or later."""
        if held.cancelled_by is not None:
            return CANCELLED, f"{held.cancelled_by} cancelled it."
        if held.past.deadline is not None and time.time() >= held.past.deadline:
            return TOO_LATE, "its deadline has passed."
        return None

    async def note_end(self, held: HeldRun, error_type: str, text: str, state: RunState) -> None:
        """Store that a run ended without a result; a fresh outbox drops what the run itself said of its end."""
        held.journal.outbox = outbox = self.outbox(held.run_id, held.known)
        outbox(RunFailedEvent(held.run_id, error_type, text, state.usage))
        try:
            await held.journal.failed()
        except CheckpointError as error:
            logger.warning("the end of run %s is not stored: %s", held.run_id, error)

    def outbox(self, run_id: str, known: Known) -> Outbox:
        """Return an outbox whose stored events are counted, and handed on to readers."""

        def stored(events: Sequence[StoredEvent]) -> None:
            known.n += len(events)
            self.followers.stored(run_id, events)

        return Outbox(stored)

    async def go_on(self, held: HeldRun, state: RunState) -> None:
        """Perform a run whose state is stored: here if there is room, else wherever there is."""
        if self._is_closing or not self.take_place(held.run_id):
            await held.journal.release()
            return
        self.followers.performs(held.run_id)
        self.begin(held, state)

    async def held_again(self, stored: StoredRun, journal: RunJournal) -> HeldRun:
        """Return a run that this process has claimed, with an outbox for its journal."""
        metadata, run_id = stored.summary.metadata, stored.state.run_id
        past = await self._past(run_id)
        known = Known(past.n)
        owner, session = metadata.get(OWNER, ""), metadata.get(SESSION)
        journal.outbox = outbox = self.outbox(run_id, known)
        if stored.state.handed and past.n_handoffs >= len(stored.state.handed):
            outbox.leave_out_next(HandoffEvent)  # stored already, and the run reports it again when it begins
        return HeldRun(run_id, owner, session, past, journal, known, metadata)

    async def _past(self, run_id: str) -> Past:
        past = Past()
        while events := await self._journal.events(run_id, after=past.n, limit=PAGE):
            for each in events:
                past.see(each.event)
            past.n = events[-1].number
        return past

    # -- in the background --------------------------------------------------------------------------------

    async def _repeat(self, work: Callable[[], Awaitable[None]], pause: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except CheckpointError as error:
                logger.warning("%s; it is tried again", error)
                await anyio.sleep(1.0)
            await pause()

    async def _until_room(self) -> None:
        self._has_room = anyio.Event()
        with anyio.move_on_after(SCHEDULE_S):
            await self._has_room.wait()

    async def _take_up_free_runs(self) -> None:
        """Perform runs that nobody holds: those that wait for room, and those of processes that ended."""
        n_free = self._n_free
        if n_free <= 0 or self._is_closing:
            return
        now = time.monotonic()
        self._not_before = {run_id: at for run_id, at in self._not_before.items() if at > now}
        n_most = n_free + len(self._not_before)
        for summary in await self._journal.unheld_runs(metadata={SERVED: self._name}, limit=n_most):
            is_ours = summary.agent_name == self._declared.name and summary.run_id not in self._not_before
            if is_ours and summary.run_id not in self._places and self.take_place(summary.run_id):
                try:
                    await self._take_up(summary.run_id)
                except BaseException:
                    self.give_place_back(summary.run_id)
                    raise

    async def _take_up(self, run_id: str) -> None:
        try:
            stored, journal = await self._journal.claim(run_id)
        except CheckpointError:  # another process was faster
            self.give_place_back(run_id)
            return
        try:
            held = await self.held_again(stored, journal)
            if (by := held.past.cancelled_by) is not None:
                await self.note_end(held, CANCELLED, f"{by} cancelled it.", stored.state)
                self.give_place_back(run_id)
                return
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(CheckpointError):
                await journal.release()
            raise
        self.followers.performs(run_id)
        self.begin(held, interrupted(stored))

    async def _listen(self) -> None:
        """Cancel runs that a client cancelled by way of another process."""
        if not self._held:
            return
        last = await self._journal.last_events(list(self._held))
        await anyio.lowlevel.checkpoint()  # runs whose events were just written count them first
        for held in list(self._held.values()):
            n_foreign = last.get(held.run_id, 0) - held.known.n
            if n_foreign > held.n_foreign:
                held.n_foreign = n_foreign
                if (by := (await self._past(held.run_id)).cancelled_by) is not None:
                    cancel(held, by)

    async def _delete_old_runs(self) -> None:
        """Delete runs that ended longer ago than they are kept."""
        if self._limits.keep_s is not None:
            before = time.time() - self._limits.keep_s
            await self._journal.delete_ended(before=before, metadata={SERVED: self._name})

    async def _store_pieces(self) -> None:
        """Store the pieces of text that have come since the last time."""
        journals = (held.journal for held in self._held.values())
        if waiting := [each for each in journals if each.outbox is not None and not each.outbox.is_empty]:
            await self._journal.store_events(waiting)

    async def _drain(self) -> None:
        """Wait for running calls, then leave all runs to other processes."""
        with anyio.move_on_after(self._limits.drain_s):
            while not all(held.is_parked for held in self._held.values()):
                await anyio.sleep(0.01)
        left = list(self._held.values())
        for held in left:
            held.scope.cancel()
        for held in left:
            await held.ended.wait()

    def take_place(self, run_id: str) -> bool:
        """Reserve a place for a run; return False if all are taken."""
        if self._n_free <= 0:
            return False
        self._places.add(run_id)
        return True

    def give_place_back(self, run_id: str) -> None:
        """Free the place of a run, if it has one."""
        was_full = self._n_free <= 0
        self._places.discard(run_id)
        self.followers.left(run_id)
        if was_full:  # else no run waits for this process
            self._has_room.set()


def interrupted(stored: StoredRun) -> RunState:
    """Return the state of a claimed run; calls that were running when its process ended wait for a decision."""
    return with_unknown(stored.state, stored.in_flight, stored.inner_kept)


def cancel(held: HeldRun, by: str) -> None:
    """Cancel a run for a client."""
    held.cancelled_by = by
    held.scope.cancel()
