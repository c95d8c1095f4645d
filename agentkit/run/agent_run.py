"""`AgentRun`: a run in progress, as an application sees it.

`advance()` performs one action and returns the next, so that `run`, `run_stream` and `iter` share the same code.
An error that ends a run carries its state, is reported to the listeners and noted in the journal.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Generic, TypeVar

from agentkit.basics.well_formed import well_formed
from agentkit.errors import CheckpointError, UserError, attach_run
from agentkit.models.base import Model
from agentkit.results import RunResult
from agentkit.run.actions import Action
from agentkit.run.perform import Performer
from agentkit.run.setup import Enter, RunSetup
from agentkit.run.state import RunState
from agentkit.tools.toolset import Toolset

DepsT = TypeVar("DepsT")
OutputT = TypeVar("OutputT")


class AgentRun(Generic[DepsT, OutputT]):
    """A run in progress; not safe for concurrent use from two tasks."""

    def __init__(self, setup: RunSetup[DepsT, OutputT], enter: Enter) -> None:
        """Prepare a run, which `advance` starts. `setup` is already entered; `enter` serves hand-offs."""
        self._performer: Performer[DepsT, OutputT] = Performer(setup, enter)
        self._has_failed = False

    @property
    def state(self) -> RunState:
        """The current state; consistent even after a failure or cancellation."""
        return self._performer.state

    @property
    def next_action(self) -> Action | None:
        """Action that `advance` performs next; None before the first call and after the end."""
        return self._performer.next_action

    @property
    def result(self) -> RunResult[OutputT] | None:
        """The result once the run has ended."""
        return self._performer.result

    @property
    def has_failed(self) -> bool:
        """Whether an error ended the run; its listeners were told, and its journal, if it could be written."""
        return self._has_failed

    async def __aiter__(self) -> AsyncIterator[Action]:
        """Advance step by step, yielding each action before it is performed."""
        while (action := await self.advance()) is not None:
            yield action

    async def finish(self, *, pace: Callable[[], Awaitable[None]] | None = None) -> RunResult[OutputT]:
        """Advance until the end and return the result; `pace` is awaited before each action except the first."""
        await self._advance(goes_on=True)
        while (result := self._performer.result) is None:
            if pace is not None:
                await pace()
            await self._advance(goes_on=True)
        return result

    async def advance(self) -> Action | None:
        """Perform the next action and return the one after it; None at the end. The journal then has the state.

        Raises:
            AgentRunError: the run failed; `state`, `messages` and `usage` of the error describe the work done. Any
                other error that ends a run (a developer's mistake, an error in a listener) has them too.
            UserError: the run has failed before; start a new one from `state.messages`.
        """
        return await self._advance(goes_on=False)

    def interrupt(self, message: str) -> None:
        """Send a user message to a run in progress: the model reads it before its next reply; a plan is revised.

        All input guardrails check it before the model is asked. If one blocks it, the run ends as "refused": a run
        that continues without the message could do what the user wanted to stop.
        """
        self._performer.interruptions.append(well_formed(message))

    async def leave(self, error: BaseException | None) -> None:
        """Report an abandoned run to listeners, so that they close it, and release its journal.

        `error` is the reason; None if the application left without an error.
        """
        try:
            if self._performer.next_action is None:
                return
            if error is not None and not isinstance(error, GeneratorExit):
                self._fail(error)
            else:
                self._performer.next_action, self._has_failed = None, True
                if self._performer.report is not None:
                    self._performer.report.left(self.state)
        finally:
            await self.release()

    async def release(self) -> None:
        """Release the journal, so that another process may resume the run; no effect after the end."""
        journal = self._performer.journal
        if journal is None or self.result is not None:
            return
        from anyio import CancelScope

        with CancelScope(shield=True), suppress(CheckpointError):  # if the write fails, the lease expires
            await journal.release()

    async def _advance(self, *, goes_on: bool) -> Action | None:
        """Perform the next action; `goes_on` says that the one after it follows immediately."""
        performer = self._performer
        if performer.result is not None:
            return None
        if self._has_failed:
            raise UserError("this run has failed; go on with a new one: message_history=run.state.messages.")
        try:
            if performer.next_action is None:
                await performer.start(goes_on=goes_on)
            else:
                await performer.perform(performer.next_action, goes_on=goes_on)
        except Exception as error:
            attach_run(error, performer.state)
            self._fail(error)
            if performer.journal is not None and not isinstance(error, CheckpointError):
                await performer.journal.failed()
            raise
        except BaseException as error:
            self._fail(error)
            raise
        return performer.next_action

    def _fail(self, error: BaseException) -> None:
        self._performer.next_action, self._has_failed = None, True
        if self._performer.report is not None:
            self._performer.report.failed(self.state, error)


@asynccontextmanager
async def entered(setup: RunSetup[DepsT, OutputT]) -> AsyncGenerator[AgentRun[DepsT, OutputT]]:
    """Open the model and toolsets of a setup and yield its run, which has not started."""
    async with AsyncExitStack() as stack:

        async def enter(other: RunSetup[Any, Any]) -> None:
            await open_all(stack, other.model, other.toolsets)

        run = AgentRun(setup, enter)

        async def leave(kind: Any, error: BaseException | None, trace: Any) -> None:
            await run.leave(error)

        stack.push_async_exit(leave)
        await open_all(stack, setup.model, setup.toolsets)
        yield run


async def open_all(stack: AsyncExitStack, model: Model, toolsets: tuple[Toolset, ...]) -> None:
    """Enter a model and toolsets, which `stack` leaves."""
    await stack.enter_async_context(model)
    for toolset in toolsets:
        await stack.enter_async_context(toolset)
