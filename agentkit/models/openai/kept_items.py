"""Fields of Responses items that must go back to their server: kept in the signature of a `ThinkingPart`.

With `store: false` the server keeps nothing, so a reasoning item returns whole. Its encrypted content is bound to
its id, and the item that it led to must follow under its own id; otherwise the request is refused ("reasoning was
provided without its required following item"). So the ids of the items that follow are kept with the reasoning.
They are sent with it or not at all, because the id of a message or call demands the reasoning in the same way. The
`phase` of a message (commentary or final answer) has no place in a `TextPart`, so the part before it carries it.

Encrypted content is readable only for the server that wrote it, so a signature names that server.
Source: https://developers.openai.com/api/docs/guides/reasoning, "Encrypted reasoning items".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from agentkit.messages import ThinkingPart

MESSAGE = "message"
"""Stands for a message among the items that follow."""


@dataclass(frozen=True, slots=True)
class KeptReasoning:
    """A reasoning item of an earlier response."""

    id: str
    summary: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    """Reasoning text of open models; OpenAI's is encrypted."""
    encrypted_content: str | None = None
    following: tuple[tuple[str, str], ...] = ()
    """Items up to the next reasoning: the id of the call, or MESSAGE, and the id of the item.

    Open reasoning demands no ids; they are empty then, because some servers refuse ids.
    """

    @property
    def is_sendable(self) -> bool:
        """Whether the item holds what a server needs to read it again."""
        return bool(self.id and self.following and (self.encrypted_content or self.content))

    def as_input(self) -> dict[str, Any]:
        """Return the item as input of a request."""
        item: dict[str, Any] = {
            "type": "reasoning",
            "id": self.id,
            "summary": [{"type": "summary_text", "text": text} for text in self.summary],
        }
        if self.encrypted_content:
            item["encrypted_content"] = self.encrypted_content
        elif self.content:
            item["content"] = [{"type": "reasoning_text", "text": text} for text in self.content]
        return item


@dataclass(frozen=True, slots=True)
class KeptFields:
    """Content of a signature."""

    reasoning: KeptReasoning | None = None
    phase: str | None = None
    """Phase of the message that follows."""


def signature_of(server: str, kept: KeptFields) -> str | None:
    """Return the signature that keeps these fields for `server`, its host; None if nothing is kept."""
    fields: dict[str, Any] = {"server": server}
    reasoning = kept.reasoning
    if reasoning is not None and reasoning.is_sendable:
        fields |= {"id": reasoning.id, "summary": reasoning.summary, "following": reasoning.following}
        if reasoning.encrypted_content:
            fields["encrypted_content"] = reasoning.encrypted_content
        else:
            fields["content"] = reasoning.content
    if kept.phase:
        fields["phase"] = kept.phase
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) if len(fields) > 1 else None


def kept_fields(part: ThinkingPart, provider: str, server: str) -> KeptFields:
    """Return the fields that a part keeps for `server`; empty for another server's part, or an unreadable one."""
    if part.signature is None or part.provider != provider:
        return KeptFields()
    try:
        parsed: Any = json.loads(part.signature)
    except (ValueError, RecursionError):
        return KeptFields()
    if not isinstance(parsed, dict):
        return KeptFields()
    fields = cast("dict[str, Any]", parsed)
    if fields.get("server") != server:
        return KeptFields()
    item_id, encrypted, phase = (fields.get(name) for name in ("id", "encrypted_content", "phase"))
    reasoning = None
    if isinstance(item_id, str):
        encrypted = encrypted if isinstance(encrypted, str) else None
        found = KeptReasoning(
            item_id,
            _texts(fields.get("summary")),
            _texts(fields.get("content")),
            encrypted,
            _pairs(fields.get("following")),
        )
        reasoning = found if found.is_sendable else None
    return KeptFields(reasoning, phase if isinstance(phase, str) else None)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(text for text in cast("list[Any]", value) if isinstance(text, str))


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    pairs = [_texts(pair) for pair in cast("list[Any]", value)] if isinstance(value, list) else []
    return tuple((pair[0], pair[1]) for pair in pairs if len(pair) == 2)
