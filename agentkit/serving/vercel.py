"""Vercel's UI message stream, version 1, for `useChat` of the AI SDK.

A chat of the SDK is a session, and the id of its last message an idempotency key. The conversation is in the
journal, so of the messages in a request only the last one is read: the user's words, or a message of the assistant
with answers to waiting calls. A step whose server was killed while it was written is taken back with `reset-step`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from agentkit.approvals.pending import Approve, Decision, Deny, PendingCall, Settle
from agentkit.events import (
    AgentEvent,
    ApprovalRequestedEvent,
    DecisionEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunResumedEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolResultEvent,
)
from agentkit.messages import BinaryContent
from agentkit.serving.errors import RequestRefused
from agentkit.serving.followers import Batches, RunEnd, until_end
from agentkit.serving.given_files import content_of, file_of_url
from agentkit.serving.run_request import RunRequest
from agentkit.serving.service import WAITING, AgentService
from agentkit.serving.threads import TOLD_BY_OTHERS, answers_in, waiting_run
from agentkit.serving.worker import CANCELLED

if TYPE_CHECKING:
    from agentkit.messages import ModelResponse

HEADERS: Mapping[str, str] = {"x-vercel-ai-ui-message-stream": "v1"}
END = b"data: [DONE]\n\n"
Chunk = dict[str, Any]
"""Part of the stream, as the SDK's `uiMessageChunkSchema` has it."""
_REASONS = {"completed": "stop", "truncated": "length", "limit_reached": "length", "filtered": "content-filter"}
"""Finish reasons by the status of a run; the others are "other"."""


class UIPart(BaseModel):
    """Part of a message; the SDK adds kinds and fields of parts, so unknown ones are left alone."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    type: str
    text: str = ""
    url: str = ""
    filename: str | None = None
    tool_call_id: str | None = Field(default=None, alias="toolCallId")
    state: str | None = None
    output: Any = None
    error_text: str | None = Field(default=None, alias="errorText")
    approval: Mapping[str, Any] | None = None


class UIMessage(BaseModel):
    """Message of a chat."""

    model_config = ConfigDict(extra="ignore")
    id: str = Field(min_length=1)
    role: Literal["system", "user", "assistant"]
    parts: list[UIPart]


class ChatBody(BaseModel):
    """Request of the SDK's default transport, which an application may give further fields."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    id: str = Field(min_length=1, max_length=200)
    messages: list[UIMessage] = Field(min_length=1)
    trigger: str = "submit-message"


async def accept(service: AgentService, given: ChatBody, owner: str) -> tuple[str, int]:
    """Begin or continue the run of a request; return its id and the number of the event to follow it from.

    Raises:
        RequestRefused: the request asks for something that is not there, or see `AgentService`.
    """
    if given.trigger != "submit-message":
        raise RequestRefused(
            "unprocessable",
            f"trigger {given.trigger!r}: the conversation is stored, and a reply is not written again.",
        )
    last = given.messages[-1]
    if last.role == "assistant":
        return await _decided(service, given.id, last, owner)
    if last.role != "user":
        raise RequestRefused("unprocessable", "the last message must be the user's.")
    prompt = content_of([_item(part) for part in last.parts], service.file_limits)
    return await service.submit(RunRequest(prompt, given.id, f"vercel {given.id} {last.id}"), owner), 0


def _item(part: UIPart) -> str | BinaryContent:
    match part.type:
        case "text":
            return part.text
        case "file":
            return file_of_url(part.url, part.filename)
        case other:
            raise RequestRefused("unprocessable", f"a part {other!r} of a message is not read here.")


async def running_run(service: AgentService, chat: str, owner: str) -> str | None:
    """Return the run of a chat that goes on; None: there is nothing to read on."""
    found = await service.runs(owner, session=chat, limit=1)
    return found[0].run_id if found and found[0].status == "running" else None


async def lines(batches: Batches, run_id: str) -> AsyncIterator[bytes]:
    """Yield the events of a run as server-sent events of the stream, until the run ends or waits."""
    stream = UIMessageStream(run_id)
    async for events in until_end(batches):
        told = [each for event in events for each in stream.told(event.event)]
        if told:
            yield b"".join(b"data: " + to_json(chunk) + b"\n\n" for chunk in told)
    yield END


@dataclass(slots=True)
class UIMessageStream:
    """Translation of the events of one run, in order."""

    run_id: str
    _has_begun: bool = False
    _step: Literal["none", "asked", "answered"] = "none"
    """Whether a step is open, and whether the model has answered in it."""
    _open: tuple[Literal["text", "reasoning"], str] | None = None
    """Kind and id of the part that is being written."""
    _answered: set[str] = field(default_factory=set[str])
    """Ids of calls whose output was told."""
    _called: set[str] = field(default_factory=set[str])
    """Ids of calls that were told in this stream."""
    _denied: set[str] = field(default_factory=set[str])
    _n: int = 0

    def told(self, event: AgentEvent) -> Iterator[Chunk]:
        """Yield the parts of the stream for an event of the run."""
        if not self._has_begun:
            self._has_begun = True
            yield {
                "type": "start",
                "messageId": self.run_id,
            }  # one message for the whole run, also after approvals
        match event:
            case ModelRequestEvent():
                yield from self._request(event)
            case TextDeltaEvent():
                yield from self._write("text", event.text)
            case ThinkingDeltaEvent():
                yield from self._write("reasoning", event.text)
            case ModelResponseEvent():
                yield from self._respond(event.response)
            case ToolResultEvent():
                yield self._output(event)
            case ApprovalRequestedEvent():
                yield from self._ask(event.call)
            case RunResumedEvent():
                yield from self._resume()
            case RunFinishedEvent() | RunFailedEvent():
                yield from self._end(event)
            case _ if not isinstance(event, TOLD_BY_OTHERS):
                if isinstance(event, DecisionEvent) and event.decision == "deny":
                    self._denied.add(event.tool_call_id)
                data = json.loads(to_json(event, inf_nan_mode="strings", serialize_unknown=True))
                yield {"type": f"data-agentkit-{event.event_kind}", "data": data, "transient": True}
            case _:
                pass

    def _request(self, event: ModelRequestEvent) -> Iterator[Chunk]:
        for call_id, content, _ in answers_in(event):
            if call_id in self._answered or (call_id not in self._called and call_id not in self._denied):
                continue  # told with its result, here or in the stream before
            self._answered.add(call_id)
            if call_id in self._denied:
                yield {"type": "tool-output-denied", "toolCallId": call_id}
            else:
                yield {"type": "tool-output-error", "toolCallId": call_id, "errorText": content, "dynamic": True}
        if self._step == "asked":  # the step was reset
            return
        yield from self._end_step()
        self._step = "asked"
        yield {"type": "start-step"}

    def _write(self, kind: Literal["text", "reasoning"], text: str) -> Iterator[Chunk]:
        if not text:
            return
        if self._open is not None and self._open[0] != kind:
            yield from self._end_part()
        if self._open is None:
            self._n += 1
            self._open = (kind, f"{kind}-{self._n}")
            yield {"type": f"{kind}-start", "id": self._open[1]}
        yield {"type": f"{kind}-delta", "id": self._open[1], "delta": text}

    def _respond(self, response: ModelResponse) -> Iterator[Chunk]:
        """Complete the texts, or tell them as a whole where no pieces were told; then tell the calls."""
        if self._open is None or self._open[0] != "text":
            yield from self._write("text", response.text)
        yield from self._end_part()
        for call in response.tool_calls:
            self._called.add(call.tool_call_id)
            named = {"toolCallId": call.tool_call_id, "toolName": call.tool_name, "dynamic": True}
            try:
                yield {"type": "tool-input-available", "input": json.loads(call.arguments or "{}"), **named}
            except ValueError as error:
                wrong = {"input": call.arguments, "errorText": f"the arguments are not JSON: {error}"}
                yield {"type": "tool-input-error", **wrong, **named}
                self._answered.add(call.tool_call_id)
        self._step = "answered"

    def _output(self, event: ToolResultEvent) -> Chunk:
        self._answered.add(event.tool_call_id)
        named = {"toolCallId": event.tool_call_id, "dynamic": True}
        if event.outcome == "success":
            output = event.content if event.data is None else event.data
            return {"type": "tool-output-available", "output": output, **named}
        return {"type": "tool-output-error", "errorText": event.content, **named}

    def _ask(self, call: PendingCall) -> Iterator[Chunk]:
        if call.kind != "external":  # the page runs those, and adds their output
            asked = {"toolCallId": call.tool_call_id, "approvalId": call.digest, "reason": call.reason}
            yield {"type": "tool-approval-request", **asked}

    def _resume(self) -> Iterator[Chunk]:
        """Take back what was being written when a server was killed: the model is asked again."""
        if self._step == "asked":
            self._open = None
            yield {"type": "reset-step"}

    def _end(self, event: RunEnd) -> Iterator[Chunk]:
        yield from self._end_part()
        yield from self._end_step()
        if isinstance(event, RunFailedEvent):
            if event.error_type == CANCELLED:
                yield {"type": "abort", "reason": event.error}
                return
            yield {"type": "error", "errorText": event.error or event.error_type}
            yield {"type": "finish", "finishReason": "error"}
            return
        reason = "tool-calls" if event.status in WAITING else _REASONS.get(event.status, "other")
        output = json.loads(to_json(event.output, inf_nan_mode="strings", serialize_unknown=True))
        metadata = {"agentkit": {"status": event.status, "output": output}}
        yield {"type": "finish", "finishReason": reason, "messageMetadata": metadata}

    def _end_part(self) -> Iterator[Chunk]:
        if self._open is not None:
            yield {"type": f"{self._open[0]}-end", "id": self._open[1]}
            self._open = None

    def _end_step(self) -> Iterator[Chunk]:
        if self._step != "none":
            self._step = "none"
            yield {"type": "finish-step"}


async def _decided(service: AgentService, chat: str, message: UIMessage, owner: str) -> tuple[str, int]:
    """Apply the answers in a message; return the run and its last event before them."""
    waiting = await waiting_run(service, chat, owner)
    parts = {part.tool_call_id: part for part in message.parts if part.tool_call_id is not None}
    decisions = [
        decision
        for call in waiting.pending.values()
        if (part := parts.get(call.tool_call_id)) is not None and (decision := _decision(call, part)) is not None
    ]
    if len(decisions) < len(waiting.pending):
        answered = {decision.tool_call_id for decision in decisions}
        left = [call.tool_call_id for call in waiting.pending.values() if call.tool_call_id not in answered]
        text = f"the message must answer all calls that wait; not answered: {', '.join(left)}."
        raise RequestRefused("unprocessable", text)
    await service.decide(waiting.run_id, decisions, owner)
    return waiting.run_id, waiting.n_events


def _decision(call: PendingCall, part: UIPart) -> Decision | None:
    """Return the decision that a part has about a call; None if it has none."""
    if part.state == "output-available" and call.kind != "approval":
        text = part.output if isinstance(part.output, str) else to_json(part.output).decode()
        return Settle(call.tool_call_id, text, digest=call.digest)
    if part.state == "output-error" and call.kind != "approval":
        return Settle(call.tool_call_id, part.error_text or "It failed.", is_error=True, digest=call.digest)
    approval = part.approval or {}
    if part.state != "approval-responded" or approval.get("id") != call.digest:
        return None
    return (
        Approve(call.tool_call_id, call.digest)
        if approval.get("approved") is True
        else Deny(call.tool_call_id, str(approval.get("reason") or ""))
    )
