"""Reads a message of Anthropic's API: streamed events and whole replies go through the same builder.

A whole reply is read as its blocks in turn. Blocks and events of other types (server tools, citations, pings) are
ignored, as the API's guide on versions demands of its clients.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentkit.basics.well_formed import SurrogateJoiner, well_formed
from agentkit.errors import UnexpectedModelBehavior
from agentkit.messages import ModelResponse, ModelResponsePart, TextPart, ThinkingPart, ToolCallPart, new_call_id
from agentkit.models.anthropic.conversation import PROVIDER, REDACTED
from agentkit.models.base import ModelDelta, TextDelta, ThinkingDelta, ToolCallDelta
from agentkit.models.http.json_fields import list_field, object_field, optional_field, text_field
from agentkit.models.http.reply import ReplyBuilder
from agentkit.usage import RequestUsage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error"]

_FINISH_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",  # the API interrupted a long turn of its own tools; the reply is not complete
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_USAGE_FIELDS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")


@dataclass(slots=True)
class _Block:
    """A content block while it arrives."""

    kind: str
    text: list[str] = field(default_factory=list[str])
    """Text, thought, or the JSON text of a call's arguments."""
    joiner: SurrogateJoiner = field(default_factory=SurrogateJoiner)
    signature: str = ""
    call_id: str = ""
    tool_name: str = ""
    position: int = 0
    """Number of calls before this one."""
    whole_input: str = ""
    """Arguments that came with the block's beginning; deltas take precedence."""
    is_answer: bool = False
    """A call of the tool that carries the structured answer."""

    @property
    def content(self) -> str:
        return "".join(self.text)


class MessagesReplyBuilder(ReplyBuilder):
    """Builds one response while it arrives."""

    def __init__(
        self,
        tool_names: Mapping[str, str] | None = None,
        taken_ids: Collection[str] = (),
        output_tool: str | None = None,
    ) -> None:
        """Start empty.

        Args:
            tool_names: Our name of each tool, by the name that was sent.
            taken_ids: Call ids that the conversation has used.
            output_tool: Sent name of the tool whose arguments are the answer.
        """
        self._tool_names = tool_names or {}
        self._taken_ids = set(taken_ids)
        self._output_tool = output_tool
        self._blocks: dict[int, _Block] = {}
        self._usage: dict[str, int] = {}
        self._model_name = ""
        self._stop_reason = ""
        self._explanation = ""
        self._has_begun = False
        self._ended = False

    @property
    def finished(self) -> bool:
        """True once the stop reason is there; only the end event may still follow."""
        return bool(self._stop_reason)

    @property
    def ended(self) -> bool:
        """True after `message_stop`."""
        return self._ended

    def feed(self, data: Any) -> list[ModelDelta]:
        """Add one event, or a whole message; return its deltas.

        Raises:
            UnexpectedModelBehavior: a field has the wrong type.
        """
        match text_field(data, "type"):
            case "message":
                return self._feed_message(data)
            case "message_start":
                return self._feed_message(object_field(data, "message"))
            case "content_block_start":
                return self._start(_index(data), object_field(data, "content_block"))
            case "content_block_delta":
                return self._feed_delta(_index(data), object_field(data, "delta"))
            case "content_block_stop":
                return self._flush(self._blocks.get(_index(data)))
            case "message_delta":
                self._read_end(object_field(data, "delta"))
                self._read_usage(object_field(data, "usage"))
            case "message_stop":
                self._ended = True
            case _:
                pass
        return []

    def close(self) -> list[ModelDelta]:
        """Return the deltas that were held back until the end of the reply.

        Raises:
            UnexpectedModelBehavior: there was no message in the reply at all.
        """
        if not self._has_begun:
            raise UnexpectedModelBehavior("the server's reply has no object of type 'message': it is no message.")
        deltas: list[ModelDelta] = []
        for block in self._blocks.values():
            deltas.extend(self._flush(block))
        if self._explanation and not any(block.kind == "text" and block.text for block in self._blocks.values()):
            self._blocks[max(self._blocks, default=0) + 1] = _Block("text", [self._explanation])
            deltas.append(TextDelta(self._explanation))
        return deltas

    def response(self, model_name: str) -> ModelResponse:
        """Return the response; `model_name` is used if the server names no model."""
        parts = [part for _, block in sorted(self._blocks.items()) if (part := _part(block)) is not None]
        reason = _FINISH_REASONS.get(self._stop_reason)
        has_calls = any(isinstance(part, ToolCallPart) for part in parts)
        return ModelResponse(
            parts=tuple(parts),
            usage=self._request_usage(),
            model_name=self._model_name or model_name,
            finish_reason="stop" if reason == "tool_calls" and not has_calls else reason,
        )

    def describe(self) -> str:
        """Return what has arrived, for an error's message; empty if nothing has."""
        names = {"text": "text", "thinking": "thinking"}
        arrived = [
            f"{len(block.content)} characters of {names.get(block.kind) or f'a call of {block.tool_name!r}'}"
            for block in self._blocks.values()
            if block.kind != "redacted_thinking" and (block.text or block.kind == "tool_use")
        ]
        return " and ".join(arrived)

    def _feed_message(self, message: dict[str, Any]) -> list[ModelDelta]:
        self._has_begun = True
        self._model_name = text_field(message, "model") or self._model_name
        deltas: list[ModelDelta] = []
        for index, block in enumerate(list_field(message, "content")):
            deltas.extend(self._start(index, block))
        self._read_end(message)
        self._read_usage(object_field(message, "usage"))
        return deltas

    def _start(self, index: int, found: Any) -> list[ModelDelta]:
        kind = text_field(found, "type")
        block = _Block(kind)
        match kind:
            case "text" | "thinking":
                self._blocks[index] = block
                block.signature = text_field(found, "signature")
                return self._add(block, text_field(found, kind))
            case "redacted_thinking":
                self._blocks[index] = block
                block.signature = text_field(found, "data")
            case "tool_use":
                self._blocks[index] = block
                return self._start_call(block, found)
            case _:
                self._blocks.pop(index, None)
        return []

    def _start_call(self, block: _Block, found: dict[str, Any]) -> list[ModelDelta]:
        sent_name = well_formed(text_field(found, "name"))
        block.tool_name = self._tool_names.get(sent_name, sent_name)
        block.is_answer = self._output_tool is not None and sent_name == self._output_tool
        given_id = well_formed(text_field(found, "id"))
        block.call_id = given_id if given_id and given_id not in self._taken_ids else new_call_id()
        self._taken_ids.add(block.call_id)
        if whole_input := object_field(found, "input"):
            block.whole_input = well_formed(json.dumps(whole_input, ensure_ascii=False))
        if block.is_answer:
            return []
        block.position = sum(each.kind == "tool_use" and not each.is_answer for each in self._blocks.values()) - 1
        return [ToolCallDelta(block.position, block.tool_name)]

    def _feed_delta(self, index: int, delta: dict[str, Any]) -> list[ModelDelta]:
        block = self._blocks.get(index)
        if block is None:
            return []  # a block of another type
        match text_field(delta, "type"):
            case "text_delta":
                return self._add(block, text_field(delta, "text"))
            case "thinking_delta":
                return self._add(block, text_field(delta, "thinking"))
            case "input_json_delta":
                return self._add(block, text_field(delta, "partial_json"))
            case "signature_delta":
                block.signature = text_field(delta, "signature")
            case _:
                pass
        return []

    def _add(self, block: _Block, text: str) -> list[ModelDelta]:
        return _told(block, block.joiner.push(text))

    def _flush(self, block: _Block | None) -> list[ModelDelta]:
        if block is None:
            return []
        rest = block.joiner.flush()
        if not block.text and not rest:
            rest, block.whole_input = block.whole_input, ""
        return _told(block, rest)

    def _read_end(self, fields: dict[str, Any]) -> None:
        self._stop_reason = text_field(fields, "stop_reason") or self._stop_reason
        self._explanation = well_formed(text_field(object_field(fields, "stop_details"), "explanation"))

    def _read_usage(self, usage: dict[str, Any]) -> None:
        """Keep the last count of each kind; those of `message_delta` are cumulative, some of them missing."""
        for name in _USAGE_FIELDS:
            if (count := optional_field(usage, name, int)) is not None:
                self._usage[name] = max(0, count)
        by_time_to_live = object_field(usage, "cache_creation")
        if (count := optional_field(by_time_to_live, "ephemeral_1h_input_tokens", int)) is not None:
            self._usage["ephemeral_1h_input_tokens"] = max(0, count)

    def _request_usage(self) -> RequestUsage:
        count = self._usage.get
        read, written = count("cache_read_input_tokens", 0), count("cache_creation_input_tokens", 0)
        written_1h = min(written, count("ephemeral_1h_input_tokens", 0))
        return RequestUsage(
            input_tokens=count("input_tokens", 0) + read + written,
            cache_read_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=written_1h,
            output_tokens=count("output_tokens", 0),
        )


def _index(event: Any) -> int:
    index = optional_field(event, "index", int)
    if index is None:
        raise UnexpectedModelBehavior("the server's reply has a content block without its `index`.")
    return index


def _told(block: _Block, text: str) -> list[ModelDelta]:
    if not text:
        return []
    block.text.append(text)
    if block.kind == "thinking":
        return [ThinkingDelta(text)]
    if block.kind == "tool_use" and not block.is_answer:
        return [ToolCallDelta(block.position, None, text)]
    return [TextDelta(text)]


def _part(block: _Block) -> ModelResponsePart | None:
    content = block.content
    match block.kind:
        case "tool_use" if block.is_answer:
            return TextPart(content or "{}")
        case "tool_use":
            return ToolCallPart(block.tool_name, content or "{}", block.call_id)
        case "redacted_thinking":
            return ThinkingPart("", REDACTED + block.signature, PROVIDER)
        case "thinking":
            signature = block.signature or None
            provider = PROVIDER if signature else None
            return ThinkingPart(content, signature, provider) if content or signature else None
        case _:
            return TextPart(content) if content else None
