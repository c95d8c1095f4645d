"""A conversation as input items of OpenAI's Responses API: pure functions from our messages.

The form is that of the API reference ("Create a model response"). Earlier messages are rendered the same when a
conversation grows, so a server's prefix cache holds.
"""

from __future__ import annotations

import mimetypes
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentkit.files import FileKind, kind_of, readable
from agentkit.messages import (
    BinaryContent,
    Content,
    ContentItem,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.models.openai.call_arguments import sendable_arguments
from agentkit.models.openai.kept_items import MESSAGE, KeptFields, KeptReasoning, kept_fields

SENDABLE_KINDS: frozenset[FileKind] = frozenset({"image", "document"})
"""Kinds of files that the API takes."""
Item = dict[str, Any]
"""An input item, or a part of its content."""


@dataclass(frozen=True, slots=True)
class Reader:
    """The model that will read the conversation."""

    provider: str = "openai"
    """Provider, as in `Model.provider`; signatures of other providers are not sent."""
    server: str = ""
    """Host; reasoning that another server made is not sent."""
    reads_encrypted: bool = True
    """True if encrypted reasoning is sent back."""
    kinds: frozenset[FileKind] = SENDABLE_KINDS
    """Kinds of files that it reads; a note stands for others."""


OPENAI_READER = Reader()
"""Reader of conversations without kept reasoning."""


def split_instructions(messages: Sequence[ModelMessage]) -> tuple[str, Sequence[ModelMessage]]:
    """Return the system prompt at the beginning of a conversation, and the messages without it.

    A conversation of nothing else keeps it, because a request without input is refused.
    """
    first = messages[0] if messages else None
    if not isinstance(first, ModelRequest):
        return "", messages
    leading: list[str] = []
    for part in first.parts:
        if not isinstance(part, SystemPromptPart):
            break
        leading.append(part.content)
    if len(leading) == len(first.parts) and len(messages) == 1:
        return "", messages
    return "\n\n".join(leading), (ModelRequest(first.parts[len(leading) :]), *messages[1:])


def input_items(messages: Sequence[ModelMessage], reader: Reader = OPENAI_READER) -> list[Item]:
    """Return the conversation as input items."""
    items: list[Item] = []
    for message in messages:
        if isinstance(message, ModelRequest):
            items.extend(_request_items(message, reader))
        else:
            items.extend(_response_items(message, reader))
    return items


def _request_items(request: ModelRequest, reader: Reader) -> list[Item]:
    """Return answers to calls first, for they must follow the calls directly; adjacent system parts become one."""
    answers: list[Item] = []
    others: list[Item] = []
    for part in request.parts:
        if isinstance(part, ToolReturnPart):
            answers.append(_answer(part.tool_call_id, _content(part.content, reader)))
        elif isinstance(part, RetryPromptPart) and part.tool_call_id:
            answers.append(_answer(part.tool_call_id, part.content))
        elif isinstance(part, SystemPromptPart):
            if others and others[-1]["role"] == "system":
                others[-1]["content"] += "\n\n" + part.content
            else:
                others.append(_message("system", part.content))
        elif isinstance(part, UserPromptPart):
            others.append(_message("user", _content(part.content, reader)))
        else:
            others.append(_message("user", part.content))
    return answers + others


def _message(role: str, content: str | list[Item]) -> Item:
    return {"type": "message", "role": role, "content": content}


def _answer(call_id: str, output: str | list[Item]) -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def _response_items(response: ModelResponse, reader: Reader) -> list[Item]:
    """Return the items of an earlier response.

    Encrypted reasoning is sent only if the item that it led to follows; a history processor may have removed it.
    """
    items: list[Item] = []
    reasoning: KeptReasoning | None = None
    ids: dict[str, str] = {}
    phase: str | None = None
    for part in response.parts:
        if isinstance(part, ThinkingPart):
            kept = _readable(kept_fields(part, reader.provider, reader.server), reader)
            phase = kept.phase
            if kept.reasoning is not None:
                reasoning, ids = kept.reasoning, {}
            continue
        if isinstance(part, TextPart) and not part.content:
            continue
        key = part.tool_call_id if isinstance(part, ToolCallPart) else MESSAGE
        if reasoning is not None and (not reasoning.encrypted_content or reasoning.following[0][0] == key):
            items.append(reasoning.as_input())
            ids = dict(reversed(reasoning.following))
        reasoning = None
        item_id = ids.pop(key, "")
        if isinstance(part, ToolCallPart):
            items.append(_call(part, item_id))
        else:
            items.append(_said(part.content, item_id, phase))
            phase = None
    return items


def _readable(kept: KeptFields, reader: Reader) -> KeptFields:
    if kept.reasoning is not None and kept.reasoning.encrypted_content and not reader.reads_encrypted:
        return KeptFields(phase=kept.phase)
    return kept


def _said(text: str, item_id: str, phase: str | None) -> Item:
    """Return a message of the assistant; the id of an item belongs to the long form."""
    fields = {"phase": phase} if phase else {}
    if not item_id:
        return {**_message("assistant", text), **fields}
    content: list[Item] = [{"type": "output_text", "text": text, "annotations": []}]
    return {**_message("assistant", content), "id": item_id, "status": "completed", **fields}


def _call(part: ToolCallPart, item_id: str) -> Item:
    return {
        "type": "function_call",
        **({"id": item_id} if item_id else {}),
        "call_id": part.tool_call_id,
        "name": part.tool_name,
        "arguments": sendable_arguments(part.arguments),
    }


def _content(content: Content, reader: Reader) -> str | list[Item]:
    """Return a prompt or a tool's result: text as a string, text and files as parts."""
    shown = readable(content, reader.kinds)
    return shown if isinstance(shown, str) else [_part(item) for item in shown]


def _part(item: ContentItem) -> Item:
    if isinstance(item, str):
        return {"type": "input_text", "text": item}
    if not isinstance(item, BinaryContent):
        return {"type": "input_text", "text": item.note}
    url = f"data:{item.media_type};base64,{b64encode(item.data).decode()}"
    if kind_of(item) == "image":
        return {"type": "input_image", "image_url": url, "detail": "auto"}
    return {"type": "input_file", "filename": item.name or _file_name(item.media_type), "file_data": url}


def _file_name(media_type: str) -> str:
    """Return a name with the type's extension, by which the server chooses how to read the file."""
    return f"file{mimetypes.guess_extension(media_type, strict=False) or ''}"
