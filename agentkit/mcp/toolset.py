"""The tools of one MCP server as a `Toolset`.

The list is fetched once, and again only after the server announces a change or after a reconnect, so a step
costs a comparison of two numbers. A call is not sent if its tool has changed: the model decided on an outdated
definition, and a rug pull looks the same.

Needs asyncio. May be entered in several tasks and event loops at once: each loop has its own connection.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

import anyio
import anyio.to_thread

from agentkit.basics.near_names import MAX_NAME_CHARS
from agentkit.context import RunContext
from agentkit.errors import MCPConnectionError, UserError
from agentkit.mcp.call import CallOptions, Trust, call_tool, is_repeatable
from agentkit.mcp.client_features import ClientFeatures, LogLevel, OnLog, Roots
from agentkit.mcp.config import load_mcp_config
from agentkit.mcp.connection import Connection, is_closed
from agentkit.mcp.elicitation import ANSWER_TIMEOUT_S, OnElicit
from agentkit.mcp.listing import (
    Bounds,
    Listing,
    OnBadTool,
    ServerTool,
    check_allowed,
    fetch_tools,
    make_listing,
)
from agentkit.mcp.options import MCPOptions, options_of
from agentkit.mcp.owner import ConnectionOptions
from agentkit.mcp.pins import DEFAULT_PINS, PinnedListing, ToolPins, target_key
from agentkit.mcp.resource_tools import resource_tools
from agentkit.mcp.server_data import ServerData
from agentkit.mcp.target import HttpTarget, StdioTarget, TransportTarget, describe
from agentkit.tools.definition import ToolAnnotations
from agentkit.tools.tool import Tool, ToolOutput
from agentkit.tools.toolset import Toolset

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import Tool as WireTool

    from agentkit.mcp.oauth.options import OAuth
    from agentkit.mcp.target import ClientTarget

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Live:
    """State of the server in one event loop."""

    connection: Connection
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    listing: Listing | None = None
    tools: tuple[Tool, ...] = ()
    epoch: int = -1
    """The connection's epoch that `listing` was fetched in."""
    added: tuple[WireTool, ...] = ()
    """Tools of that listing that are left out until they are accepted."""


class MCPToolset(ServerData, Toolset):
    """The tools of an MCP server, with its resources and prompts.

    Example:
        ```python
        notes = MCPToolset.stdio("agentkit-mcp", "filesystem", "./notes")
        async with notes:
            print([tool.name for tool in await notes.list_tools(context)])
        ```
    """

    def __init__(
        self,
        target: ClientTarget | StdioTarget | HttpTarget,
        *,
        id: str | None = None,
        allow: Collection[str] | None = None,
        trust: Trust = "untrusted",
        assume_harmless: bool = False,
        on_elicit: OnElicit | None = None,
        elicit_timeout_s: float = ANSWER_TIMEOUT_S,
        on_log: OnLog | None = None,
        log_level: LogLevel = "warning",
        roots: Sequence[str | os.PathLike[str]] | None = None,
        resources: Literal["tools"] | None = None,
        call_timeout_s: float = 30.0,
        max_total_timeout_s: float = 600.0,
        connect_timeout_s: float = 30.0,
        result_limit: int = 64_000,
        max_tools: int = 1_000,
        max_pages: int = 100,
        on_bad_tool: OnBadTool = "skip",
        reconnect: bool = True,
        pins: ToolPins | None = DEFAULT_PINS,
        pins_key: str | None = None,
        mode: Literal["auto", "legacy"] | str = "auto",
    ) -> None:
        """Describe a server; nothing is started or sent before the toolset is entered.

        Args:
            target: A server object, a URL, `StdioServerParameters` or a transport, as for `mcp.Client`. A
                transport serves one connection only.
            id: A name for errors and traces; taken from the target if absent.
            allow: The names of the tools to offer; None offers all. The others are not even examined.
            trust: "trusted" sends a read-only or idempotent call again after a lost connection, and leaves
                hidden characters in results.
            assume_harmless: Treats missing hints of a tool as harmless. Otherwise MCP's defaults hold: the tool
                may be destructive and open-world, so after untrusted content its calls need approval (see
                `agentkit.guardrails.TaintRule`).
            on_elicit: Answers the server's questions; without it they are declined.
            elicit_timeout_s: Seconds for one answer; after that the question is cancelled.
            on_log: Receives the server's log messages; without it they are not asked for.
            log_level: Least severe level of messages for `on_log`.
            roots: Folders to name to a server that asks where the user works; None: it cannot ask. `set_roots`
                replaces them.
            resources: "tools" offers the model `list_resources` and `read_resource`, if the server has resources.
            call_timeout_s: Seconds for one call. The clock stops while `on_elicit` runs, and starts again when the
                server reports progress.
            max_total_timeout_s: Seconds for one call in all, with progress.
            connect_timeout_s: Seconds for starting, reaching and negotiating, and for the whole tool list.
            result_limit: Characters of a result that the model sees; the value for the program stays whole.
            max_tools: More tools than this are an error.
            max_pages: A longer list of tools is an error.
            on_bad_tool: "skip" leaves out a tool with an unusable definition, with a warning (`warnings`); "fail"
                fails the listing.
            reconnect: Connects again at the next call after the server died.
            pins: Store of the tools' definitions from first use on, to refuse a server that changes them; None
                disables pinning. A server in this process is not pinned. A tool that the server adds is left
                out, with a warning, until it is accepted (`accept_tools`).
            pins_key: Distinguishes pins of one command or URL, for a server that shows each user or tenant
                different tools: their id, for example. It is stored in plain text with the pins.
            mode: How to negotiate: "auto", "legacy" for a server that fails when probed, or a version.

        Raises:
            UserError: the URL is not http or https, or an option has a wrong value.
        """
        if isinstance(allow, str):
            raise UserError(f"allow={allow!r} is one string; give a list of names: allow=[{allow!r}].")
        if resources not in (None, "tools"):
            raise UserError(f"resources={resources!r}: give 'tools' to offer them to the model, or None.")
        if isinstance(target, str):
            target = HttpTarget(target)
        self._id = id or describe(target)
        self._target: Any = TransportTarget(target) if hasattr(target, "__aenter__") else target
        self._allow = frozenset(allow) if allow is not None else None
        self._bounds = Bounds(max_tools, max_pages)
        self._max_pages = max_pages
        self._on_bad_tool: OnBadTool = on_bad_tool
        self._pins = pins
        self._pinned_as = target_key(target, pins_key)
        self._calls = CallOptions(call_timeout_s, max_total_timeout_s, result_limit, trust)
        self._roots = Roots(roots)
        self._offers_resources = resources == "tools"
        self._assume_harmless = assume_harmless
        self._connecting = ConnectionOptions(
            self._id,
            connect_timeout_s,
            reconnect,
            mode,
            on_elicit,
            elicit_timeout_s,
            ClientFeatures(self._id, self._roots, on_log, log_level),
        )
        self._live: dict[asyncio.AbstractEventLoop, _Live] = {}
        self._revisions = itertools.count(1)
        self._revision = 0
        self._warnings: tuple[str, ...] = ()

    @classmethod
    def stdio(
        cls,
        command: str,
        *args: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        **options: Unpack[MCPOptions],
    ) -> Self:
        """Run a command as a child process. "python" is the running interpreter, "agentkit-mcp" runs our servers.

        Besides `env`, the child gets HOME, LOGNAME, PATH, SHELL, TERM and USER from the parent's environment.
        """
        return cls(StdioTarget(command, tuple(os.fspath(arg) for arg in args), env, cwd), **options)

    @classmethod
    def http(
        cls,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        auth: OAuth | None = None,
        **options: Unpack[MCPOptions],
    ) -> Self:
        """Connect to a streamable HTTP endpoint, with `headers` on every request; `auth` logs in with OAuth.

        Raises:
            UserError: the URL is not http or https, or tokens may not be sent to it.
        """
        return cls(HttpTarget(url, headers, auth), **options)

    @classmethod
    def from_config(
        cls, path: str | Path, *, allow_env: Collection[str] = (), **options: Unpack[MCPOptions]
    ) -> list[Self]:
        """Make a toolset of each server in an `mcpServers` file that is not disabled, with its name as id.

        The option `assume_harmless` overrides the file's value.

        Raises:
            UserError: `load_mcp_config` rejects the file.
        """
        servers = load_mcp_config(path, allow_env=allow_env)
        enabled = {name: server for name, server in servers.items() if not server.disabled}
        return [cls(server.target(), **options_of(name, server, options)) for name, server in enabled.items()]

    @property
    def id(self) -> str:
        """The name given at construction, or one taken from the target."""
        return self._id

    @property
    def trust(self) -> Trust:
        """Trust in the server's statements about its tools."""
        return self._calls.trust

    @property
    def assume_harmless(self) -> bool:
        """True if missing hints of a tool are treated as harmless."""
        return self._assume_harmless

    @property
    def pinned_as(self) -> str | None:
        """Name of the server in `ToolPins`; None for a target without a command or URL."""
        return self._pinned_as

    @property
    def revision(self) -> int:
        """Counter that grows when the server announces a change of its tools, and with every connection."""
        return self._revision

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the last listing: skipped tools, removed text, unenforced constraints; one sentence each."""
        return self._warnings

    def __repr__(self) -> str:
        """Name the server; headers and environment stay out of logs."""
        return f"MCPToolset(id={self._id!r}, trust={self.trust!r})"

    async def __aenter__(self) -> Self:
        """Connect, unless this event loop is connected already.

        Raises:
            MCPConnectionError: the server cannot be started or reached.
        """
        for loop in list(self._live):
            if loop.is_closed():  # it was closed without exiting the toolset
                self._live.pop(loop, None)
        live = self._live.get(asyncio.get_running_loop())
        if live is None:
            live = _Live(Connection(self._target, self._connecting, self._tools_changed))
            self._live[asyncio.get_running_loop()] = live
            self._tools_changed()
        try:
            await live.connection.acquire()
        finally:
            self._forget_unused(live)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect after the last user; a child process has ended when this returns."""
        live = self._here()
        try:
            await live.connection.release()
        finally:
            self._forget_unused(live)

    async def list_tools(self, context: RunContext[Any]) -> Sequence[Tool]:
        """Return the server's tools; asks the server only if the list may have changed.

        Raises:
            MCPConnectionError: the server cannot be reached or does not answer in time.
            ToolDefinitionError: its list does not end, or a definition is unusable.
            ToolDefinitionChanged: a definition is not as it was pinned.
            UserError: the toolset is not entered, or `allow` names a tool that the server lacks.
        """
        live = self._here()
        await self._listing(live)
        return live.tools

    @property
    def left_out(self) -> tuple[WireTool, ...]:
        """Tools that the server has added since it was pinned, as this event loop's last listing had them."""
        return self._here().added

    def accept_tools(self, *names: str) -> None:
        """Pin tools listed in `left_out`; without names, all of them. The next listing includes them.

        Raises:
            UserError: a tool is not among those left out, or the stored pins are damaged.
        """
        live = self._here()
        added = {tool.name: tool for tool in live.added}
        unknown = [name for name in names if name not in added]
        if unknown:
            known = ", ".join(added) or "none"
            raise UserError(f"MCP server {self._id!r} has no new tool {unknown[0]!r}; left out are: {known}.")
        if not added or self._pins is None or self._pinned_as is None:
            return
        self._pins.accept(self._pinned_as, [added[name] for name in names or added])
        live.epoch, live.added = -1, ()
        self._tools_changed()

    async def fetch(self) -> list[WireTool]:
        """Return the definitions as the server sends them, regardless of pins and `allow`.

        Raises:
            MCPConnectionError: as `list_tools`.
            ToolDefinitionError: its list does not end.
        """
        return (await self._fetch(self._here().connection))[2]

    def _here(self) -> _Live:
        live = self._live.get(asyncio.get_running_loop())
        if live is None:
            raise UserError(f"MCP server {self._id!r} is not connected; use it inside `async with toolset:`.")
        return live

    def _connection(self) -> Connection:
        return self._here().connection

    def _forget_unused(self, live: _Live) -> None:
        loop = asyncio.get_running_loop()
        if live.connection.users == 0 and self._live.get(loop) is live:
            del self._live[loop]

    def _tools_changed(self) -> None:
        self._revision = next(self._revisions)

    async def _listing(self, live: _Live) -> tuple[Client, Listing]:
        """Return the client and the current listing of its server."""
        async with live.lock:
            client = await live.connection.client()
            if live.listing is None or live.epoch != live.connection.epoch:
                client, epoch, wire = await self._fetch(live.connection)
                if self._allow is not None and live.listing is None:
                    check_allowed(self._allow, wire, server=self._id)
                pinned = await self._held_to_pins(wire)
                live.listing = await self._made(pinned.tools)
                live.tools = (
                    *(self._tool(tool) for tool in live.listing.tools.values()),
                    *self._resource_tools(client, live.listing.tools),
                )
                live.epoch, live.added = epoch, pinned.added
                self._warn(live.listing, pinned)
                # mcp checks results against output schemas with unbounded `re`; `SchemaCheck` replaces that check.
                client.session.validate_tool_result = _leave_unchecked
            return client, live.listing

    async def _held_to_pins(self, wire: Sequence[WireTool]) -> PinnedListing:
        """Return the tools that may be offered and those that await acceptance."""
        if self._pins is None or self._pinned_as is None:
            return PinnedListing(tuple(wire))
        check = partial(self._pins.check, self._pinned_as, wire, server=self._id, allow=self._allow)
        return await anyio.to_thread.run_sync(check)

    async def _made(self, wire: Sequence[WireTool]) -> Listing:
        """Check the listed tools, within the time limit for the list."""
        timeout_s = self._connecting.connect_timeout_s
        try:
            with anyio.fail_after(timeout_s):
                return await make_listing(wire, server=self._id, allow=self._allow, on_bad_tool=self._on_bad_tool)
        except TimeoutError:
            raise MCPConnectionError(
                f"the tools of MCP server {self._id!r} took more than connect_timeout_s={timeout_s:g} s to check."
            ) from None

    async def _fetch(self, connection: Connection) -> tuple[Client, int, list[WireTool]]:
        """Fetch the list; retry once if the server dies meanwhile, since listing has no side effects."""
        from mcp import MCPError
        from mcp_types import METHOD_NOT_FOUND

        timeout_s = self._connecting.connect_timeout_s
        for is_last in (False, True):
            client = await connection.client()
            epoch = connection.epoch  # a change during the fetch makes it stale again
            try:
                with connection.clocks.limited(timeout_s):  # stops while a person logs in
                    return client, epoch, await fetch_tools(client, self._bounds, server=self._id)
                raise MCPConnectionError(
                    f"MCP server {self._id!r} did not list its tools within connect_timeout_s={timeout_s:g} s."
                )
            except (MCPError, RuntimeError) as error:
                if isinstance(error, MCPError) and error.code == METHOD_NOT_FOUND and not _has_tools(client):
                    return client, epoch, []  # a server of resources or prompts only
                if connection.refusal is not None:
                    raise copy(connection.refusal) from error
                died = connection.has_lost(client) or (isinstance(error, MCPError) and is_closed(error))
                if is_last or not died:
                    raise MCPConnectionError(
                        f"MCP server {self._id!r} cannot list its tools: {connection.said(error)}"
                    ) from error
                connection.lose(client)
        raise AssertionError("the last turn returns or raises")

    def _warn(self, listing: Listing, pinned: PinnedListing) -> None:
        of_tools = [f"{name}: {line}" for name, tool in listing.tools.items() for line in tool.definition.warnings]
        left_out = [
            f"tool {tool.name[:MAX_NAME_CHARS]!a} was added after the server was pinned and is left out; look at "
            f"it with `agentkit mcp verify` and accept it with `agentkit mcp accept` or `accept_tools`."
            for tool in pinned.added
        ]
        lines = (*listing.warnings, *of_tools, *left_out)
        for line in lines:
            logger.warning("MCP server %r: %s", self._id, line)
        storage = () if pinned.storage_notice is None else (pinned.storage_notice,)  # logged by `ToolPins`, once
        self._warnings = (*lines, *storage)

    def _tool(self, tool: ServerTool) -> Tool:
        return Tool(
            definition=tool.definition,
            call=partial(self._call, tool),
            validate=tool.arguments.arguments,
            timeout_s=math.inf,  # `call_tool` has its own limit, with a clock that can be stopped
            is_untrusted=self._calls.trust == "untrusted",
            is_consequential=_is_consequential(tool.definition.annotations, assume_harmless=self._assume_harmless),
            is_repeatable=is_repeatable(tool, self._calls),
        )

    def _resource_tools(self, client: Client, own: Collection[str]) -> list[Tool]:
        """Return the tools for the server's resources; a tool of its own with the same name takes precedence."""
        if not self._offers_resources or client.server_capabilities.resources is None:
            return []
        tools = resource_tools(
            self,
            is_untrusted=self._is_untrusted,
            is_consequential=not self._assume_harmless,
            result_limit=self._calls.result_limit,
        )
        return [tool for tool in tools if tool.name not in own]

    async def _call(self, tool: ServerTool, arguments: dict[str, Any], context: RunContext[Any]) -> ToolOutput:
        live = self._here()

        async def verify() -> Client | None:
            client, listing = await self._listing(live)
            current = listing.tools.get(tool.definition.name)
            unchanged = current is tool or (current is not None and current.definition == tool.definition)
            return client if unchanged else None

        return await call_tool(live.connection, tool, arguments, context, self._calls, verify)


def _has_tools(client: Client) -> bool:
    return client.server_capabilities.tools is not None


def _is_consequential(hints: ToolAnnotations, *, assume_harmless: bool) -> bool:
    """Return whether a tool may be destructive or open-world, according to its server's hints.

    A missing hint has MCP's default (2025-11-25, schema, ToolAnnotations): destructive, unless the tool only
    reads, and open-world. With `assume_harmless`, a missing destructive hint means destructive only if the tool
    states that it is not read-only.
    """
    destroys, reaches_out = hints.destructive, hints.open_world
    if destroys is None:
        destroys = hints.read_only is False if assume_harmless else True
    if reaches_out is None:
        reaches_out = not assume_harmless
    return reaches_out or (destroys and not hints.read_only)


async def _leave_unchecked(name: str, result: Any) -> None:
    """Replace `ClientSession.validate_tool_result` with no check."""
