"""Streams and whole responses of the Responses API, built and checked by the types of OpenAI's own package."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from agentkit.models.base import ModelDelta
from agentkit.models.openai.responses_reply import ResponsesReplyBuilder

Event = dict[str, Any]
USAGE = {
    "input_tokens": 90,
    "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 16},
    "output_tokens": 30,
    "output_tokens_details": {"reasoning_tokens": 20},
    "total_tokens": 120,
}


def whole(*output: Event, status: str = "completed", reason: str | None = None, **fields: Any) -> Event:
    """A whole response."""
    response: Event = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1764500000.0,
        "model": "gpt-5-2025-08-07",
        "status": status,
        "output": list(output),
        "error": None,
        "incomplete_details": None if reason is None else {"reason": reason},
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": USAGE if status in ("completed", "incomplete") else None,
        **fields,
    }
    Response.model_validate(response)
    return response


def message(text: str, n: int = 1, *, refusal: bool = False, **fields: Any) -> Event:
    """A message as an item of the output."""
    part: Event = {"type": "output_text", "text": text, "annotations": []}
    if refusal:
        part = {"type": "refusal", "refusal": text}
    item: Event = {"id": f"msg_{n}", "type": "message", "status": "completed", "role": "assistant"}
    return {**item, "content": [part], **fields}


def reasoning(*summary: str, n: int = 1, **fields: Any) -> Event:
    """A reasoning item of the output."""
    texts = [{"type": "summary_text", "text": text} for text in summary]
    return {"id": f"rs_{n}", "type": "reasoning", "summary": texts, **fields}


def call(name: str, arguments: str, n: int = 1, **fields: Any) -> Event:
    """A call as an item of the output."""
    head: Event = {"id": f"fc_{n}", "type": "function_call", "status": "completed"}
    return {**head, "call_id": f"call_{n}", "name": name, "arguments": arguments, **fields}


def streamed(*output: Event, piece_chars: int = 4, **fields: Any) -> list[Event]:
    """The stream of a response, with its texts in pieces."""
    started = whole(status="in_progress")
    events: list[Event] = [
        {"type": "response.created", "response": started},
        {"type": "response.in_progress", "response": started},
    ]
    for index, item in enumerate(output):
        events += [{**event, "output_index": index} for event in _item_events(item, piece_chars)]
    ended = whole(*output, **fields)
    return checked([*events, {"type": f"response.{ended['status']}", "response": ended}])


def checked(events: Sequence[Event]) -> list[Event]:
    """Number the events, and check each against the package's types."""
    numbered = [{**event, "sequence_number": n} for n, event in enumerate(events)]
    for event in numbered:
        assert event_types().validate_python(event).type == event["type"]
    return numbered


@cache
def event_types() -> TypeAdapter[Any]:
    """The union of all events that the package knows."""
    return TypeAdapter(ResponseStreamEvent)


def lines(events: Sequence[Event]) -> bytes:
    """The events as OpenAI sends them."""
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode() for event in events
    )


def read(events: Sequence[Any], **options: Any) -> tuple[Any, list[ModelDelta]]:
    """The response and the deltas that a builder makes of events, or of one whole response."""
    builder = ResponsesReplyBuilder("openai", "api.openai.com", **options)
    deltas: list[ModelDelta] = [delta for event in events for delta in builder.feed(event)]
    assert builder.finished == builder.ended
    deltas += builder.close()
    return builder.response("asked"), deltas


def _item_events(item: Event, piece_chars: int) -> Iterator[Event]:
    empty: Event = {"message": {"content": []}, "reasoning": {"summary": []}, "function_call": {"arguments": ""}}
    opened = {**item, **empty.get(item["type"], {})}
    if "encrypted_content" in item:
        opened["encrypted_content"] = "gAAA-incomplete"
    yield {"type": "response.output_item.added", "item": opened}
    if item["type"] == "function_call":
        yield from _text_events(
            "response.function_call_arguments", "arguments", item["arguments"], piece_chars, item
        )
    elif item["type"] == "message":
        for n, part in enumerate(item["content"]):
            place: Event = {"item_id": item["id"], "content_index": n}
            name = "refusal" if part["type"] == "refusal" else "text"
            yield {**place, "type": "response.content_part.added", "part": {**part, name: ""}}
            kind = "response.refusal" if name == "refusal" else "response.output_text"
            for event in _text_events(kind, name, part[name], piece_chars, item):
                yield {**event, **place, **({"logprobs": []} if name == "text" else {})}
            yield {**place, "type": "response.content_part.done", "part": part}
    elif item["type"] == "reasoning":
        for n, part in enumerate(item["summary"]):
            place = {"item_id": item["id"], "summary_index": n}
            yield {**place, "type": "response.reasoning_summary_part.added", "part": {**part, "text": ""}}
            for event in _text_events("response.reasoning_summary_text", "text", part["text"], piece_chars, item):
                yield {**event, **place}
            yield {**place, "type": "response.reasoning_summary_part.done", "part": part}
        for n, part in enumerate(item.get("content") or ()):
            for event in _text_events("response.reasoning_text", "text", part["text"], piece_chars, item):
                yield {**event, "content_index": n}
    yield {"type": "response.output_item.done", "item": item}


def _text_events(kind: str, field: str, text: str, piece_chars: int, item: Event) -> Iterator[Event]:
    for start in range(0, len(text), piece_chars):
        yield {"type": f"{kind}.delta", "item_id": item["id"], "delta": text[start : start + piece_chars]}
    yield {"type": f"{kind}.done", "item_id": item["id"], field: text}
