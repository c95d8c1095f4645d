"""Tools whose published schema is exactly what they accept.

`MCPServer` of mcp 2.3 turns `"1"` into 1, parses JSON inside strings and drops unknown arguments. A model is
therefore never told about a wrong call, and a grammar made from the published schema disagrees with the server.
Here one pydantic model per tool (strict, extra forbidden) gives both the schema and the check. The tools run on
the low-level `Server`, which leaves validation to the caller and does not change error texts.

A result has two forms, as in the reference servers: `structured_content` for programs, and a short plain text for
the model, which reads a file better without JSON escapes.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import anyio
import anyio.to_thread
import mcp_types as types
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.json_schema import GenerateJsonSchema

from mcp_servers import __version__
from mcp_servers.answers import bounded_data, bounded_failure, bounded_text
from mcp_servers.completion import offer_completion
from mcp_servers.current_request import serving_request
from mcp_servers.failures import ToolFailure, suggestion
from mcp_servers.hidden import visible
from mcp_servers.limited_calls import limited_call
from mcp_servers.long_calls import reporting
from mcp_servers.prompts import Prompt, offer_prompts
from mcp_servers.resources import Resources, offer_resources
from mcp_servers.tool_result import ToolResult
from mcp_servers.watching import POLL_S, Watcher, offer_subscriptions

MAX_PARALLEL_CALLS = 4
"""Calls that run at once; more wait. It bounds memory and descriptors to this multiple of one call's limits."""
MAX_VALUES = 10_000
"""Values in the arguments of one call; the largest argument of any tool is 500 texts.

Each invalid value takes some microseconds on the event loop.
"""
# Mistakes explained in one answer: more do not help, and searching for similar names takes time.
MAX_EXPLAINED = 10
# The tool list never changes while a server runs; five minutes of caching save repeated listings.
TOOL_LIST_TTL_MS = 300_000

READS = types.ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
ADDS = types.ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
CHANGES = types.ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False
)
READS_THE_WEB = types.ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=True
)


ToolFunction = Callable[..., ToolResult] | Callable[..., Awaitable[ToolResult]]
"""Function of a tool. A synchronous one runs on a worker thread; a coroutine runs on the event loop."""


@dataclass(frozen=True)
class StrictTool:
    """A function with the model that checks its arguments and the definition it publishes."""

    function: ToolFunction
    arguments: type[BaseModel]
    definition: types.Tool

    def parse(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return keyword arguments for the function.

        Raises:
            ToolFailure: An argument is unknown, missing or of the wrong type, or there are too many values.
        """
        if _is_larger(arguments, MAX_VALUES):
            raise ToolFailure(
                f"{self.definition.name}: the arguments hold more than {MAX_VALUES:,} values. Make several calls."
            )
        try:
            parsed = self.arguments.model_validate(arguments)
        except ValidationError as error:
            raise ToolFailure(_explain_arguments(error, self.definition)) from error
        return {name: getattr(parsed, name) for name in type(parsed).model_fields}


def _is_larger(value: dict[str, Any], max_values: int) -> bool:
    """Return whether data contain more than `max_values` values; lists and objects count too."""
    waiting: list[Any] = [value]
    n_values = 0
    while waiting and n_values <= max_values:
        inner = waiting.pop()
        n_values += len(inner)
        members = inner.values() if isinstance(inner, dict) else inner
        waiting += [member for member in islice(members, max_values) if isinstance(member, dict | list)]
    return n_values > max_values


class _PlainSchema(GenerateJsonSchema):
    """JSON Schema without the generated titles: they repeat the names and use up a model's context."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: Any) -> Any:
        json_schema = super().model_schema(schema)
        json_schema.pop("title", None)
        json_schema.pop("description", None)
        return json_schema


def strict_tool(function: ToolFunction, annotations: types.ToolAnnotations) -> StrictTool:
    """Build a tool from a function's name, first docstring paragraph, signature and return annotation.

    Model and schemas of a method are made once: they take milliseconds, and a program may start many servers.
    """
    base = inspect.unwrap(function)
    base = getattr(base, "__func__", base)
    name = getattr(base, "__qualname__", "<locals>")
    if "<locals>" in name:  # another function each time
        arguments, definition = _described(function)
    else:
        if base not in _descriptions:
            _descriptions[base] = _described(function)
        arguments, definition = _descriptions[base]
    return StrictTool(function, arguments, definition.model_copy(update={"annotations": annotations}))


_descriptions: dict[Any, tuple[type[BaseModel], types.Tool]] = {}
"""Result of `_described` by the function of a module or a class, without the object to which it is bound."""


def _described(function: ToolFunction) -> tuple[type[BaseModel], types.Tool]:
    """Return the model of a function's arguments, and its definition without annotations."""
    signature = inspect.signature(function, eval_str=True)
    fields: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in signature.parameters.items()
    }
    name = getattr(function, "__name__", "")
    arguments = create_model(name, __config__=ConfigDict(extra="forbid", strict=True), **fields)
    description = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
    definition = types.Tool(
        name=name,
        description=description,
        input_schema=arguments.model_json_schema(schema_generator=_PlainSchema),
        output_schema=signature.return_annotation.model_json_schema(
            schema_generator=_PlainSchema, mode="serialization"
        ),
    )
    return arguments, definition


def strict_server(
    name: str,
    *,
    instructions: str,
    tools: Sequence[StrictTool],
    resources: Resources | None = None,
    prompts: Sequence[Prompt] = (),
    on_close: Callable[[], None] | None = None,
    on_close_async: Callable[[], Awaitable[None]] | None = None,
    poll_s: float = POLL_S,
) -> Server[Any]:
    """Serve `tools`, `resources` and `prompts`, with completion of their arguments.

    Args:
        name: Name of the server.
        instructions: Text for the model about all tools.
        tools: The tools.
        resources: The resources; with a `state` clients can subscribe to them.
        prompts: The prompts.
        on_close: Runs on a thread when a connection's lifespan ends.
        on_close_async: Runs before `on_close`.
        poll_s: Seconds between two looks at the resources to which clients subscribed.
    """
    by_name = {tool.definition.name: tool for tool in tools}
    limiter = anyio.CapacityLimiter(MAX_PARALLEL_CALLS)

    async def list_tools(ctx: object, params: object) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[tool.definition for tool in tools])

    async def call_tool(
        ctx: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        tool = by_name.get(params.name)
        if tool is None:
            # The specification makes an unknown tool a protocol error; a grammar cannot produce such a call.
            raise MCPError(types.INVALID_PARAMS, _failure_text(_unknown_tool(params.name, by_name)))
        try:
            arguments = tool.parse(params.arguments or {})
            with reporting(ctx.session.report_progress), serving_request(ctx):
                return await limited_call(limiter, _answer, tool.function, **arguments)
        except ToolFailure as failure:
            return _error_result(str(failure))

    @asynccontextmanager
    async def lifespan(server: Server[Any]) -> AsyncIterator[Watcher | None]:
        try:
            async with AsyncExitStack() as stack:
                yield await _started(resources, poll_s, stack)
        finally:
            with anyio.CancelScope(shield=True):
                if on_close_async is not None:
                    await on_close_async()
                if on_close is not None:
                    await anyio.to_thread.run_sync(on_close)

    server = Server[Any](
        name,
        version=__version__,
        instructions=instructions,
        cache_hints={"tools/list": CacheHint(ttl_ms=TOOL_LIST_TTL_MS)},
        lifespan=lifespan,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    templates = resources.templates if resources is not None else ()
    if resources is not None:
        offer_resources(server, resources, limiter)
        if resources.state is not None:
            offer_subscriptions(server)
    if prompts:
        offer_prompts(server, prompts, limiter)
    completers = {("resource", each.uri_template): each.completers for each in templates} | {
        ("prompt", each.definition.name): each.completers for each in prompts
    }
    if any(completers.values()):
        offer_completion(server, completers, limiter)
    return server


async def _started(resources: Resources | None, poll_s: float, stack: AsyncExitStack) -> Watcher | None:
    """Start watching resources until `stack` is closed; None if clients cannot subscribe."""
    if resources is None or resources.state is None:
        return None
    watcher = Watcher(resources.state, poll_s)
    tasks = await stack.enter_async_context(anyio.create_task_group())
    stack.callback(tasks.cancel_scope.cancel)
    tasks.start_soon(watcher.run)
    return watcher


def _answer(result: ToolResult) -> types.CallToolResult:
    """Return a result as sent to the client, within the size bound of all answers."""
    content = [
        block.model_copy(update={"text": bounded_text(block.text)})
        if isinstance(block, types.TextContent)
        else block
        for block in result.as_content()
    ]
    return types.CallToolResult(content=content, structured_content=bounded_data(result.model_dump(mode="json")))


def _error_result(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=_failure_text(text))], is_error=True)


def _failure_text(text: str) -> str:
    """Return a failure text as sent to the client: short, and without hidden characters from quoted input."""
    return visible(bounded_failure(text))


def _unknown_tool(name: str, known: dict[str, StrictTool]) -> str:
    return f"Unknown tool {name!r}.{suggestion(name, known)} The tools are: {', '.join(known)}."


def _explain_arguments(error: ValidationError, definition: types.Tool) -> str:
    """Describe the wrong arguments and list the known ones, without pydantic's links and type codes."""
    problems: list[str] = []
    mistyped: dict[str, list[str]] = {}  # a union reports one message per member type
    for item in error.errors(include_url=False, include_input=False)[:MAX_EXPLAINED]:
        name, siblings = _place(item["loc"], definition.input_schema)
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown argument {name!r}.{suggestion(str(item['loc'][-1]), siblings)}")
        elif item["type"] == "missing":
            problems.append(f"missing argument {name!r}.")
        else:
            mistyped.setdefault(name, []).append(item["msg"].removeprefix("Input "))
    problems += [f"argument {name!r} {' or '.join(messages)}." for name, messages in mistyped.items()]
    if (n_more := error.error_count() - MAX_EXPLAINED) > 0:
        problems.append(f"{n_more:,} more mistakes.")
    return f"{definition.name}: {' '.join(problems)} Its arguments: {_signature(definition.input_schema)}."


def _place(location: Sequence[int | str], schema: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the position of an error, such as `entities.0.name`, and the names that are known there.

    Pydantic ends a location with the name of a union's member, which is not part of the arguments; it is left out.
    """
    parts: list[str] = []
    known: list[str] = []
    here = schema
    for part in location:
        here = schema["$defs"][here["$ref"].removeprefix("#/$defs/")] if "$ref" in here else here
        if isinstance(part, str) and "properties" not in here:
            break
        parts.append(str(part))
        known = [*here.get("properties", known)]
        here = here.get("items", {}) if isinstance(part, int) else here["properties"].get(part, {})
    return ".".join(parts), known


def _signature(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    parts = [
        f"{name} ({_kind(value, schema)}{'' if name in required else ', optional'})"
        for name, value in schema.get("properties", {}).items()
    ]
    return ", ".join(parts) or "none"


def _kind(value: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return a type in one word; for a list of objects, with their keys."""
    reference = value.get("items", {}).get("$ref")
    if reference is None:
        return value.get("type", "value")
    return f"array of {{{', '.join(schema['$defs'][reference.removeprefix('#/$defs/')]['properties'])}}}"
