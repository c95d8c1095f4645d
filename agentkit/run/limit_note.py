"""Note to the model in its last turn at a limit: part of that request, never of the history.

In the history, the note would tell later turns that no tool can be called. As a separate message after tool
results, it would be rejected by templates and servers that expect the assistant there (Mistral's API, chat
templates that accept a system message only at the beginning). So it is appended to the last part of the one
request that it applies to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentkit.messages import ModelMessage, ModelRequest, UserPromptPart
from agentkit.run.state import RunState


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
