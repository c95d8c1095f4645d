"""A run as its events, while it goes on in the background."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentkit.errors import UserError
from agentkit.events import AgentEvent
from agentkit.results import RunResult
from agentkit.runner import AgentRun
from agentkit.state import RunState

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream

OutputT = TypeVar("OutputT")


class AgentStream(Generic[OutputT]):
    """The events of a run as they happen, then its result."""

    def __init__(self, receive: MemoryObjectReceiveStream[AgentEvent]) -> None:
        """Made by `Agent.run_stream`."""
        self._receive = receive
        self._run: AgentRun[Any, OutputT] | None = None
        self._error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[AgentEvent]:
        """Yield events until the run ends; raises what the run raised."""
        async for event in self._receive:
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
        """The state as of now; None before the run has started."""
        return self._run.state if self._run is not None else None

    @property
    def result(self) -> RunResult[OutputT]:
        """The result, once all events were read.

        Raises:
            UserError: the run has not ended.
        """
        if self._run is None or self._run.result is None:
            raise UserError("the run has not ended: iterate over all events, or call `await stream.finish()`.")
        return self._run.result
