"""Deferred tools that a conversation has found: in the additions of its prompts and in the results of a search.

What was found is a function of the conversation alone, so it holds for a resumed run, a session, a hand-off and
another process. `agentkit.tools.tool_search` finds the tools; `agentkit.run.offer` offers them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from agentkit.messages import ModelMessage, ModelRequest, ToolReturnPart, UserPromptPart

SEARCH_TOOL = "search_tools"
"""Name of the tool that searches; the results of other tools cannot load a tool."""
FOUND_KEY = "found_tools"
"""Key of the found names in the data of a search result."""


def found_in(part: object) -> tuple[str, ...]:
    """Return the names of the tools that a part of a message has found, without repetition."""
    match part:
        case UserPromptPart(additions=additions):
            return tuple(dict.fromkeys(name for each in additions for name in each.tools))
        case ToolReturnPart(tool_name=name, data=data) if name == SEARCH_TOOL and isinstance(data, Mapping):
            names = cast("Mapping[str, Any]", data).get(FOUND_KEY)
            listed = cast("list[Any]", names) if isinstance(names, list | tuple) else []
            return tuple(dict.fromkeys(name for name in listed if isinstance(name, str)))
        case _:
            return ()


def defined_in(part: object) -> tuple[str, ...]:
    """Return the found tools whose signature begins a line of the part; others are only named there."""
    if not (found := found_in(part)):
        return ()
    lines = cast("UserPromptPart | ToolReturnPart", part).text.splitlines()
    return tuple(name for name in found if any(line.startswith(f"{name}(") for line in lines))


def found_names(shown: Sequence[ModelMessage], conversation: Sequence[ModelMessage]) -> tuple[str, ...]:
    """Return the found tools in the order in which they were found.

    A tool counts if a message of `shown` found it, or if the conversation has a result of it. So a tool that was
    found but never used is given up when its finding is summarised away; a tool in use is kept.

    Args:
        shown: The conversation as the model sees it.
        conversation: The whole conversation.
    """
    found = (name for part in _parts(shown) for name in found_in(part))
    used = (part.tool_name for part in _parts(conversation) if isinstance(part, ToolReturnPart))
    if shown is conversation:
        return tuple(dict.fromkeys(found))
    return tuple(dict.fromkeys((*used, *found)))


def _parts(messages: Sequence[ModelMessage]) -> Iterable[object]:
    return (part for message in messages if isinstance(message, ModelRequest) for part in message.parts)
