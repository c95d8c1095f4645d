"""Shared parts of protocol adapters: the waiting run of a conversation, answers of calls, outputs, errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
from pydantic_core import to_json

from agentkit.approvals.pending import PendingCall
from agentkit.events import (
    CancelRequestedEvent,
    ModelRequestEvent,
    ResumeRequestedEvent,
    RunFailedEvent,
    RunRequestedEvent,
    RunStartedEvent,
    ToolCallDeltaEvent,
    ToolCallEvent,
)
from agentkit.messages import RetryPromptPart, ToolReturnPart
from agentkit.serving.errors import RequestRefused
from agentkit.serving.service import WAITING, AgentService

if TYPE_CHECKING:
    from starlette.requests import Request


TOLD_BY_OTHERS = (
    RunRequestedEvent,
    RunStartedEvent,
    ToolCallDeltaEvent,
    ToolCallEvent,
    CancelRequestedEvent,
    ResumeRequestedEvent,
)
"""Events whose content other events of a protocol have."""


def failed(end: RunFailedEvent) -> RequestRefused:
    """Return the error of a request whose run failed."""
    return RequestRefused("failed", f"run {end.run_id} failed: {end.error_type}: {end.error}")


def output_text(output: Any) -> str:
    """Return the output of a run as text: JSON if it is no text, nothing if there is none."""
    return output if isinstance(output, str) else "" if output is None else to_json(output).decode()


@dataclass(frozen=True, slots=True)
class WaitingRun:
    """Run of a conversation that waits for a client."""

    run_id: str
    pending: Mapping[str, PendingCall]
    """Waiting calls by the digests of their questions."""
    n_events: int
    """Number of its last event."""


async def waiting_run(service: AgentService, session: str, owner: str) -> WaitingRun:
    """Return the run of a conversation that waits.

    Raises:
        RequestRefused: No run of the conversation waits.
    """
    found = await service.runs(owner, session=session, limit=1)
    if not found or found[0].status not in WAITING:
        raise RequestRefused("not_waiting", f"no run of the conversation {session!r} waits for an answer.")
    run_id = found[0].run_id
    stored, _ = await service.stored(run_id, owner)
    pending = {call.digest: call for call in stored.state.pending}
    return WaitingRun(run_id, pending, await service.n_events(run_id, owner))


def answers_in(event: ModelRequestEvent) -> Iterator[tuple[str, str, bool]]:
    """Yield the answers of calls in a request: id, content, and whether it is an error.

    A call that did not run is answered there only.
    """
    for part in (part for message in event.messages for part in message.parts):
        if isinstance(part, ToolReturnPart | RetryPromptPart) and part.tool_call_id is not None:
            yield part.tool_call_id, part.text, isinstance(part, RetryPromptPart) or part.is_error


@asynccontextmanager
async def cancelled_if_left(service: AgentService, run_id: str, owner: str) -> AsyncGenerator[None]:
    """Cancel a run if the context is left before the run's end."""
    try:
        yield
    except RequestRefused:
        raise
    except BaseException:
        with anyio.CancelScope(shield=True), suppress(RequestRefused):  # refused if it has ended
            await service.cancel(run_id, owner)
        raise


async def unless_left(request: Request, work: Awaitable[Any]) -> Any:
    """Return what `work` returns; cancel it if the client closes the connection."""
    found: Any = None

    async def watch() -> None:
        while not await request.is_disconnected():
            await anyio.sleep(0.2)
        tasks.cancel_scope.cancel()

    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        try:
            found = await work
        except Exception as error:  # the task group would wrap it in an ExceptionGroup
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return found
