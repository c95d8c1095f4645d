"""Text that is sent with a request and never stored: an agent's instructions, and the note at a limit.

Instructions are resolved for each request and sent before the conversation.

A stored conversation belongs to no agent: the agent that continues it (with changed instructions, after a
hand-off, or in another application) follows its own instructions. pydantic-ai makes the same distinction between
`instructions` and `system_prompt`.

Conversations of earlier versions contain instructions at the beginning of their first message. An agent with its
own instructions replaces them in the request; the stored message does not change.

The note tells the model that this is its last turn. In the history, it would tell later turns that no tool can be
called. As a separate message after tool results, it would be rejected by templates and servers that expect the
assistant there (Mistral's API, chat templates that accept a system message only at the beginning). So it is
appended to the last part of the one request that it applies to.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from agentkit.basics.well_formed import well_formed
from agentkit.context import RunContext
from agentkit.messages import ModelMessage, ModelRequest, SystemPromptPart, UserPromptPart
from agentkit.run.state import RunState
from agentkit.tools.toolset import Toolset, overriding

Instructions = str | Callable[[RunContext[Any]], "str | Awaitable[str]"]
"""System text, or a function of the run's context that returns it."""

_N_REMEMBERED = 64
"""Number of conversations whose first message is cached; the same number as in `models.transcript`."""


async def resolved(
    instructions: Instructions | None, toolsets: Sequence[Toolset], context: Callable[[], RunContext[Any]]
) -> str | None:
    """Return the text for the next request, of the agent and then of its toolsets; None if there is none.

    `context` is called only for functions.
    """
    if callable(instructions):
        given = instructions(context())
        instructions = await given if inspect.isawaitable(given) else given
    added = [await each.instructions(context()) for each in overriding(toolsets, "instructions")]
    text = "\n\n".join(each for each in (instructions, *added) if each)
    return well_formed(text) if text else None


def instructed(messages: Sequence[ModelMessage], text: str | None) -> Sequence[ModelMessage]:
    """Return a conversation with the instructions at the beginning of its first message.

    Equal text before the same first message yields the same object each time, so that the cache of a model in this
    process stays valid.
    """
    if text is None or not messages:
        return messages
    opening = _opening(_Same(messages[0]), text)
    return messages if opening[0] is messages[0] else (*opening, *messages[1:])


def limit_note(state: RunState) -> str | None:
    """Return the note for the last turn at a limit; None without a limit, and before the first response."""
    if state.limit is None or not state.step:
        return None
    return f"[The limit {state.limit} is reached. Answer now with what you have; no tool can be called.]"


def with_note(messages: Sequence[ModelMessage], note: str | None) -> Sequence[ModelMessage]:
    """Return the conversation with `note` appended to its last part."""
    if note is None:
        return messages
    last = messages[-1] if messages else None
    if not isinstance(last, ModelRequest) or not last.parts:
        return (*messages, ModelRequest((UserPromptPart(note),)))
    part = replace(last.parts[-1], content=f"{last.parts[-1].content}\n\n{note}")
    return (*messages[:-1], replace(last, parts=(*last.parts[:-1], part)))


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
