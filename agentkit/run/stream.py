"""Events, text and partial output of a run that is performed in the background.

`AgentStream` is read by a coroutine, `SyncAgentStream` by a thread. Both read the same events, once: whoever reads
the text has read the events before it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentkit.errors import UserError
from agentkit.events import AgentEvent, ModelRequestEvent, TextDeltaEvent
from agentkit.output import NO_PARTIAL, OutputSpec
from agentkit.results import RunResult
from agentkit.run.agent_run import AgentRun, entered
from agentkit.run.setup import RunSetup
from agentkit.run.state import RunState

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from agentkit.run.event_buffer import EventBuffer

OutputT = TypeVar("OutputT")
T = TypeVar("T")
_END: Any = object()


class AgentStream(Generic[OutputT]):
    """The events of a run as they happen, then its result."""

    def __init__(self, events: EventBuffer, output: OutputSpec[OutputT]) -> None:
        """Create a stream over `events`; called by `Agent.run_stream`."""
        self._events = events
        self._output = output
        self._run: AgentRun[Any, OutputT] | None = None
        self._error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[AgentEvent]:
        """Yield events until the run ends; raises the error of the run."""
        while (event := await self._events.next()) is not None:
            yield event
        if self._error is not None:
            raise self._error

    async def text(self, *, whole: bool = False) -> AsyncIterator[str]:
        """Yield the text of the model's replies as it is written.

        A reply that calls tools may have text too, and so may an answer that is rejected and repeated. With
        `whole`, yield the text so far of the current reply instead of its increments. A streaming output guardrail
        has seen every text before it is yielded; other output guardrails may still rewrite or withhold the answer
        in `result`.
        """
        so_far = ""
        async for event in self:
            if isinstance(event, ModelRequestEvent):
                so_far = ""
            elif isinstance(event, TextDeltaEvent) and event.text:
                so_far += event.text
                yield so_far if whole else event.text

    async def partial_output(self) -> AsyncIterator[OutputT]:
        """Yield the output as far as it is written, each time it changes; the last value is the result's output.

        Partial values are validated by pydantic as partial: the end of strings and the last items of collections
        may be missing. A model with required fields appears when the last of them has begun; a `TypedDict` with
        `total=False` grows from the start. Output validators, output functions and guardrails that are not
        streaming see only the complete answer.
        """
        last: Any = _END
        async for text in self.text(whole=True):
            value = self._output.partial(text)
            if value is not NO_PARTIAL and (last is _END or value != last):
                yield value
                last = value
        result = self.result
        if result.has_output and (last is _END or result.output != last):
            yield result.output

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
            raise UserError("the run has not ended: iterate over all events, or call `finish()` of the stream.")
        return self._run.result


class SyncAgentStream(Generic[OutputT]):
    """The events of a run on the background loop, read from a thread; see `AgentStream`."""

    def __init__(self, stream: AgentStream[OutputT], portal: BlockingPortal) -> None:
        """Create a view of `stream`, which `portal` reaches; called by `Agent.run_stream_sync`."""
        self._stream = stream
        self._portal = portal

    def __iter__(self) -> Iterator[AgentEvent]:
        """Yield events until the run ends; raises the error of the run."""
        return self._each(aiter(self._stream))

    def text(self, *, whole: bool = False) -> Iterator[str]:
        """Yield text as it is written; see `AgentStream.text`."""
        return self._each(self._stream.text(whole=whole))

    def partial_output(self) -> Iterator[OutputT]:
        """Yield the output as far as it is written; see `AgentStream.partial_output`."""
        return self._each(self._stream.partial_output())

    def finish(self) -> RunResult[OutputT]:
        """Skip the remaining events and return the result.

        Raises:
            AgentRunError: the run failed.
        """
        return self._portal.call(self._stream.finish)

    @property
    def state(self) -> RunState | None:
        """The current state; None before the run has started."""
        return self._stream.state

    @property
    def result(self) -> RunResult[OutputT]:
        """The result, once all events were read; see `AgentStream.result`."""
        return self._stream.result

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> T:
            return await anext(items, _END)

        while (item := self._portal.call(following)) is not _END:
            yield item


@asynccontextmanager
async def streamed(setup: RunSetup[Any, OutputT]) -> AsyncGenerator[AgentStream[OutputT]]:
    """Run in the background of a context; leaving the context early cancels the run.

    An error of the context's body is caught inside the task group and raised again outside it, because the task
    group would wrap it in an `ExceptionGroup`.
    """
    import anyio

    from agentkit.run.event_buffer import EventBuffer

    events = EventBuffer()
    stream: AgentStream[OutputT] = AgentStream(events, setup.output)

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
