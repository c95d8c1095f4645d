"""A traced run as the replies of its model, each with its request and its outcome.

A trace lists the events of a run in order; to judge a reply, all facts about it are needed in one place. The
events of a reply's calls are those between it and the next request, so ids of calls need only be unique within
one reply.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkit.errors import UserError
from agentkit.events import (
    HandoffEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunResumedEvent,
    RunStartedEvent,
    ToolCallEvent,
    ToolResultEvent,
)
from agentkit.messages import ModelRequestPart, ModelResponse
from agentkit.tools.definition import ToolDefinition
from agentkit.tracing.reading import read_events, status_of_failure


@dataclass(slots=True)
class TracedReply:
    """A reply of the model."""

    asked: tuple[ModelRequestPart, ...]
    """Parts added to the conversation since the reply before."""
    tools: tuple[ToolDefinition, ...] | None
    """Tools as they were shown to the model; None if the trace does not hold them."""
    response: ModelResponse
    is_changed: bool = False
    """True if a history processor or middleware changed the request, or middleware the reply."""
    calls: list[ToolCallEvent] = field(default_factory=list[ToolCallEvent])
    """Calls that were run, with the arguments with which they ran."""
    results: list[ToolResultEvent] = field(default_factory=list[ToolResultEvent])
    answer: tuple[ModelRequestPart, ...] = ()
    """Parts of the next request; empty after the last reply."""

    def happened(self, event: ToolCallEvent | ToolResultEvent) -> None:
        """Add an event of a call; nested calls (`agentkit.run.nested_calls`) are skipped."""
        if any(event.tool_call_id.startswith(f"{call.tool_call_id}.") for call in self.calls):
            return
        if isinstance(event, ToolCallEvent):
            self.calls.append(event)
        else:
            self.results.append(event)


@dataclass(slots=True)
class TracedRun:
    """A run."""

    run_id: str
    n_history: int
    """Number of messages of earlier runs, see `RunStartedEvent`."""
    status: str = "unfinished"
    """Status of the run, see `RunSummary`."""
    output: Any = None
    """Output of the result, as JSON."""
    replies: list[TracedReply] = field(default_factory=list[TracedReply])
    n_before_handoff: int | None = None
    """Number of replies before the first hand-off; None without a hand-off."""


def read_run(path: Path) -> TracedRun:
    """Read the trace of one run.

    Raises:
        UserError: the trace does not begin with the start of a run, holds two runs, calls a tool before the first
            reply, or has an invalid line.
    """
    events = (event for _, event in read_events(path))
    start = next(events, None)
    if not isinstance(start, RunStartedEvent):
        raise UserError(f"{path} does not begin with the start of a run.")
    run = TracedRun(start.run_id, start.n_history)
    asked: tuple[ModelRequestPart, ...] = ()
    tools: tuple[ToolDefinition, ...] | None = None
    is_changed = False
    for event in events:
        match event:
            case RunStartedEvent(run_id=other):
                raise UserError(f"{path} holds two runs, {run.run_id!r} and {other!r}.")
            case RunResumedEvent(step=step):
                del run.replies[step:]  # they were lost with the process, and are requested again
                asked, run.status = (), "unfinished"
            case ModelRequestEvent():
                tools = tools if event.tools is None else event.tools
                is_changed = event.sent is not None
                asked += tuple(part for message in event.messages for part in message.parts)
                if run.replies:
                    run.replies[-1].answer = asked
            case HandoffEvent() if run.n_before_handoff is None:
                run.n_before_handoff = len(run.replies)
            case ModelResponseEvent(response=response):
                is_changed = is_changed or event.received is not None
                run.replies.append(TracedReply(asked, tools, response, is_changed))
                asked, is_changed = (), False
            case ToolCallEvent() | ToolResultEvent():
                if not run.replies:
                    raise UserError(f"{path}: a tool was called before the model had said anything.")
                run.replies[-1].happened(event)
            case RunFinishedEvent() | RunFailedEvent():
                _end(run, event)
            case _:
                pass
    return run


def _end(run: TracedRun, event: RunFinishedEvent | RunFailedEvent) -> None:
    if isinstance(event, RunFinishedEvent):
        run.status, run.output = event.status, event.output
    else:
        run.status = status_of_failure(event)
