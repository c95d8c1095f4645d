"""Reads a GenerateContentResponse: the events of a stream and a whole reply go through the same builder.

Each event of a stream is a response of its own, with the parts that are new and the usage so far. A call arrives
whole. Parts with a thought signature stay apart from their neighbours, because the signature must go back with
exactly that part; see `contents` for the form in which signed text is stored. Files and the traces of Google's own
tools, which only `extra_body` can request, have no form in a `ModelResponse` and are left out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentkit.basics.well_formed import SurrogateJoiner, well_formed
from agentkit.errors import UnexpectedModelBehavior
from agentkit.messages import ModelResponse, ModelResponsePart, TextPart, ThinkingPart, ToolCallPart, new_call_id
from agentkit.models.base import FilterDelta, ModelDelta, TextDelta, ThinkingDelta, ToolCallDelta
from agentkit.models.google.dialect import PROVIDER
from agentkit.models.http.json_fields import list_field, object_field, optional_field, text_field
from agentkit.models.http.reply import ReplyBuilder
from agentkit.usage import RequestUsage

MAX_EXPLANATION_CHARS = 300
"""Characters of the server's explanation of a finish reason that are kept."""
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error"]

_FINISH_REASONS: Mapping[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "ESCALATION": "content_filter",
    "PUP_LIMITED_DISABLED": "content_filter",
    "MODEL_ARMOR": "content_filter",
}
"""Finish reasons of a complete, a shortened and a withheld reply; all others are failures of the model, such as
MALFORMED_FUNCTION_CALL."""
_UNSPECIFIED = frozenset({"", "FINISH_REASON_UNSPECIFIED"})


@dataclass(slots=True)
class _Text:
    """Adjacent pieces of text, or of thoughts, that share one part."""

    is_thought: bool
    signature: str | None
    pieces: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    arguments: str
    id: str
    signature: str | None


class GeminiReply(ReplyBuilder):
    """Builds one response while it arrives."""

    def __init__(self, tool_names: Mapping[str, str] | None = None, taken_ids: Collection[str] = ()) -> None:
        """Start empty.

        Args:
            tool_names: Our name of each tool by Gemini's, where they differ.
            taken_ids: The call ids that the conversation has used.
        """
        self._tool_names = tool_names or {}
        self._taken_ids = set(taken_ids)
        self._parts: list[_Text | _Call] = []
        self._text_joiner = SurrogateJoiner()
        self._thinking_joiner = SurrogateJoiner()
        self._usage = RequestUsage()
        self._model_name = ""
        self._finish_reason = ""
        self._block_reason = ""
        self._explanation = ""
        self._has_candidate = False

    @property
    def finished(self) -> bool:
        """True once the server gave a finish reason, or refused the prompt; only the usage may still follow."""
        return bool(self._block_reason or self._finish_reason)

    def feed(self, data: Any) -> list[ModelDelta]:
        """Add one event, or a whole reply; return its deltas.

        Raises:
            UnexpectedModelBehavior: a field has the wrong type.
        """
        self._model_name = text_field(data, "modelVersion") or self._model_name
        self._usage = _read_usage(object_field(data, "usageMetadata")) or self._usage
        feedback = object_field(data, "promptFeedback")
        self._block_reason = text_field(feedback, "blockReason") or self._block_reason
        self._explanation = text_field(feedback, "blockReasonMessage") or self._explanation
        deltas: list[ModelDelta] = []
        for candidate in list_field(data, "candidates"):
            if not optional_field(candidate, "index", int):
                self._has_candidate = True
                for part in list_field(object_field(candidate, "content"), "parts"):
                    deltas.extend(self._feed_part(part))
                reason = text_field(candidate, "finishReason")
                self._finish_reason = self._finish_reason if reason in _UNSPECIFIED else reason
                self._explanation = text_field(candidate, "finishMessage") or self._explanation
        return deltas

    def close(self) -> list[ModelDelta]:
        """Return the deltas that were held back until the end of the reply.

        Raises:
            UnexpectedModelBehavior: the reply has neither a candidate nor a reason for having none.
        """
        if not self._has_candidate and not self._block_reason:
            raise UnexpectedModelBehavior(
                "the server's reply has neither `candidates` nor `blockReason`: it is no GenerateContentResponse."
            )
        return [
            *self._add_text(self._thinking_joiner.flush(), is_thought=True, signature=None),
            *self._add_text(self._text_joiner.flush(), is_thought=False, signature=None),
            *self._filtered(),
        ]

    def response(self, model_name: str) -> ModelResponse:
        """Return the response; `model_name` is used if the server names no model."""
        parts: list[ModelResponsePart] = []
        for part in self._parts:
            parts.extend(_call_parts(part) if isinstance(part, _Call) else _text_parts(part))
        return ModelResponse(
            parts=tuple(parts),
            usage=self._usage,
            model_name=self._model_name or model_name,
            finish_reason=self._read_finish_reason(),
        )

    def describe(self) -> str:
        """Return what has arrived, for an error's message; empty if nothing has."""
        texts = [part for part in self._parts if isinstance(part, _Text)]
        arrived = [
            f"{n_chars} characters of {what}"
            for what, is_thought in (("reasoning", True), ("text", False))
            if (n_chars := sum(len(piece) for t in texts if t.is_thought is is_thought for piece in t.pieces))
        ]
        calls = [f"a call of {part.name!r}" for part in self._parts if isinstance(part, _Call)]
        return " and ".join([*arrived, *calls])

    def _feed_part(self, part: Any) -> list[ModelDelta]:
        signature = text_field(part, "thoughtSignature") or None
        if call := object_field(part, "functionCall"):
            return [self._add_call(call, signature)]
        if (text := optional_field(part, "text", str)) is None:
            return []
        is_thought = optional_field(part, "thought", bool) or False
        joiner = self._thinking_joiner if is_thought else self._text_joiner
        return self._add_text(joiner.push(text), is_thought=is_thought, signature=signature)

    def _add_text(self, text: str, *, is_thought: bool, signature: str | None) -> list[ModelDelta]:
        if not text and signature is None:
            return []
        self._open_text(is_thought, signature).pieces.append(text)
        if not text:
            return []
        return [ThinkingDelta(text) if is_thought else TextDelta(text)]

    def _open_text(self, is_thought: bool, signature: str | None) -> _Text:
        """Return the part that further text belongs to."""
        last = self._parts[-1] if self._parts else None
        if isinstance(last, _Text) and last.is_thought is is_thought and last.signature is signature is None:
            return last
        new = _Text(is_thought, signature)
        self._parts.append(new)
        return new

    def _add_call(self, call: dict[str, Any], signature: str | None) -> ToolCallDelta:
        name = well_formed(text_field(call, "name"))
        name = self._tool_names.get(name, name)
        arguments = well_formed(json.dumps(object_field(call, "args"), ensure_ascii=False, separators=(",", ":")))
        call_id = well_formed(text_field(call, "id"))
        if not call_id or call_id in self._taken_ids:
            call_id = new_call_id()
        self._taken_ids.add(call_id)
        n_before = sum(isinstance(part, _Call) for part in self._parts)
        self._parts.append(_Call(name, arguments, call_id, signature))
        return ToolCallDelta(n_before, name, arguments)

    def _filtered(self) -> list[ModelDelta]:
        """Return the report of what Google's filters stopped."""
        if self._read_finish_reason() != "content_filter":
            return []
        what, code = ("reply", self._finish_reason) if self._has_candidate else ("request", self._block_reason)
        explained = f"{code}: {self._explanation[:MAX_EXPLANATION_CHARS]}" if self._explanation else code
        return [FilterDelta(what, well_formed(explained))]

    def _read_finish_reason(self) -> FinishReason | None:
        """Return the finish reason. Gemini says STOP after calls, too; a refused prompt has none."""
        if not self._has_candidate:
            return "content_filter"
        if not self._finish_reason:
            return None
        reason = _FINISH_REASONS.get(self._finish_reason, "error")
        has_calls = any(isinstance(part, _Call) for part in self._parts)
        return "tool_calls" if has_calls and reason == "stop" else reason


def _call_parts(call: _Call) -> list[ModelResponsePart]:
    provider = PROVIDER if call.signature else None
    return [ToolCallPart(call.name, call.arguments, call.id, signature=call.signature, provider=provider)]


def _text_parts(text: _Text) -> list[ModelResponsePart]:
    content = "".join(text.pieces)
    if text.is_thought:
        return [ThinkingPart(content, text.signature, PROVIDER if text.signature else None)]
    written: list[ModelResponsePart] = [TextPart(content)] if content else []
    if text.signature:
        return [ThinkingPart("", text.signature, PROVIDER), *written]
    return written


def _read_usage(usage: dict[str, Any]) -> RequestUsage | None:
    """Return the usage; thoughts are written tokens, results of Google's own tools are read ones."""
    if not usage:
        return None
    return RequestUsage(
        input_tokens=_count(usage, "promptTokenCount") + _count(usage, "toolUsePromptTokenCount"),
        cache_read_tokens=_count(usage, "cachedContentTokenCount"),
        output_tokens=_count(usage, "candidatesTokenCount") + _count(usage, "thoughtsTokenCount"),
    )


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value > 0 else 0
