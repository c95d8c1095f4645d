"""A conversation in the form of Anthropic's Messages API: pure functions from our messages to system and messages.

The API refuses what other servers accept, so every conversation is made valid here: the first message is the
user's and the last too, roles alternate, no text is blank, each `tool_use` has its `tool_result` at the beginning
of the next message, ids and names have the characters that the API allows. Earlier messages are rendered the same
when a conversation grows, so the prompt cache holds.

A thinking block goes back unchanged with its signature (guide "Extended thinking"); thoughts that other providers
signed, and unsigned ones, are not sent.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from agentkit.errors import UserError
from agentkit.files import FileKind, readable
from agentkit.history.repair import repaired
from agentkit.messages import (
    BinaryContent,
    Content,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    text_of,
)
from agentkit.models.openai.call_arguments import sendable_arguments

PROVIDER = "anthropic"
"""Provider in OpenTelemetry's terms; signatures are kept under this name."""
REDACTED = "redacted_thinking:"
"""Mark in front of the data of a `redacted_thinking` block. Signatures are base64 and have no colon."""
CONTINUE = "Continue."
"""Text of a user's message that the alternation of roles demands and the conversation lacks."""

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""Names of tools that the API accepts."""
_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
"""Ids of calls that the API accepts; it publishes the characters, not the length."""
_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_PDF = "application/pdf"
FILE_KINDS: frozenset[FileKind] = frozenset({"image", "document"})
"""Kinds of files that the API reads."""


@dataclass(slots=True)
class ClaudeConversation:
    """A conversation in Anthropic's terms."""

    system: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Text blocks of the system prompt."""
    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def add(self, role: str, blocks: list[dict[str, Any]]) -> None:
        """Append blocks; adjacent messages of one role become one."""
        if not blocks:
            return
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"].extend(blocks)
        else:
            self.messages.append({"role": role, "content": blocks})


def claude_conversation(
    messages: Sequence[ModelMessage], kinds: Collection[str] | None = None
) -> ClaudeConversation:
    """Return the conversation as system prompt and messages; a note stands for each file not of `kinds`.

    Raises:
        UserError: a prompt holds a file of a type that Claude does not read.
    """
    conversation = ClaudeConversation()
    ids = _CallIds()
    for message in repaired(messages):
        if isinstance(message, ModelRequest):
            system = (part.content for part in message.parts if isinstance(part, SystemPromptPart))
            conversation.system.extend(_text_blocks(system))
            conversation.add("user", [*_results(message, ids, kinds), *_prompts(message, kinds)])
        else:
            conversation.add("assistant", _assistant_blocks(message, ids))
    rendered = conversation.messages
    if not rendered or rendered[0]["role"] != "user":
        rendered.insert(0, {"role": "user", "content": [{"type": "text", "text": CONTINUE}]})
    conversation.add("user", [] if rendered[-1]["role"] == "user" else [{"type": "text", "text": CONTINUE}])
    return conversation


def claude_tool_name(name: str) -> str:
    """Return the name under which Claude knows a tool: the same if its characters allow it.

    Another name is derived from the tool's name alone, so that earlier calls are rendered alike at any time.
    """
    if _TOOL_NAME.fullmatch(name):
        return name
    return f"{re.sub('[^A-Za-z0-9_-]', '_', name)[:100]}_{_digest(name)}"


class _CallIds:
    """Ids of the calls of one conversation, each valid and used once."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self.current: dict[str, str] = {}
        """Sent id of each call of the last response, by its id in our messages."""

    def add(self, call_id: str) -> str:
        sent = call_id if _CALL_ID.fullmatch(call_id) else f"call_{_digest(call_id)}"
        base, n_same = sent, 1
        while sent in self._used:
            n_same += 1
            sent = f"{base}_{n_same}"
        self._used.add(sent)
        self.current[call_id] = sent
        return sent


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _text_blocks(texts: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text} for text in texts if text.strip()]


def _prompts(request: ModelRequest, kinds: Collection[str] | None) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for part in request.parts:
        is_result = isinstance(part, ToolReturnPart | RetryPromptPart) and part.tool_call_id is not None
        if not is_result and not isinstance(part, SystemPromptPart):
            blocks.extend(_content_blocks(part.content, kinds))
    return blocks


def _results(request: ModelRequest, ids: _CallIds, kinds: Collection[str] | None) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    for part in request.parts:
        if not isinstance(part, ToolReturnPart | RetryPromptPart) or part.tool_call_id is None:
            continue
        result: dict[str, Any] = {"type": "tool_result", "tool_use_id": ids.current[part.tool_call_id]}
        is_error = isinstance(part, RetryPromptPart) or part.is_error
        # "all content must be type `text` if `is_error` is true"
        content = text_of(part.content) if is_error else part.content
        blocks = _content_blocks(content, FILE_KINDS if kinds is None else kinds)
        if blocks:
            result["content"] = blocks
        if is_error:
            result["is_error"] = True
        results.append(result)
    return results


def _content_blocks(content: Content, kinds: Collection[str] | None) -> list[dict[str, Any]]:
    content = readable(content, kinds)
    blocks: list[dict[str, Any]] = []
    for item in (content,) if isinstance(content, str) else content:
        if isinstance(item, BinaryContent):
            blocks.append(_file_block(item))
        else:
            blocks.extend(_text_blocks((item if isinstance(item, str) else item.note,)))
    return blocks


def _file_block(file: BinaryContent) -> dict[str, Any]:
    source = {"type": "base64", "media_type": file.media_type, "data": b64encode(file.data).decode()}
    if file.media_type in _IMAGES:
        return {"type": "image", "source": source}
    if file.media_type == _PDF:
        title = {"title": file.name} if file.name else {}
        return {"type": "document", "source": source, **title}
    known = ", ".join([*sorted(_IMAGES), _PDF])
    raise UserError(f"Claude reads no {file.media_type} ({file.note}); convert it to one of {known}.")


def _assistant_blocks(response: ModelResponse, ids: _CallIds) -> list[dict[str, Any]]:
    """Return the blocks of a response; empty if nothing but thoughts would be left, which the API refuses.

    Calls go last: the API demands their results at once after them.
    """
    ids.current = {}
    blocks: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for part in response.parts:
        if isinstance(part, ToolCallPart):
            if part.tool_call_id not in ids.current:
                calls.append(_call_block(part, ids.add(part.tool_call_id)))
        elif isinstance(part, TextPart):
            blocks.extend(_text_blocks((part.content,)))
        elif part.signature is not None and part.provider == PROVIDER:
            blocks.append(_thinking_block(part, part.signature))
    blocks.extend(calls)
    return blocks if any(block["type"] in ("text", "tool_use") for block in blocks) else []


def _thinking_block(part: ThinkingPart, signature: str) -> dict[str, Any]:
    if signature.startswith(REDACTED):
        return {"type": "redacted_thinking", "data": signature.removeprefix(REDACTED)}
    return {"type": "thinking", "thinking": part.content, "signature": signature}


def _call_block(part: ToolCallPart, call_id: str) -> dict[str, Any]:
    name = claude_tool_name(part.tool_name)
    return {
        "type": "tool_use",
        "id": call_id,
        "name": name,
        "input": json.loads(sendable_arguments(part.arguments)),
    }
