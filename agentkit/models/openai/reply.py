"""Reads a chat completion: streamed chunks and whole replies go through the same builder.

A whole reply is a stream of one chunk with `message` instead of `delta`, so each field is read in one place.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal, cast

from agentkit.basics.well_formed import SurrogateJoiner
from agentkit.errors import UnexpectedModelBehavior
from agentkit.messages import ModelResponse, ModelResponsePart, TextPart, ThinkingPart, ToolCallPart
from agentkit.models.base import ModelDelta, TextDelta, ThinkingDelta
from agentkit.models.http.json_fields import list_field, object_field, optional_field, text_field
from agentkit.models.http.reply import ReplyBuilder
from agentkit.models.local.tool_probability import TokenLogprob, opening_call_probability, read_logprobs
from agentkit.models.openai.tool_call_assembly import ToolCallAssembler
from agentkit.usage import RequestUsage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error"]

_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "error": "error",
}
_REASONING_FIELDS = ("reasoning_content", "reasoning")
"""DeepSeek, llama.cpp and SGLang use the first, OpenRouter, Ollama and newer vLLM the second."""


class ChatReplyBuilder(ReplyBuilder):
    """Builds one response while it arrives."""

    def __init__(self, tool_names: Collection[str] = (), taken_ids: Collection[str] = ()) -> None:
        """Start empty; `taken_ids` are the call ids that the conversation has used."""
        self._calls = ToolCallAssembler(tool_names)
        self._taken_ids = taken_ids
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._text_joiner = SurrogateJoiner()
        self._thinking_joiner = SurrogateJoiner()
        self._tokens: list[TokenLogprob] = []
        self._usage = RequestUsage()
        self._model_name = ""
        self._refused = False
        self._finish_reason = ""
        self._has_choice = False

    @property
    def finished(self) -> bool:
        """True once the server gave a finish reason; only the usage may still follow."""
        return bool(self._finish_reason)

    def feed(self, data: Any) -> list[ModelDelta]:
        """Add one chunk, or a whole reply; return its deltas.

        Raises:
            UnexpectedModelBehavior: a field has the wrong type.
        """
        self._model_name = text_field(data, "model") or self._model_name
        self._usage = _read_usage(object_field(data, "usage")) or self._usage
        deltas: list[ModelDelta] = []
        for choice in list_field(data, "choices"):
            if not optional_field(choice, "index", int):
                deltas.extend(self._feed_choice(choice))
        return deltas

    def close(self) -> list[ModelDelta]:
        """Return the deltas that were held back until the end of the reply.

        Raises:
            UnexpectedModelBehavior: there was no choice in the reply at all.
        """
        if not self._has_choice:
            raise UnexpectedModelBehavior("the server's reply has no `choices`: it is no chat completion.")
        deltas: list[ModelDelta] = []
        self._add_thinking(self._thinking_joiner.flush(), deltas)
        self._add_text(self._text_joiner.flush(), deltas)
        return [*deltas, *self._calls.close()]

    def response(self, model_name: str) -> ModelResponse:
        """Return the response; `model_name` is used if the server names no model."""
        thinking, text, calls = (
            "".join(self._thinking),
            "".join(self._text),
            self._calls.parts(self._taken_ids),
        )
        parts: list[ModelResponsePart] = []
        if thinking:
            parts.append(ThinkingPart(thinking))
        if text:
            parts.append(TextPart(text))
        if calls and not parts:
            calls = (self._with_probability(calls[0]), *calls[1:])
        return ModelResponse(
            parts=(*parts, *calls),
            usage=self._usage,
            model_name=self._model_name or model_name,
            finish_reason=self._read_finish_reason(bool(calls)),
        )

    def describe(self) -> str:
        """Return what has arrived, for an error's message; empty if nothing has."""
        arrived = [
            f"{n_chars} characters of {what}"
            for what, n_chars in (("reasoning", _length(self._thinking)), ("text", _length(self._text)))
            if n_chars
        ]
        return " and ".join([*arrived, *self._calls.describe()])

    def _feed_choice(self, choice: dict[str, Any]) -> list[ModelDelta]:
        self._has_choice = True
        message = object_field(choice, "delta") or object_field(choice, "message")
        deltas: list[ModelDelta] = []
        for name in _REASONING_FIELDS:
            if reasoning := text_field(message, name):
                self._add_thinking(self._thinking_joiner.push(reasoning), deltas)
                break
        self._read_content(message, deltas)
        if refusal := text_field(message, "refusal"):
            self._refused = True
            self._add_text(self._text_joiner.push(refusal), deltas)
        deltas.extend(self._calls.feed(list_field(message, "tool_calls")))
        self._tokens.extend(read_logprobs(choice))
        self._finish_reason = text_field(choice, "finish_reason") or self._finish_reason
        return deltas

    def _read_content(self, message: dict[str, Any], deltas: list[ModelDelta]) -> None:
        """Read text, or Mistral's list of text and thinking blocks."""
        content = message.get("content")
        if not isinstance(content, list):
            self._add_text(self._text_joiner.push(text_field(message, "content")), deltas)
            return
        for block in cast("list[Any]", content):
            self._add_text(self._text_joiner.push(text_field(block, "text")), deltas)
            for inner in list_field(block, "thinking"):
                self._add_thinking(self._thinking_joiner.push(text_field(inner, "text")), deltas)

    def _add_text(self, text: str, deltas: list[ModelDelta]) -> None:
        if text:
            self._text.append(text)
            deltas.append(TextDelta(text))

    def _add_thinking(self, text: str, deltas: list[ModelDelta]) -> None:
        if text:
            self._thinking.append(text)
            deltas.append(ThinkingDelta(text))

    def _with_probability(self, call: ToolCallPart) -> ToolCallPart:
        probability = opening_call_probability(self._tokens, call.tool_name, self._usage.output_tokens)
        return replace(call, probability=probability)

    def _read_finish_reason(self, has_calls: bool) -> FinishReason | None:
        """Return the finish reason. Ollama and others send "stop" after calls, too; a refusal means filtered."""
        if self._refused:
            return "content_filter"
        reason = _FINISH_REASONS.get(self._finish_reason)
        return "tool_calls" if has_calls and reason == "stop" else reason


def _length(pieces: list[str]) -> int:
    return sum(map(len, pieces))


def _read_usage(usage: dict[str, Any]) -> RequestUsage | None:
    if not usage:
        return None
    details = usage.get("prompt_tokens_details")
    kinds = cast("dict[str, Any]", details) if isinstance(details, dict) else {}
    return RequestUsage(
        input_tokens=_count(usage.get("prompt_tokens")),
        cache_read_tokens=_count(kinds.get("cached_tokens")) or _count(usage.get("prompt_cache_hit_tokens")),
        cache_write_tokens=_count(kinds.get("cache_write_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
