"""Reads a response of OpenAI's Responses API: streamed events and whole responses go through the same builder.

A text arrives in deltas, and again whole in the events that end it. Servers omit some of both, so the whole text
completes what the deltas began. Events and items of other kinds (tools that the server runs, audio) are ignored,
also those that are not known yet: `keepalive` was sent before it was documented (openai-node#1964).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

from agentkit.basics.well_formed import SurrogateJoiner, well_formed
from agentkit.errors import UnexpectedModelBehavior
from agentkit.messages import (
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    new_call_id,
)
from agentkit.models.base import ModelDelta, TextDelta, ThinkingDelta, ToolCallDelta
from agentkit.models.http.json_fields import list_field, object_field, optional_field, text_field
from agentkit.models.http.reply import ReplyBuilder
from agentkit.models.openai.kept_items import MESSAGE, KeptFields, KeptReasoning, signature_of
from agentkit.usage import RequestUsage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error"]
Group = Literal["content", "summary", "arguments"]
_ENDS = ("response.completed", "response.incomplete")
_KIND_OF_TEXT: dict[str, tuple[str, Group, str]] = {
    "response.output_text": ("message", "content", "text"),
    "response.refusal": ("message", "content", "refusal"),
    "response.function_call_arguments": ("function_call", "arguments", "arguments"),
    "response.reasoning_text": ("reasoning", "content", "text"),
    "response.reasoning_summary_text": ("reasoning", "summary", "text"),
}
"""Kind of the item, place of the text in it, and field of the whole text, by the event's name before ".delta"."""


class _Text:
    """A text that arrives in pieces, and then whole."""

    def __init__(self) -> None:
        self._joiner = SurrogateJoiner()
        self._pieces: list[str] = []

    def push(self, piece: str) -> str:
        """Add a piece; return the text that is complete."""
        return self._kept(self._joiner.push(piece))

    def complete(self, whole: str) -> str:
        """Return the rest of the whole text; empty if the pieces were another text, which stays as delivered."""
        whole, arrived = well_formed(whole), self.value
        if not whole.startswith(arrived):
            return ""
        self._joiner = SurrogateJoiner()
        return self._kept(whole[len(arrived) :])

    def flush(self) -> str:
        """Return what was held back until the end."""
        return self._kept(self._joiner.flush())

    @property
    def has_begun(self) -> bool:
        """Whether a piece was delivered."""
        return bool(self._pieces)

    @property
    def value(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    def _kept(self, piece: str) -> str:
        if piece:
            self._pieces.append(piece)
        return piece


@dataclass(slots=True)
class _Item:
    """An item of the output, as far as it has arrived."""

    kind: str
    id: str = ""
    n_calls_before: int = 0
    texts: dict[tuple[Group, int], _Text] = field(default_factory=dict[tuple[Group, int], _Text])
    shown: list[str] = field(default_factory=list[str])
    """Text of the part: all texts of a message or a reasoning item."""
    name: str = ""
    announced: bool = False
    call_id: str = ""
    encrypted_content: str = ""
    phase: str = ""

    def text(self, group: Group, index: int) -> _Text:
        """Return a text of the item; a new one if it has just begun."""
        return self.texts.setdefault((group, index), _Text())

    def whole_texts(self, group: Group) -> tuple[str, ...]:
        """Return the texts of a group in the order of their indices."""
        return tuple(self.texts[key].value for key in sorted(self.texts) if key[0] == group)

    def deltas(self, piece: str, *, opens: bool) -> Iterator[ModelDelta]:
        """Yield the deltas for a piece of a text; `opens` if it is the first of its text."""
        if not piece:
            return
        if self.kind == "function_call":
            name = None if self.announced or not self.name else self.name
            self.announced = self.announced or name is not None
            yield ToolCallDelta(self.n_calls_before, name, piece)
            return
        if opens and self.shown and self.kind == "reasoning":
            piece = f"\n\n{piece}"
        self.shown.append(piece)
        yield TextDelta(piece) if self.kind == "message" else ThinkingDelta(piece)


class ResponsesReplyBuilder(ReplyBuilder):
    """Builds one response while it arrives."""

    def __init__(self, provider: str = "openai", server: str = "", taken_ids: Collection[str] = ()) -> None:
        """Start empty; `provider` and `server` go into signatures, `taken_ids` are the conversation's call ids."""
        self._provider = provider
        self._server = server
        self._taken_ids = taken_ids
        self._items: dict[int, _Item] = {}
        self._has_events = False
        self._usage = RequestUsage()
        self._model_name = ""
        self._refused = False
        self._status = ""
        self._incomplete_reason = ""

    @property
    def finished(self) -> bool:
        """True once the last event, which holds the usage, or a whole response was read."""
        return self._status in ("completed", "incomplete")

    @property
    def ended(self) -> bool:
        """True once the last event was read."""
        return self.finished

    def feed(self, data: Any) -> list[ModelDelta]:
        """Add one event, or a whole response; return its deltas.

        Raises:
            UnexpectedModelBehavior: a field has the wrong type.
        """
        kind = text_field(data, "type")
        if not kind:
            return self._take_response(data) if text_field(data, "object") == "response" else []
        if kind in _ENDS:
            return self._take_response(object_field(data, "response"), kind.removeprefix("response."))
        if kind in ("response.output_item.added", "response.output_item.done"):
            self._has_events = True
            item = self._item_of(data, object_field(data, "item"))
            return [*self._take_item(item, object_field(data, "item"))] if kind.endswith(".done") else []
        name, _, step = kind.rpartition(".")
        if name in _KIND_OF_TEXT and step in ("delta", "done"):
            self._has_events = True
            return [*self._take_text(data, name, is_whole=step == "done")]
        if response := object_field(data, "response"):
            self._model_name = text_field(response, "model") or self._model_name
        return []

    def close(self) -> list[ModelDelta]:
        """Return the deltas that were held back until the end of the reply.

        Raises:
            UnexpectedModelBehavior: the response has not ended, or there was none.
        """
        if not self.finished:
            found = f"has the status {self._status!r}" if self._status else "has no `status`"
            raise UnexpectedModelBehavior(
                f"the server's reply {found}, where a completed response of /v1/responses belongs."
            )
        deltas: list[ModelDelta] = []
        for item in self._items.values():
            for text in item.texts.values():
                deltas.extend(item.deltas(text.flush(), opens=False))
            if item.kind == "function_call" and item.name and not item.announced:
                item.announced = True
                deltas.append(ToolCallDelta(item.n_calls_before, item.name))
        return deltas

    def response(self, model_name: str) -> ModelResponse:
        """Return the response; `model_name` is used if the server names no model."""
        parts: list[ModelResponsePart] = []
        items = list(self._items.values())
        self._settle_call_ids(items)
        for n, item in enumerate(items):
            if item.kind == "reasoning":
                parts.extend(self._thinking_parts(item, items[n + 1 :]))
            elif item.kind == "message":
                has_carrier = n > 0 and items[n - 1].kind == "reasoning"
                if item.phase and not has_carrier:
                    parts.append(self._thinking("", KeptFields(phase=item.phase)))
                if text := "".join(item.shown):
                    parts.append(TextPart(text))
            elif item.kind == "function_call":
                parts.append(ToolCallPart(item.name, "".join(item.whole_texts("arguments")), item.call_id))
        return ModelResponse(
            parts=tuple(parts),
            usage=self._usage,
            model_name=self._model_name or model_name,
            finish_reason=self._finish_reason(),
        )

    def describe(self) -> str:
        """Return what has arrived, for an error's message; empty if nothing has."""
        arrived: list[str] = []
        for item in self._items.values():
            n_chars = sum(len(text.value) for text in item.texts.values())
            if item.kind == "function_call":
                arrived.append(f"a call of {item.name!r} with {n_chars} characters of arguments")
            elif n_chars:
                arrived.append(f"{n_chars} characters of {'reasoning' if item.kind == 'reasoning' else 'text'}")
        return " and ".join(arrived)

    def _item_of(self, event: Any, shown: dict[str, Any], kind: str = "") -> _Item:
        """Return the item of an event, by its index; a new one if it has just begun."""
        index = optional_field(event, "output_index", int)
        if index is None:
            item_id = text_field(event, "item_id") or text_field(shown, "id")
            known = (n for n, item in self._items.items() if item_id and item.id == item_id)
            index = next(known, len(self._items))
        return self._item_at(index, text_field(shown, "type") or kind, shown)

    def _item_at(self, index: int, kind: str, shown: dict[str, Any]) -> _Item:
        if index not in self._items:
            n_calls = sum(item.kind == "function_call" for item in self._items.values())
            self._items[index] = _Item(kind, n_calls_before=n_calls)
        item = self._items[index]
        item.id = text_field(shown, "id") or item.id
        if kind == "function_call":
            item.name = item.name or well_formed(text_field(shown, "name"))
            item.call_id = text_field(shown, "call_id") or item.call_id
        return item

    def _take_text(self, event: Any, name: str, *, is_whole: bool) -> Iterator[ModelDelta]:
        kind, group, whole_field = _KIND_OF_TEXT[name]
        item = self._item_of(event, {}, kind)
        if item.kind != kind:
            raise UnexpectedModelBehavior(f"the server sent {name!r} for an item of type {item.kind!r}.")
        self._refused = self._refused or whole_field == "refusal"
        index_name = "summary_index" if group == "summary" else "content_index"
        index = optional_field(event, index_name, int) or 0
        yield from self._add(item, group, index, text_field(event, whole_field if is_whole else "delta"), is_whole)

    def _add(self, item: _Item, group: Group, index: int, piece: str, is_whole: bool) -> Iterator[ModelDelta]:
        text = item.text(group, index)
        opens = not text.has_begun
        yield from item.deltas(text.complete(piece) if is_whole else text.push(piece), opens=opens)

    def _take_item(self, item: _Item, shown: dict[str, Any]) -> Iterator[ModelDelta]:
        """Complete an item by its whole form; what arrived in pieces before is not delivered again."""
        if item.kind != text_field(shown, "type"):
            return
        item.phase = text_field(shown, "phase") or item.phase
        item.encrypted_content = text_field(shown, "encrypted_content") or item.encrypted_content
        if item.kind == "function_call":
            yield from self._add(item, "arguments", 0, text_field(shown, "arguments"), is_whole=True)
        elif item.kind in ("message", "reasoning"):
            groups: tuple[Group, ...] = ("summary", "content")
            for group in groups:
                for index, part in enumerate(list_field(shown, group)):
                    refusal = text_field(part, "refusal")
                    self._refused = self._refused or bool(refusal)
                    yield from self._add(item, group, index, refusal or text_field(part, "text"), is_whole=True)

    def _take_response(self, response: dict[str, Any], status: str = "") -> list[ModelDelta]:
        self._model_name = text_field(response, "model") or self._model_name
        self._usage = _read_usage(object_field(response, "usage")) or self._usage
        self._status = status or text_field(response, "status")
        self._incomplete_reason = text_field(object_field(response, "incomplete_details"), "reason")
        deltas: list[ModelDelta] = []
        for index, shown in enumerate(list_field(response, "output")):
            kind = text_field(shown, "type")
            if not self._has_events:
                deltas.extend(self._take_item(self._item_at(index, kind, shown), shown))
            elif index in self._items:
                deltas.extend(self._take_item(self._items[index], shown))
        return deltas

    def _settle_call_ids(self, items: Sequence[_Item]) -> None:
        """Give each call an id that is new to the conversation."""
        taken = set(self._taken_ids)
        for item in items:
            if item.kind == "function_call":
                if not item.call_id or item.call_id in taken:
                    item.call_id = new_call_id()
                taken.add(item.call_id)

    def _thinking_parts(self, item: _Item, later: Sequence[_Item]) -> Iterator[ThinkingPart]:
        """Yield the part of a reasoning item, if it has text or must return to the server.

        Reasoning that led to an item that is ignored here cannot return, because the API wants that item after it.
        """
        following = list(takewhile(lambda each: each.kind in ("message", "function_call"), later))
        kept = KeptReasoning(
            item.id,
            item.whole_texts("summary"),
            item.whole_texts("content"),
            item.encrypted_content or None,
            tuple((each.call_id or MESSAGE, each.id if item.encrypted_content else "") for each in following),
        )
        phase = following[0].phase if following and following[0].kind == "message" else None
        part = self._thinking("".join(item.shown), KeptFields(kept, phase))
        if part.content or part.signature:
            yield part

    def _thinking(self, text: str, kept: KeptFields) -> ThinkingPart:
        signature = signature_of(self._server, kept)
        return ThinkingPart(text, signature, self._provider if signature else None)

    def _finish_reason(self) -> FinishReason:
        if self._refused or self._incomplete_reason == "content_filter":
            return "content_filter"
        if self._status == "incomplete":  # for want of tokens, or for a reason that is not known here
            return "length"
        return "tool_calls" if any(item.kind == "function_call" for item in self._items.values()) else "stop"


def _read_usage(usage: dict[str, Any]) -> RequestUsage | None:
    """Return the usage; reasoning tokens are part of the output tokens, cached ones of the input tokens."""
    if not usage:
        return None
    details = object_field(usage, "input_tokens_details")
    return RequestUsage(
        input_tokens=_count(usage.get("input_tokens")),
        cache_read_tokens=_count(details.get("cached_tokens")),
        cache_write_tokens=_count(details.get("cache_write_tokens")),
        output_tokens=_count(usage.get("output_tokens")),
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
