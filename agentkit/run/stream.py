"""Events of a run that is performed in the background."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentkit.errors import UserError
from agentkit.events import AgentEvent
from agentkit.results import RunResult
from agentkit.run.perform import AgentRun
from agentkit.run.setup import RunSetup
from agentkit.run.state import RunState

if TYPE_CHECKING:
    from agentkit.run.event_buffer import EventBuffer

OutputT = TypeVar("OutputT")
Entered = Callable[[RunSetup[Any, OutputT]], AbstractAsyncContextManager[AgentRun[Any, OutputT]]]
"""Opens the model and toolsets of a setup and yields the run."""


class AgentStream(Generic[OutputT]):
    """The events of a run as they happen, then its result."""

    def __init__(self, events: EventBuffer) -> None:
        """Create a stream over `events`; called by `Agent.run_stream`."""
        self._events = events
        self._run: AgentRun[Any, OutputT] | None = None
        self._error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[AgentEvent]:
        """Yield events until the run ends; raises the error of the run."""
        while (event := await self._events.next()) is not None:
            yield event
        if self._error is not None:
            raise self._error

    async def finish(self) -> RunResult[OutputT]:
        """Skip the remaining events and return the result.

        Raises:
            AgentRunError: the run failed.
        """
        async for _ in self:
            pass
        return self.result

    @property
    def state(self) -> RunState | None:
        """The current state; None before the run has started."""
        return self._run.state if self._run is not None else None

    @property
    def result(self) -> RunResult[OutputT]:
        """The result, once all events were read.

        Raises:
            AgentRunError: the run failed.
            UserError: the run has not ended.
        """
        if self._error is not None:
            raise self._error
        if self._run is None or self._run.result is None:
            raise UserError("the run has not ended: iterate over all events, or call `await stream.finish()`.")
        return self._run.result


@asynccontextmanager
async def streamed(
    setup: RunSetup[Any, OutputT], entered: Entered[OutputT]
) -> AsyncGenerator[AgentStream[OutputT]]:
    """Run in the background of a context; leaving the context early cancels the run.

    An error of the context's body is caught inside the task group and raised again outside it, because the task
    group would wrap it in an `ExceptionGroup`.
    """
    import anyio

    from agentkit.run.event_buffer import EventBuffer

    events = EventBuffer()
    stream: AgentStream[OutputT] = AgentStream(events)

    async def drive() -> None:
        try:
            async with entered(replace(setup, sinks=(*setup.sinks, events.push))) as run:
                stream._run = run  # pyright: ignore[reportPrivateUsage]
                await run.finish(pace=events.room)
        except Exception as error:  # raised again where the stream is read
            stream._error = error  # pyright: ignore[reportPrivateUsage]
        finally:
            events.end()

    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drive)
        try:
            yield stream
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:
            failure = error
        finally:
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
