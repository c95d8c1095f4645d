"""`agentkit mcp`: a server's tools, resources and prompts, one call, the pinned definitions, and the login."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from agentkit.cli.mcp_login import login, logout
from agentkit.cli.options import AllowEnvOption, HeaderOption, JsonOption
from agentkit.errors import UserError
from agentkit.messages import text_of
from modelstack.terminal.plain_help import PlainTyper

if TYPE_CHECKING:
    from mcp_types import Tool as WireTool

    from agentkit.mcp.pins import Drift
    from agentkit.mcp.prompts import Prompt
    from agentkit.mcp.resources import ResourceContents
    from agentkit.mcp.toolset import MCPToolset
    from agentkit.messages import ModelMessage
    from agentkit.tools.definition import ToolDefinition

T = TypeVar("T")
AS_PINNED, NOT_AS_PINNED = "as pinned", "not as pinned"
MAX_DESCRIPTION_CHARS = 300
"""Characters of a tool's description in a list on a terminal."""
app = PlainTyper(
    no_args_is_help=True, help="MCP servers: list, call, resources, prompts, pin, accept, verify, log in."
)
app.command()(login)
app.command()(logout)

ServerArgument = Annotated[
    str, typer.Argument(metavar="SERVER", help="A command in quotes, a URL, or an mcpServers JSON file.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
KeyOption = Annotated[
    str | None, typer.Option("--key", help="The key of the pins beside the server: `pins_key` of the toolset.")
]


@app.command("list")
def list_tools(
    server: ServerArgument,
    key: KeyOption = None,
    header: HeaderOption = None,
    allow_env: AllowEnvOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a server's tools and compare them with their pins; no tool is called."""
    from agentkit.cli.console import count_of, one_line, print_tables
    from modelstack.terminal.tables import Column, Table, print_json

    columns = (
        Column("tool", "name"),
        Column("hints", show=", ".join),
        Column("description", show=lambda text: one_line(text, MAX_DESCRIPTION_CHARS), below=True),
    )
    servers: list[dict[str, Any]] = []
    for toolset in _toolsets(server, key, header, allow_env):
        definitions, wire = _run(toolset, _listed)
        rows = [(each.name, _hints(each), each.description) for each in definitions]
        state = _pin_state(_drift(toolset, wire))
        table = Table(columns, rows, f"{toolset.id}: {count_of(len(definitions), 'tool')}, {state}")
        servers.append({"server": toolset.id, "pins": state, "tools": table.records()})
        if not as_json:
            print_tables(table)
    if as_json:
        print_json(servers)


@app.command()
def call(
    server: ServerArgument,
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="Its name.")],
    arguments: Annotated[str, typer.Argument(metavar="JSON", help="Its arguments, an object.")] = "{}",
    key: KeyOption = None,
    header: HeaderOption = None,
    allow_env: AllowEnvOption = None,
    as_json: JsonOption = False,
) -> None:
    """Call one tool and print its result. Exit status 1: the call failed."""
    from agentkit.cli.console import output_console, plain
    from modelstack.terminal.tables import print_json

    async def calling(toolset: MCPToolset) -> tuple[str, bool]:
        from agentkit.context import RunContext
        from agentkit.errors import ModelRetry
        from agentkit.tools.tool import ToolOutput

        context = RunContext(deps=None, tool_name=tool)
        tools = {each.name: each for each in await toolset.list_tools(context)}
        if tool not in tools:
            raise UserError(f"server {toolset.id!r} has no tool {tool!r}; it has {', '.join(sorted(tools))}.")
        try:
            checked = tools[tool].validate(arguments)
        except ModelRetry as signal:
            raise UserError(f"{tool}: {signal}") from signal
        output = await tools[tool].call(checked, context)
        assert isinstance(output, ToolOutput)  # all tools of an MCP server return one
        return text_of(output.content), output.is_error

    content, is_error = _run(_only(server, key, header, allow_env), calling)
    if as_json:
        print_json({"tool": tool, "content": content, "is_error": is_error})
    else:
        output_console().print(plain(content))
    if is_error:
        raise typer.Exit(1)


@app.command()
def resources(
    server: ServerArgument,
    uri: Annotated[str | None, typer.Argument(metavar="[URI]", help="Resource to read; none: list them.")] = None,
    key: KeyOption = None,
    header: HeaderOption = None,
    allow_env: AllowEnvOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a server's resources and their templates, or read one. A file is named, not printed."""
    from agentkit.cli.console import count_of, one_line, output_console, plain, print_tables
    from modelstack.terminal.tables import Column, Table, print_json

    async def listing(toolset: MCPToolset) -> list[tuple[str, str | None, str]]:
        listed = await toolset.list_resources()
        templates = await toolset.list_resource_templates()
        return [(each.uri, each.media_type, each.description or each.name) for each in listed] + [
            (each.uri_template, each.media_type, each.description or each.name) for each in templates
        ]

    async def reading(toolset: MCPToolset) -> ResourceContents:
        return await toolset.read_resource(uri or "")

    toolset = _only(server, key, header, allow_env)
    if uri is not None:
        contents = _run(toolset, reading)
        if as_json:
            items = [(each.uri, each.media_type, each.data) for each in contents.items]
            print_json([{"uri": at, "media_type": kind, **_json_data(data)} for at, kind, data in items])
        else:
            output_console().print(plain(text_of(contents.content)))
        return
    columns = (
        Column("uri", "uri"),
        Column("type", "media_type", show=lambda kind: kind or ""),
        Column("description", show=lambda text: one_line(text, MAX_DESCRIPTION_CHARS), below=True),
    )
    rows = _run(toolset, listing)
    table = Table(columns, rows, f"{toolset.id}: {count_of(len(rows), 'resource')} and templates")
    if as_json:
        print_json(table.records())
    else:
        print_tables(table)


@app.command()
def prompts(
    server: ServerArgument,
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="Prompt to show; none: list them.")
    ] = None,
    arguments: Annotated[str, typer.Argument(metavar="[JSON]", help="Its arguments, an object of texts.")] = "{}",
    key: KeyOption = None,
    header: HeaderOption = None,
    allow_env: AllowEnvOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a server's prompts, or show the messages of one."""
    from agentkit.cli.console import count_of, one_line, output_console, plain, print_tables
    from modelstack.terminal.tables import Column, Table, print_json

    given = _texts(arguments)

    async def filled(toolset: MCPToolset) -> list[tuple[str, str]]:
        messages = (await toolset.get_prompt(prompt or "", given)).messages
        return [_said(each) for each in messages]

    async def listing(toolset: MCPToolset) -> list[Prompt]:
        return await toolset.list_prompts()

    toolset = _only(server, key, header, allow_env)
    if prompt is not None:
        messages = _run(toolset, filled)
        if as_json:
            print_json([{"role": role, "text": text} for role, text in messages])
        for role, text in () if as_json else messages:
            output_console().print(plain(f"{role}: {text}" if len(messages) > 1 else text))
        return
    columns = (
        Column("prompt", "name"),
        Column("arguments", show=", ".join),
        Column("description", show=lambda text: one_line(text, MAX_DESCRIPTION_CHARS), below=True),
    )
    rows = [
        (each.name, [f"{a.name}" if a.required else f"[{a.name}]" for a in each.arguments], each.description)
        for each in _run(toolset, listing)
    ]
    table = Table(columns, rows, f"{toolset.id}: {count_of(len(rows), 'prompt')}")
    if as_json:
        print_json(table.records())
    else:
        print_tables(table)


def _json_data(data: str | bytes) -> dict[str, str]:
    return {"text": data} if isinstance(data, str) else {"base64": b64encode(data).decode("ascii")}


def _said(message: ModelMessage) -> tuple[str, str]:
    """Return role and text of a message of a prompt."""
    if message.kind == "response":
        return "model", message.text
    parts = [part.text for part in message.parts if part.part_kind == "user-prompt"]
    return "user", "\n".join(parts)


def _texts(arguments: str) -> dict[str, str]:
    """Return the arguments of a prompt.

    Raises:
        UserError: they are not a JSON object of texts.
    """
    try:
        given: object = json.loads(arguments)
    except ValueError:
        given = None
    texts = cast("dict[str, object]", given) if isinstance(given, dict) else {"": None}
    if not all(isinstance(each, str) for each in texts.values()):
        raise UserError(
            f'{arguments!r}: the arguments of a prompt are a JSON object of texts, such as \'{{"topic": "tea"}}\'.'
        )
    return cast("dict[str, str]", given)


@app.command()
def verify(
    server: ServerArgument,
    key: KeyOption = None,
    header: HeaderOption = None,
    allow_env: AllowEnvOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a server's tools with their pins. Exit status 1: they differ, or nothing is pinned."""
    from agentkit.cli.console import output_console, plain
    from modelstack.terminal.tables import print_json

    servers: list[dict[str, Any]] = []
    for toolset in _toolsets(server, key, header, allow_env):
        drift = _drift(toolset, _run(toolset, _fetched))
        state = _pin_state(drift)
        servers.append(
            {"server": toolset.id, "pins": state, "differences": [asdict(each) for each in drift or ()]}
        )
        if as_json:
            continue
        if drift:
            _show(toolset, drift)
        else:
            hint = "; `agentkit mcp pin` pins its tools" if drift is None else ""
            output_console().print(plain(f"{toolset.id}: {state}{hint}"))
    if as_json:
        print_json(servers)
    if any(each["pins"] != AS_PINNED for each in servers):
        raise typer.Exit(1)


@app.command()
def pin(
    server: ServerArgument,
    yes: YesOption = False,
    key: KeyOption = None,
    header: HeaderOption = None,
    allow_env: AllowEnvOption = None,
) -> None:
    """Pin a server's tools as they are now. Shows the differences from the pins and asks first."""
    from agentkit.cli.console import count_of, output_console, plain
    from agentkit.mcp.pins import DEFAULT_PINS

    output = output_console()
    for toolset in _toolsets(server, key, header, allow_env):
        wire = _run(toolset, _fetched)
        drift = _drift(toolset, wire)
        if drift == []:
            output.print(plain(f"{toolset.id}: {AS_PINNED}"))
            continue
        if drift is None:
            output.print(plain(f"{toolset.id}: {count_of(len(wire), 'tool')}, none pinned before"))
        else:
            _show(toolset, drift)
        if yes or typer.confirm(f"pin {count_of(len(wire), 'tool')} of {toolset.id}?"):
            DEFAULT_PINS.write(_key(toolset), wire)
            output.print(plain(f"{toolset.id}: pinned"))
        else:
            raise typer.Exit(1)


@app.command()
def accept(
    server: ServerArgument,
    tools: Annotated[list[str] | None, typer.Argument(metavar="[TOOL]...", help="Their names; none: all.")] = None,
    yes: YesOption = False,
    key: KeyOption = None,
    header: HeaderOption = None,
    allow_env: AllowEnvOption = None,
) -> None:
    """Pin tools that a server has added; shows them and asks first. Pinned tools keep their definitions.

    Exit status 1: nothing was accepted.
    """
    from agentkit.cli.console import count_of, output_console, plain
    from agentkit.mcp.pins import DEFAULT_PINS

    output, toolset = output_console(), _only(server, key, header, allow_env)
    wire = _run(toolset, _fetched)
    drift = _drift(toolset, wire)
    if drift is None:
        raise UserError(f"server {toolset.id!r} has no pinned tools; `agentkit mcp pin` pins all of them.")
    added = [each for each in drift if each.kind == "added" and (not tools or each.tool_name in tools)]
    names = {each.tool_name for each in added}
    if missing := [name for name in tools or () if name not in names]:
        raise UserError(f"server {toolset.id!r} has no new tool {missing[0]!r}; `agentkit mcp verify` shows them.")
    if not added:
        output.print(plain(f"{toolset.id}: no new tools"))
        raise typer.Exit(1)
    new = count_of(len(added), "new tool")
    _show(toolset, added, new)
    if not (yes or typer.confirm(f"accept {new} of {toolset.id}?")):
        raise typer.Exit(1)
    if (notice := DEFAULT_PINS.accept(_key(toolset), [tool for tool in wire if tool.name in names])) is not None:
        raise UserError(notice)
    output.print(plain(f"{toolset.id}: accepted"))


def _show(toolset: MCPToolset, drift: Sequence[Drift], state: str = NOT_AS_PINNED) -> None:
    from agentkit.cli.console import output_console, plain
    from agentkit.mcp.pins import show_drift

    output_console().print(plain(f"{toolset.id}: {state}", "yellow"))
    output_console().print(plain(show_drift(drift)))


async def _listed(toolset: MCPToolset) -> tuple[list[ToolDefinition], list[WireTool]]:
    """Return a server's tool definitions, first as an agent sees them, then as the server sent them."""
    from agentkit.context import RunContext

    listed = await toolset.list_tools(RunContext(deps=None))
    return [tool.definition for tool in listed], await toolset.fetch()


async def _fetched(toolset: MCPToolset) -> list[WireTool]:
    return await toolset.fetch()


def _drift(toolset: MCPToolset, wire: Sequence[WireTool]) -> list[Drift] | None:
    from agentkit.mcp.pins import DEFAULT_PINS

    return DEFAULT_PINS.drift(_key(toolset), wire)


def _key(toolset: MCPToolset) -> str:
    assert toolset.pinned_as is not None  # a command line names commands and URLs only
    return toolset.pinned_as


def _pin_state(drift: Sequence[Drift] | None) -> str:
    if drift is None:
        return "not pinned"
    return NOT_AS_PINNED if drift else AS_PINNED


def _hints(definition: ToolDefinition) -> list[str]:
    hints = definition.annotations
    told = {
        "read only": hints.read_only,
        "destructive": hints.destructive,
        "idempotent": hints.idempotent,
        "open world": hints.open_world,
    }
    return [name if value else f"not {name}" for name, value in told.items() if value is not None]


def _toolsets(
    server: str, key: str | None, headers: list[str] | None, allow_env: list[str] | None, **options: Any
) -> list[MCPToolset]:
    """Return the servers named on the command line; their pins are not checked by default."""
    from agentkit.cli.options import servers_of
    from agentkit.mcp.toolset import MCPToolset

    options = {"pins": None, "pins_key": key, **options}
    found = servers_of([server], headers or (), allow_env or (), **options)
    return [toolset for toolset in found if isinstance(toolset, MCPToolset)]


def _only(server: str, key: str | None, headers: list[str] | None, allow_env: list[str] | None) -> MCPToolset:
    from agentkit.mcp.pins import DEFAULT_PINS

    found = _toolsets(server, key, headers, allow_env, pins=DEFAULT_PINS)
    if len(found) != 1:
        raise UserError(f"{server!r} names {len(found)} servers; give the command or URL of one.")
    return found[0]


def _run(toolset: MCPToolset, action: Callable[[MCPToolset], Awaitable[T]]) -> T:
    import anyio

    async def connected() -> T:
        async with toolset:
            return await action(toolset)

    return anyio.run(connected)
