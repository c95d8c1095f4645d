"""Thoughts that a provider refused to read again, so that they are not sent a second time.

A provider refuses a signed thought for good: the conversation before it has changed, or it belongs to another
organisation's key. Without a memory each later request would fail first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from agentkit.messages import ModelMessage, ModelResponse, ModelResponsePart, ThinkingPart

MAX_REMEMBERED = 10_000
"""Thoughts that are remembered. The oldest are forgotten first; they are refused once more at worst."""


class RefusedThoughts:
    """The refused thoughts of one model, by the hashes of their signatures."""

    def __init__(self) -> None:
        """Start without any."""
        self._hashes: dict[bytes, None] = {}

    def add_all_of(self, messages: Sequence[ModelMessage]) -> None:
        """Remember every signed thought of a conversation."""
        for message in messages:
            if isinstance(message, ModelResponse):
                self._hashes.update((_hash(part), None) for part in message.parts if _is_signed(part))
        while len(self._hashes) > MAX_REMEMBERED:
            del self._hashes[next(iter(self._hashes))]

    def removed_from(self, messages: Sequence[ModelMessage]) -> Sequence[ModelMessage]:
        """Return a conversation without the remembered thoughts."""
        if not self._hashes:
            return messages
        return [
            replace(message, parts=tuple(part for part in message.parts if not self._has(part)))
            if isinstance(message, ModelResponse)
            else message
            for message in messages
        ]

    def _has(self, part: ModelResponsePart) -> bool:
        return _is_signed(part) and _hash(part) in self._hashes


def _is_signed(part: ModelResponsePart) -> bool:
    return isinstance(part, ThinkingPart) and part.signature is not None


def _hash(part: ModelResponsePart) -> bytes:
    signature = part.signature if isinstance(part, ThinkingPart) else None
    return sha256((signature or "").encode("utf-8", "replace")).digest()
