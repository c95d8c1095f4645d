"""Items of OpenAI's responses, and the events that tell them: messages, thoughts and calls.

Source: the API reference of `/v1/responses`. A served model writes messages, thoughts and calls for its client; a
served agent (`agentkit.serving.openai_responses`) also tells the calls that it runs itself, as those of MCP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from modelstack.inference.server.bodies import Body

Status = Literal["in_progress", "completed", "incomplete"]
Kind = Literal["reasoning", "message", "function_call", "mcp_call", "mcp_approval_request"]
Event = dict[str, Any]
"""Event of a stream, without its `sequence_number`."""
PREFIXES: Mapping[Kind, str] = MappingProxyType(
    {"reasoning": "rs_", "message": "msg_", "function_call": "fc_", "mcp_call": "mcp_"}
)
"""Beginnings of items' ids, as OpenAI's server has them; clients do not depend on them."""
_DELTAS: Mapping[Kind, str] = MappingProxyType(
    {
        "reasoning": "reasoning_text",
        "message": "output_text",
        "function_call": "function_call_arguments",
        "mcp_call": "mcp_call_arguments",
    }
)
NOT_CHOSEN: Mapping[str, Any] = MappingProxyType(
    {
        "object": "response",
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": None,
        "top_p": None,
        "tool_choice": "auto",
        "tools": [],
        "text": {"format": {"type": "text"}},
        "truncation": "disabled",
        "error": None,
        "incomplete_details": None,
    }
)
"""Fields of a response whose request chose nothing."""


class TextContent(Body):
    """Text of a message."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class MessageItem(Body):
    """Message of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[TextContent]
    id: str | None = None
    status: Status | None = None
    phase: str | None = None


class ResultItem(Body):
    """Result of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[TextContent]
    id: str | None = None
    status: Status | None = None


def text_of(content: str | Sequence[TextContent]) -> str:
    """Return the text of a message or a result."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


@dataclass(slots=True)
class OutputItem:
    """Item of a response's output, as far as it is written."""

    kind: Kind
    id: str
    index: int
    """Place in the output, from 0."""
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    """Fields that only its kind has, for example the name of a call."""
    text: str = ""
    """Words, thought or arguments."""
    logprobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Tokens of a message, if they are asked for."""
    status: Status | Literal["failed"] = "in_progress"

    @property
    def has_arguments(self) -> bool:
        """Whether the item is a call, whose text is its arguments."""
        return self.kind not in ("reasoning", "message")

    def shown(self) -> dict[str, Any]:
        """Return the item as JSON; a new one and one that was taken back have no content."""
        head: dict[str, Any] = {"id": self.id, "type": self.kind}
        if self.kind != "mcp_approval_request":
            head["status"] = self.status
        if self.has_arguments:
            return {**head, **self.fields, "arguments": self.text}
        content = [self._part()] if self.text or self.status == "completed" else []
        more = {"summary": []} if self.kind == "reasoning" else {"role": "assistant"}
        return {**head, **more, **self.fields, "content": content}

    def opened(self) -> list[Event]:
        """Return the events that begin the item."""
        added = {"type": "response.output_item.added", "output_index": self.index, "item": self.shown()}
        if self.kind != "message":
            return [added]
        return [added, {**self.place, "type": "response.content_part.added", "part": self._part()}]

    def written(self, delta: str, logprobs: Sequence[dict[str, Any]] = ()) -> Event:
        """Add to the text; return the event that says so."""
        self.text += delta
        self.logprobs += logprobs
        return {
            **self.place,
            "type": f"response.{_DELTAS[self.kind]}.delta",
            "delta": delta,
            **self._logprobs(logprobs),
        }

    def closed(self) -> list[Event]:
        """Return the events that end the item with the text that it has."""
        return [*self.text_closed(), self.done("completed")]

    def text_closed(self) -> list[Event]:
        """Return the events that end the text, but not the item."""
        whole = "arguments" if self.has_arguments else "text"
        name = {"name": self.fields["name"]} if self.kind == "function_call" else {}
        more = {**name, **self._logprobs(self.logprobs)}
        events = [{**self.place, "type": f"response.{_DELTAS[self.kind]}.done", whole: self.text, **more}]
        if self.kind == "message":
            events.append({**self.place, "type": "response.content_part.done", "part": self._part()})
        return events

    def done(self, status: Status | Literal["failed"]) -> Event:
        """Return the event that ends the item."""
        self.status = status
        return {"type": "response.output_item.done", "output_index": self.index, "item": self.shown()}

    @property
    def place(self) -> dict[str, Any]:
        """Fields of an event that say where the item, and its only content, stands."""
        place: dict[str, Any] = {"item_id": self.id, "output_index": self.index}
        return place if self.has_arguments else {**place, "content_index": 0}

    def _part(self) -> dict[str, Any]:
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": [*self.logprobs]}

    def _logprobs(self, logprobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"logprobs": [*logprobs]} if self.kind == "message" else {}


def response_usage(*, n_read: int, n_cached: int, n_written: int, n_thought: int) -> dict[str, Any]:
    """Return the usage of a response, in tokens."""
    return {
        "input_tokens": n_read,
        "input_tokens_details": {"cached_tokens": n_cached, "cache_write_tokens": 0},
        "output_tokens": n_written,
        "output_tokens_details": {"reasoning_tokens": n_thought},
        "total_tokens": n_read + n_written,
    }
