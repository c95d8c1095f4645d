"""`agentkit mcp`: a server's tools, one call of a tool, and the pinned definitions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from agentkit.cli.options import AllowEnvOption, HeaderOption, JsonOption
from agentkit.errors import UserError
from modelstack.terminal.plain_help import PlainTyper

if TYPE_CHECKING:
    from mcp_types import Tool as WireTool

    from agentkit.mcp.pins import Drift
    from agentkit.mcp.toolset import MCPToolset
    from agentkit.tools.definition import ToolDefinition

T = TypeVar("T")
AS_PINNED, NOT_AS_PINNED = "as pinned", "not as pinned"
MAX_DESCRIPTION_CHARS = 300
"""Characters of a tool's description in a list on a terminal."""
app = PlainTyper(no_args_is_help=True, help="MCP servers: list, call, pin, accept, verify.")

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
        return output.content, output.is_error

    content, is_error = _run(_only(server, key, header, allow_env), calling)
    if as_json:
        print_json({"tool": tool, "content": content, "is_error": is_error})
    else:
        output_console().print(plain(content))
    if is_error:
        raise typer.Exit(1)


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
