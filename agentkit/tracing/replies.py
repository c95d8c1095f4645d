"""A run of a trace as the replies of its model: what each was asked, what it said, what came of it.

A trace tells a run in the order in which it happened; whoever judges a reply needs everything about it in one
place. What happened to a reply's calls is what stands between it and the next request, so ids of calls need only
be unique within one reply.
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
    """One reply of the model."""

    asked: tuple[ModelRequestPart, ...]
    """What was new in the conversation since the reply before."""
    tools: tuple[ToolDefinition, ...] | None
    """What the model was told of its tools; None where the trace does not say."""
    response: ModelResponse
    calls: list[ToolCallEvent] = field(default_factory=list[ToolCallEvent])
    """The calls that were run, with the arguments that they were run with."""
    results: list[ToolResultEvent] = field(default_factory=list[ToolResultEvent])
    answer: tuple[ModelRequestPart, ...] = ()
    """What the model was told next; empty after the last reply."""

    def happened(self, event: ToolCallEvent | ToolResultEvent) -> None:
        """Add what happened to a call; one that another made (`agentkit.nested_calls`) is a part of that."""
        if any(event.tool_call_id.startswith(f"{call.tool_call_id}.") for call in self.calls):
            return
        if isinstance(event, ToolCallEvent):
            self.calls.append(event)
        else:
            self.results.append(event)


@dataclass(slots=True)
class TracedRun:
    """One run."""

    run_id: str
    n_history: int
    """As in `RunStartedEvent`."""
    status: str = "unfinished"
    """As in `RunSummary`."""
    output: Any = None
    """The result's, as JSON."""
    replies: list[TracedReply] = field(default_factory=list[TracedReply])
    n_before_handoff: int | None = None
    """Replies before the run was first handed over; None where it was not."""


def read_run(path: Path) -> TracedRun:
    """Read the trace of one run.

    Raises:
        UserError: it does not begin with the start of a run, holds another one, calls a tool before the model has
            said anything, or as `read_events`.
    """
    events = (event for _, event in read_events(path))
    start = next(events, None)
    if not isinstance(start, RunStartedEvent):
        raise UserError(f"{path} does not begin with the start of a run.")
    run = TracedRun(start.run_id, start.n_history)
    asked: tuple[ModelRequestPart, ...] = ()
    tools: tuple[ToolDefinition, ...] | None = None
    for event in events:
        match event:
            case RunStartedEvent(run_id=other):
                raise UserError(f"{path} holds two runs, {run.run_id!r} and {other!r}.")
            case RunResumedEvent(step=step):
                del run.replies[step:]  # they were lost with the process, and are made anew
                asked, run.status = (), "unfinished"
            case ModelRequestEvent():
                tools = tools if event.tools is None else event.tools
                asked += tuple(part for message in event.messages for part in message.parts)
                if run.replies:
                    run.replies[-1].answer = asked
            case HandoffEvent() if run.n_before_handoff is None:
                run.n_before_handoff = len(run.replies)
            case ModelResponseEvent(response=response):
                run.replies.append(TracedReply(asked, tools, response))
                asked = ()
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
