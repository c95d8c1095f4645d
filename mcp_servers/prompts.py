"""Prompts: tasks that a person picks in a client, with arguments filled in by the server.

A prompt is a function, as a tool is: its name, first docstring paragraph, and its arguments, which are texts
(MCP, Prompts). It returns a text for the user's message, or several messages. Prompts are for people, so they are
few and none is needed to use the tools.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError
from pydantic.fields import FieldInfo

from mcp_servers.answers import bounded_failure, bounded_text
from mcp_servers.completion import Completer
from mcp_servers.failures import ToolFailure, suggestion
from mcp_servers.hidden import visible
from mcp_servers.limited_calls import limited_call
from mcp_servers.resources import refusals_told

MAX_ARGUMENT_CHARS = 10_000
"""Characters of one argument of a prompt."""

Messages = str | Sequence[types.PromptMessage]
PromptFunction = Callable[..., Messages] | Callable[..., Awaitable[Messages]]


@dataclass(frozen=True)
class Prompt:
    """A function with the definition it publishes."""

    function: PromptFunction
    definition: types.Prompt
    completers: Mapping[str, Completer]


def prompt(function: PromptFunction, completers: Mapping[str, Completer] | None = None) -> Prompt:
    """Build a prompt from a function's name, first docstring paragraph and signature.

    Args:
        function: Its parameters are texts, described by `Annotated[str, Field(description=...)]`; one without a
            default value is required.
        completers: Completers by the name of the argument.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    arguments = [
        types.PromptArgument(
            name=name, description=_description(each.annotation), required=each.default is each.empty
        )
        for name, each in parameters.items()
    ]
    definition = types.Prompt(
        name=function.__name__,
        description=" ".join((inspect.getdoc(function) or "").split("\n\n")[0].split()),
        arguments=arguments,
    )
    return Prompt(function, definition, completers or {})


def offer_prompts(server: Server[Any], prompts: Sequence[Prompt], limiter: anyio.CapacityLimiter) -> None:
    """Make `server` answer `prompts/list` and `prompts/get`."""
    by_name = {each.definition.name: each for each in prompts}

    async def list_prompts(ctx: object, params: object) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=[each.definition for each in prompts])

    async def get_prompt(
        ctx: ServerRequestContext[Any], params: types.GetPromptRequestParams
    ) -> types.GetPromptResult:
        found = by_name.get(params.name)
        if found is None:
            hint = f"{suggestion(params.name, by_name)} The prompts are: {', '.join(by_name)}."
            text = f"Unknown prompt {params.name[:200]!r}.{hint}"
            raise MCPError(types.INVALID_PARAMS, visible(bounded_failure(text)))
        with refusals_told(types.INVALID_PARAMS):
            arguments = _checked(params.arguments or {}, found.definition)
            messages = await limited_call(limiter, _messages, found.function, **arguments)
        return types.GetPromptResult(description=found.definition.description, messages=messages)

    server.add_request_handler("prompts/list", types.PaginatedRequestParams, list_prompts)
    server.add_request_handler("prompts/get", types.GetPromptRequestParams, get_prompt)


def _description(annotation: Any) -> str | None:
    if get_origin(annotation) is not Annotated:
        return None
    return next((each.description for each in get_args(annotation) if isinstance(each, FieldInfo)), None)


def _checked(given: Mapping[str, str], definition: types.Prompt) -> dict[str, str]:
    """Return the arguments.

    Raises:
        ToolFailure: One is unknown, missing or too long.
    """
    known = {each.name: each for each in definition.arguments or ()}
    for name, value in given.items():
        if name not in known:
            listed = ", ".join(known) or "none"
            raise ToolFailure(
                f"{definition.name}: unknown argument {name[:200]!r}.{suggestion(name, known)} Its arguments: "
                f"{listed}."
            )
        if len(value) > MAX_ARGUMENT_CHARS:
            raise ToolFailure(
                f"{definition.name}: argument {name!r} has {len(value):,} characters; at most "
                f"{MAX_ARGUMENT_CHARS:,} are allowed."
            )
    if missing := [name for name, each in known.items() if each.required and name not in given]:
        raise ToolFailure(f"{definition.name}: missing argument {missing[0]!r}.")
    return dict(given)


def _messages(made: Messages) -> list[types.PromptMessage]:
    if not isinstance(made, str):
        return list(made)
    content = types.TextContent(type="text", text=visible(bounded_text(made)))
    return [types.PromptMessage(role="user", content=content)]
