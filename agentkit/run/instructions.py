"""Instructions of an agent: resolved for each request and sent before the conversation, never stored in it.

A stored conversation belongs to no agent: the agent that continues it (with changed instructions, after a
hand-off, or in another application) follows its own instructions. pydantic-ai makes the same distinction between
`instructions` and `system_prompt`.

Conversations of earlier versions contain instructions at the beginning of their first message. An agent with its
own instructions replaces them in the request; the stored message does not change.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any

from agentkit.basics.well_formed import well_formed
from agentkit.context import RunContext
from agentkit.messages import ModelMessage, ModelRequest, SystemPromptPart

Instructions = str | Callable[[RunContext[Any]], "str | Awaitable[str]"]
"""System text, or a function of the run's context that returns it."""

_N_REMEMBERED = 64
"""Number of conversations whose first message is cached; the same number as in `models.transcript`."""


async def resolved(instructions: Instructions | None, context: Callable[[], RunContext[Any]]) -> str | None:
    """Return the text for the next request; None if there is none. `context` is called only for a function."""
    if callable(instructions):
        instructions = instructions(context())  # pyright: ignore[reportAssignmentType] - awaited below
        if inspect.isawaitable(instructions):
            instructions = await instructions
    return well_formed(instructions) if instructions else None  # pyright: ignore[reportArgumentType]


def instructed(messages: Sequence[ModelMessage], text: str | None) -> Sequence[ModelMessage]:
    """Return a conversation with the instructions at the beginning of its first message.

    Equal text before the same first message yields the same object each time, so that the cache of a model in this
    process stays valid.
    """
    if text is None or not messages:
        return messages
    opening = _opening(_Same(messages[0]), text)
    return messages if opening[0] is messages[0] else (*opening, *messages[1:])


class _Same:
    """A message compared by identity: two conversations may begin with the same text and different tools."""

    __slots__ = ("message",)

    def __init__(self, message: ModelMessage) -> None:
        self.message = message

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.message is other.message

    def __hash__(self) -> int:
        return id(self.message)


@lru_cache(maxsize=_N_REMEMBERED)
def _opening(first: _Same, text: str) -> tuple[ModelMessage, ...]:
    message = first.message
    if not isinstance(message, ModelRequest):
        return ModelRequest((SystemPromptPart(text),)), message
    parts = message.parts
    if parts and isinstance(parts[0], SystemPromptPart):  # stored by an earlier version
        if parts[0].content == text:
            return (message,)
        parts = parts[1:]
    return (ModelRequest((SystemPromptPart(text), *parts)),)
