"""The events of a run as OpenAI's responses: a function of stored events, so each reading tells the same.

A run is one response until it ends or waits for a client. When the client has answered all waiting calls, the run
goes on as the next response, whose id has the number of the event that ended the one before. The responses are
folded from the run's first event on, and each numbers its own events from 0.

An answer that is written again, because a server was killed or the answer was rejected, is taken back: its item
ends as incomplete and without content, and a new item begins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from agentkit.events import (
    AgentEvent,
    ApprovalRequestedEvent,
    DecisionEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    ResumeRequestedEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunResumedEvent,
    RunStartedEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolCallEvent,
    ToolResultEvent,
)
from agentkit.messages import RetryPromptPart
from agentkit.serving.followers import RunEnd
from agentkit.serving.service import WAITING
from agentkit.serving.threads import answers_in, output_text
from agentkit.serving.worker import CANCELLED, SESSION
from agentkit.usage import RunUsage
from modelstack.inference.server.response_items import (
    NOT_CHOSEN,
    PREFIXES,
    Event,
    Kind,
    OutputItem,
    response_usage,
)

if TYPE_CHECKING:
    from agentkit.approvals.pending import PendingCall
    from agentkit.messages import ModelResponse, ToolCallPart
    from agentkit.persistence.checkpointer import RunSummary
    from agentkit.persistence.stored_events import StoredEvent

ASKED = "agentkit.response"
"""Key of a run's metadata: fields of the request that its first response repeats, as JSON."""
_NAME = re.compile(r"resp_([0-9a-f]{1,64})(?:_([1-9][0-9]{0,14}))?")
_REASONS: Mapping[str, str] = {
    "truncated": "max_output_tokens",
    "limit_reached": "max_output_tokens",
    "filtered": "content_filter",
    "refused": "content_filter",
}
"""Reasons of incomplete responses by the status of a run; with the others a response is complete."""


@dataclass(frozen=True, slots=True)
class ResponseName:
    """Place of a response in the journal."""

    run_id: str
    start: int = 0
    """Number of the event that ended the run's response before; 0: the first one."""

    @property
    def id(self) -> str:
        """The id that clients use."""
        place = f"_{self.start}" if self.start else ""
        return f"resp_{self.run_id.removeprefix('run_')}{place}"


def parsed_name(given: str) -> ResponseName | None:
    """Return the name that an id stands for; None: no response has such an id."""
    found = _NAME.fullmatch(given)
    return None if found is None else ResponseName(f"run_{found[1]}", int(found[2] or 0))


@dataclass(slots=True)
class ToldResponse:
    """A response, as far as the events of its run have told it."""

    name: ResponseName
    head: dict[str, Any]
    """Fields that do not change."""
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"] = "queued"
    items: list[OutputItem] = field(default_factory=list[OutputItem])
    ending: dict[str, Any] = field(default_factory=dict[str, Any])
    """Fields that its end sets."""
    n_told: int = 0
    """Number of events of its stream."""
    end: int = 0
    """Number of the run's event that ended it; 0 while it goes on."""

    def shown(self) -> dict[str, Any]:
        """Return the whole response."""
        output = [item.shown() for item in self.items]
        return {**NOT_CHOSEN, **self.head, "usage": None, **self.ending, "status": self.status, "output": output}


@dataclass(slots=True)
class RunResponses:
    """Translation of the events of one run, in order, from the first one on."""

    summary: RunSummary
    model: str
    """Name of the service, which is also the label of its tools."""
    found: list[ToldResponse] = field(default_factory=list[ToldResponse])
    _open: OutputItem | None = None
    """Message or thought that is being written."""
    _has_answered: bool = False
    """Whether the model's reply is complete since the last request."""
    _calls: dict[str, ToolCallPart] = field(default_factory=dict[str, "ToolCallPart"])
    """Calls of the model that have not been told."""
    _running: dict[str, OutputItem] = field(default_factory=dict[str, OutputItem])
    """Items of calls that were told and have no result, by call id."""
    _asked: dict[str, str] = field(default_factory=dict[str, str])
    """Digests of the questions about calls that have not run since, by call id."""
    _waiting: set[str] = field(default_factory=set[str])
    """Ids of the calls that a client has to answer before the run goes on."""
    _usage: RunUsage = RunUsage()
    """Usage of the responses that are over."""

    @property
    def last(self) -> ToldResponse:
        """The response that goes on, or ended last."""
        return self.found[-1]

    def named(self, name: ResponseName) -> ToldResponse | None:
        """Return the response with a name; None if the run has none."""
        return next((response for response in self.found if response.name == name), None)

    def told(self, stored: StoredEvent) -> list[Event]:
        """Return the events with which the stream of the last response continues."""
        event = stored.event
        if not self.found or (self.last.end and self._goes_on(event)):
            events = self._begin(stored)
        elif not self.last.end:
            events = [*self._end(event, stored)] if isinstance(event, RunEnd) else [*self._told(event)]
        else:
            if isinstance(event, RunFailedEvent):  # cancelled while it waited; its stream has ended before
                self._fail(event)
            return []
        first = self.last.n_told
        self.last.n_told += len(events)
        return [{**each, "sequence_number": first + n} for n, each in enumerate(events)]

    def _goes_on(self, event: AgentEvent) -> bool:
        """Whether an event begins the next response."""
        if isinstance(event, DecisionEvent):
            self._waiting.discard(event.tool_call_id)
            return not self._waiting
        return isinstance(event, ResumeRequestedEvent | RunResumedEvent)

    def _begin(self, stored: StoredEvent) -> list[Event]:
        session = self.summary.metadata.get(SESSION)
        head = {"model": self.model, "store": True, "conversation": None if session is None else {"id": session}}
        asked: dict[str, Any] = json.loads(self.summary.metadata.get(ASKED, "{}"))
        name = ResponseName(self.summary.run_id)
        if self.found:  # the journal has no fields of the request that answered the calls
            name = ResponseName(name.run_id, self.last.end)
            asked = {"metadata": asked.get("metadata", {}), "previous_response_id": self.last.name.id}
        self._open, self._has_answered = None, False
        self._running.clear()
        self._waiting.clear()
        self.found.append(ToldResponse(name, {"id": name.id, "created_at": int(stored.time), **head, **asked}))
        return [self._whole("created"), self._whole("queued")]

    def _whole(self, kind: str) -> Event:
        return {"type": f"response.{kind}", "response": self.last.shown()}

    def _told(self, event: AgentEvent) -> Iterator[Event]:
        match event:
            case RunStartedEvent() | RunResumedEvent() if self.last.status == "queued":
                self.last.status = "in_progress"
                yield self._whole("in_progress")
            case ModelRequestEvent():
                yield from self._request(event)
            case TextDeltaEvent():
                yield from self._write("message", event.text)
            case ThinkingDeltaEvent():
                yield from self._write("reasoning", event.text)
            case ModelResponseEvent():
                yield from self._respond(event.response)
            case ToolCallEvent():
                yield from self._call(event.tool_name, event.tool_call_id, event.arguments)
            case ToolResultEvent():
                yield from self._result(event.tool_call_id, event.content, is_error=event.outcome != "success")
            case ApprovalRequestedEvent():
                yield from self._ask(event.call)
            case _:
                pass

    def _request(self, event: ModelRequestEvent) -> Iterator[Event]:
        parts = [part for message in event.messages for part in message.parts]
        is_rejected = any(isinstance(part, RetryPromptPart) and part.tool_call_id is None for part in parts)
        if self._has_answered and not is_rejected:
            yield from self._end_text("commentary")
        else:
            yield from self._take_back()
        self._has_answered = False
        for call_id, content, is_error in answers_in(event):  # of calls that did not run
            yield from self._result(call_id, content, is_error=is_error)

    def _write(self, kind: Kind, text: str) -> Iterator[Event]:
        if not text:
            return
        if self._open is not None and self._open.kind != kind:
            yield from self._end_text("commentary")
        if self._open is None:
            self._open = self._new(kind)
            yield from self._open.opened()
        yield self._open.written(text)

    def _respond(self, response: ModelResponse) -> Iterator[Event]:
        """Complete the text, or tell it as a whole where no pieces were told; an answer stays open to the end."""
        self._has_answered = True
        if self._open is None or self._open.kind != "message":
            yield from self._end_text("commentary")
            yield from self._write("message", response.text)
        if self._open is not None:
            self._open.text = response.text
            if not response.text:  # it was calls, written as text
                yield from self._take_back()
            elif response.tool_calls:
                yield from self._end_text("commentary")
        self._calls |= {call.tool_call_id: call for call in response.tool_calls}

    def _call(self, name: str, call_id: str, arguments: str) -> Iterator[Event]:
        self._calls.pop(call_id, None)
        if call_id in self._running:  # begun again after a kill
            return
        asked = self._asked.pop(call_id, None)
        fields = {"name": name, "server_label": self.model, "approval_request_id": asked}
        item = self._running[call_id] = self._new("mcp_call", **fields, output=None, error=None)
        yield from item.opened()
        yield {"type": "response.mcp_call.in_progress", "item_id": item.id, "output_index": item.index}
        yield item.written(arguments or "{}")
        yield from item.text_closed()

    def _result(self, call_id: str, content: str, *, is_error: bool) -> Iterator[Event]:
        if (call := self._calls.get(call_id)) is not None:
            yield from self._call(call.tool_name, call_id, call.arguments)
        item = self._running.pop(call_id, None)
        if item is None:  # told already, or denied
            return
        status = "failed" if is_error else "completed"
        error = {"type": "mcp_tool_execution_error", "content": content}
        item.fields |= {"error": error} if is_error else {"output": content}
        yield {"type": f"response.mcp_call.{status}", "item_id": item.id, "output_index": item.index}
        yield item.done(status)

    def _ask(self, call: PendingCall) -> Iterator[Event]:
        self._waiting.add(call.tool_call_id)
        self._calls.pop(call.tool_call_id, None)
        if (running := self._running.pop(call.tool_call_id, None)) is not None:
            yield running.done("incomplete")
        if call.kind == "external":
            item = self._new("function_call", name=call.tool_name, call_id=call.tool_call_id)
            yield from item.opened()
            yield item.written(call.arguments)
            yield from item.closed()
            return
        self._asked[call.tool_call_id] = call.digest
        item = self._new("mcp_approval_request", name=call.tool_name, server_label=self.model, reason=call.reason)
        item.id, item.text = call.digest, call.arguments
        yield from item.opened()
        yield item.done("completed")

    def _end(self, event: RunEnd, stored: StoredEvent) -> Iterator[Event]:
        for item in self._running.values():
            yield item.done("incomplete")
        if isinstance(event, RunFailedEvent):
            if self._open is not None:
                yield self._open.done("incomplete")
            self._fail(event)
        else:
            yield from self._answer(event)
            self._finish(event, stored.time)
        usage, self._usage = event.usage.minus(self._usage), event.usage
        self.last.ending["usage"] = response_usage(
            n_read=usage.input_tokens, n_cached=usage.cache_read_tokens, n_written=usage.output_tokens, n_thought=0
        )
        self.last.end = stored.number
        # The protocol has no event for a cancelled response; its status says it.
        yield self._whole("failed" if self.last.status == "cancelled" else self.last.status)

    def _answer(self, event: RunFinishedEvent) -> Iterator[Event]:
        """Tell the output: as the end of the answer that was written, which guardrails may have changed."""
        if event.status == "refused":
            yield from self._take_back()
        elif event.output is not None:
            if self._open is None:
                yield from self._write("message", output_text(event.output))
            elif self._open.kind == "message":
                self._open.text = output_text(event.output)
        yield from self._end_text("final_answer")

    def _finish(self, event: RunFinishedEvent, time: float) -> None:
        reason = None if event.status in WAITING else _REASONS.get(event.status)
        if reason is None:
            self.last.status, self.last.ending["completed_at"] = "completed", int(time)
        else:
            self.last.status, self.last.ending["incomplete_details"] = "incomplete", {"reason": reason}

    def _fail(self, event: RunFailedEvent) -> None:
        self.last.status = "cancelled" if event.error_type == CANCELLED else "failed"
        text = event.error if self.last.status == "cancelled" else f"{event.error_type}: {event.error}"
        self.last.ending |= {"error": {"code": "server_error", "message": text}, "completed_at": None}

    def _end_text(self, phase: Literal["commentary", "final_answer"]) -> Iterator[Event]:
        item, self._open = self._open, None
        if item is not None:
            item.fields |= {"phase": phase} if item.kind == "message" else {}
            yield from item.closed()

    def _take_back(self) -> Iterator[Event]:
        item, self._open = self._open, None
        if item is not None:
            item.text = ""
            yield item.done("incomplete")

    def _new(self, kind: Kind, **fields: Any) -> OutputItem:
        """Add an item to the output of the last response."""
        index = len(self.last.items)
        place = self.last.name.id.removeprefix("resp_")
        item = OutputItem(kind, f"{PREFIXES.get(kind, '')}{place}_{index}", index, fields)
        self.last.items.append(item)
        return item
