"""Runs that continue a given conversation in another way: forks of a run, or of a trace.

A client sends the messages up to the one that the model has to answer. That message may be changed before: other
words of the user, or another result of a tool. Nothing of the earlier run is repeated, and no permission of it is
passed on. A fork with results of tools counts as tainted, because nobody knows where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, ValidationError
from pydantic_core import to_json

from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ToolReturnPart,
    UserPromptPart,
    messages_from_json,
    text_of,
)
from agentkit.run.state import RunState
from agentkit.serving.errors import RequestRefused
from modelstack.inference.server.bodies import Body


class ForkBody(Body):
    """Request for a fork."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    """Conversation in the form of `GET /sessions/ID`; the model answers the last message."""
    run_id: str | None = None
    """Run whose files the messages refer to."""
    timeout_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    def conversation(self) -> tuple[ModelMessage, ...]:
        """Return the messages.

        Raises:
            RequestRefused: they are not a conversation that a model can answer.
        """
        try:
            messages = messages_from_json(to_json(self.messages))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise RequestRefused("unprocessable", f"messages.{where}: {first['msg']}.") from error
        if not isinstance(messages[-1], ModelRequest) or not words_of(messages):
            raise RequestRefused(
                "unprocessable", "messages must have words of the user, and end with a message to the model."
            )
        _require_answers(messages)
        return messages


def _require_answers(messages: Sequence[ModelMessage]) -> None:
    """Check that each call has its result in the next message.

    Raises:
        RequestRefused: A call has none.
    """
    for response, request in zip(messages, messages[1:], strict=False):
        if isinstance(response, ModelResponse):
            answered = {getattr(part, "tool_call_id", None) for part in request.parts}
            if left := [call.tool_call_id for call in response.tool_calls if call.tool_call_id not in answered]:
                text = f"the call {left[0]!r} has no result in the next message; a fork begins behind results."
                raise RequestRefused("unprocessable", text)


def words_of(messages: Sequence[ModelMessage]) -> str:
    """Return the user's last words in a conversation; empty if there are none."""
    index = _last_prompt(messages)
    parts = messages[index].parts if index is not None else ()
    return "\n".join(text_of(part.said) for part in parts if isinstance(part, UserPromptPart))


def forked_state(new: RunState, messages: tuple[ModelMessage, ...]) -> RunState:
    """Return the state of a new run whose model answers the last of some messages."""
    n_history = _last_prompt(messages) or 0
    return new.changed(
        messages=messages,
        n_history=n_history,
        step=sum(isinstance(each, ModelResponse) for each in messages[n_history:]),
        tainted=any(isinstance(part, ToolReturnPart) for each in messages for part in each.parts),
    )


def _last_prompt(messages: Sequence[ModelMessage]) -> int | None:
    """Return the index of the last message with words of the user."""
    has_words = [
        index for index, each in enumerate(messages) if any(isinstance(p, UserPromptPart) for p in each.parts)
    ]
    return has_words[-1] if has_words else None
