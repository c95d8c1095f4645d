"""Prompts of a server: tasks with arguments, as messages for a run. Pure functions and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentkit.mcp.paging import MAX_NAME_CHARS, is_usable, prose, title
from agentkit.mcp.resources import GivenContent, given_content
from agentkit.mcp.results import tool_output
from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart, text_of

if TYPE_CHECKING:
    import mcp_types as types


@dataclass(frozen=True, slots=True)
class PromptArgument:
    """An argument of a prompt, which is a text."""

    name: str
    description: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that a server lists."""

    name: str
    title: str | None = None
    description: str = ""
    arguments: tuple[PromptArgument, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptMessages:
    """A prompt with its arguments filled in: messages of the user and of the model."""

    messages: tuple[ModelMessage, ...] = field(repr=False)
    """All messages. `agent.run` takes `prompt` and `history`, which are these without the last."""
    is_untrusted: bool = True
    """True unless the toolset has `trust="trusted"`; give it to a run as `tainted`."""

    @property
    def prompt(self) -> GivenContent:
        """Content of the last message if it is the user's, else empty."""
        last = self.messages[-1] if self.messages else None
        if not isinstance(last, ModelRequest):
            return ""
        contents = [part.content for part in last.parts if isinstance(part, UserPromptPart)]
        return given_content(contents[0]) if contents else ""

    @property
    def history(self) -> tuple[ModelMessage, ...]:
        """The messages before `prompt`, for `message_history`."""
        ends_with_user = bool(self.messages) and isinstance(self.messages[-1], ModelRequest)
        return self.messages[:-1] if ends_with_user else self.messages

    @property
    def text(self) -> str:
        """The text of `prompt`, with a note in place of each file."""
        return text_of(self.prompt)


def prompts_of(wire: Sequence[types.Prompt]) -> list[Prompt]:
    """Return the usable prompts of a list, in order."""
    return [
        Prompt(
            name=each.name,
            title=title(each.title),
            description=prose(each.description),
            arguments=tuple(
                PromptArgument(argument.name, prose(argument.description), bool(argument.required))
                for argument in each.arguments or ()
                if is_usable(argument.name, MAX_NAME_CHARS)
            ),
        )
        for each in wire
        if is_usable(each.name, MAX_NAME_CHARS)
    ]


def messages_of(wire: Sequence[types.PromptMessage], *, limit: int, clean: bool) -> PromptMessages:
    """Return the messages of a prompt; consecutive ones of the same role are one message.

    `limit` bounds the characters of all messages. `clean` removes hidden characters (an untrusted server). Files
    in a message of the model become notes: it wrote none.
    """
    import mcp_types as types

    turns: list[tuple[str, list[types.ContentBlock]]] = []
    for message in wire:
        if not turns or turns[-1][0] != message.role:
            turns.append((message.role, []))
        turns[-1][1].append(message.content)
    messages: list[ModelMessage] = []
    for role, blocks in turns:
        result = types.CallToolResult(content=blocks)
        content = tool_output(result, output_check=None, limit=limit, clean=clean).content
        limit = max(0, limit - len(text_of(content)))
        if role == "user":
            messages.append(ModelRequest((UserPromptPart(content),)))
        else:
            messages.append(ModelResponse((TextPart(text_of(content)),)))
    return PromptMessages(tuple(messages), is_untrusted=clean)
