"""What a model is told in its last turn at a limit: part of that request, never of the history.

Kept in the history, the note would tell later turns that no tool can be called. As a message of its own behind
results of tools it would be refused by templates and servers that expect the assistant there (Mistral's API, chat
templates that take a system message only at the beginning). So it stands at the end of the text that the model
reads last, in the one request that it is true of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentkit.messages import ModelMessage, ModelRequest, UserPromptPart
from agentkit.state import RunState


def limit_note(state: RunState) -> str | None:
    """Return what is said in a turn without tools; None before the first response, which nothing has cut short."""
    if state.limit is None or not state.step:
        return None
    return f"[The limit {state.limit} is reached. Answer now with what you have; no tool can be called.]"


def with_note(messages: Sequence[ModelMessage], note: str | None) -> Sequence[ModelMessage]:
    """Return the conversation with a note at the end of its last part."""
    if note is None:
        return messages
    last = messages[-1] if messages else None
    if not isinstance(last, ModelRequest) or not last.parts:
        return (*messages, ModelRequest((UserPromptPart(note),)))
    part = replace(last.parts[-1], content=f"{last.parts[-1].content}\n\n{note}")
    return (*messages[:-1], replace(last, parts=(*last.parts[:-1], part)))
