"""Streamable HTTP on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import anyio
import pytest
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from agentkit.context import RunContext
from agentkit.errors import MCPConnectionError, UserError
from agentkit.mcp import MCPToolset
from agentkit.tools.tool import Tool

pytestmark = pytest.mark.anyio
Serve = Callable[..., AbstractContextManager[str]]


class HeaderLog:
    """ASGI middleware that keeps the `Authorization` of every request."""

    def __init__(self, app: Any) -> None:
        self.app, self.seen = app, list[bytes | None]()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.seen.append(dict(scope["headers"]).get(b"authorization"))
        await self.app(scope, receive, send)


async def call_once(tool: Tool, context: RunContext[None]) -> None:
    await tool.call({}, context)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_calls_over_http_carry_the_headers(
    http: Serve, adder: MCPServer, context: RunContext[None], mode: str
) -> None:
    app = HeaderLog(adder.streamable_http_app())
    with http(app) as url:
        toolset = MCPToolset.http(url, headers={"Authorization": "Bearer t0ken"}, mode=mode)
        with anyio.fail_after(20):
            async with toolset:
                (tool,) = await toolset.list_tools(context)
                outputs = await asyncio.gather(*(tool.call({"a": n, "b": 1}, context) for n in range(20)))
    assert [output.data for output in outputs] == [{"result": n + 1} for n in range(20)]
    assert set(app.seen) == {b"Bearer t0ken"}
    assert "t0ken" not in repr(toolset) and toolset.id == "127.0.0.1/mcp"


class Flood:
    """ASGI middleware that answers calls of tools with a body without end, or a packed one."""

    def __init__(self, app: Any, headers: list[tuple[bytes, bytes]]) -> None:
        self.app, self.headers, self.n_bytes = app, headers, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        asked = await receive()
        if b'"tools/call"' not in asked["body"]:

            async def again() -> Any:
                return asked

            await self.app(scope, again, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        gone = asyncio.ensure_future(receive())
        while self.n_bytes < 1 << 30 and not gone.done():
            await send({"type": "http.response.body", "body": b" " * (1 << 20), "more_body": True})
            self.n_bytes += 1 << 20
            await asyncio.sleep(0)
        gone.cancel()


@pytest.mark.parametrize("encoding", [None, b"gzip"])
async def test_a_body_without_end_or_a_packed_one_is_not_read(
    http: Serve, adder: MCPServer, context: RunContext[None], encoding: bytes | None
) -> None:
    headers = [(b"content-type", b"application/json"), *([(b"content-encoding", encoding)] if encoding else [])]
    app = Flood(adder.streamable_http_app(json_response=True), headers)
    with http(app) as url, anyio.fail_after(60):
        async with MCPToolset.http(url, mode="legacy") as toolset:
            (tool,) = await toolset.list_tools(context)
            output = await tool.call({"a": 1, "b": 1}, context)
    assert output.is_error
    assert app.n_bytes < (128 << 20 if encoding is None else 32 << 20)  # what was under way counts, too


async def test_a_server_that_is_not_there_is_an_error(context: RunContext[None]) -> None:
    with anyio.fail_after(20), pytest.raises(MCPConnectionError, match="cannot be reached: ConnectError"):
        await MCPToolset("http://127.0.0.1:1/mcp").__aenter__()


async def test_a_url_that_is_not_http_is_a_mistake() -> None:
    for url in ("ftp://x/mcp", "localhost:8000", "file:///etc/passwd", "http://"):
        with pytest.raises(UserError, match="must look like http"):
            MCPToolset(url)


async def test_progress_and_a_change_of_the_tools_arrive_over_http(
    http: Serve, listening: tuple[RunContext[None], list[Any]]
) -> None:
    context, events = listening
    server = MCPServer("growing", version="1")

    async def extra() -> str:
        """Nothing."""
        raise NotImplementedError

    @server.tool()
    async def grow(ctx: Context) -> str:  # type: ignore[type-arg]
        """Add a tool."""
        await ctx.report_progress(1, 2, "half")
        server.add_tool(extra)
        await ctx.notify_tools_changed()
        return "grown"

    with http(server.streamable_http_app()) as url:
        async with MCPToolset(url, pins=None) as toolset:
            (tool,) = await toolset.list_tools(context)
            before = toolset.revision
            with anyio.fail_after(20):
                assert (await tool.call({}, context)).content == "grown"
                while toolset.revision == before:
                    await anyio.lowlevel.checkpoint()
                assert len(await toolset.list_tools(context)) == 2
    assert [event.message for event in events] == ["half"]


def counting() -> tuple[MCPServer, list[int]]:
    """A server with a tool that is neither read-only nor idempotent, and the calls that it saw."""
    server, calls = MCPServer("counting", version="1"), list[int]()

    @server.tool()
    async def count(n: int) -> int:
        """Count."""
        calls.append(n)
        return n

    return server, calls


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("call_while_down", [False, True])
async def test_a_restarted_server_is_reconnected_and_each_call_is_carried_out_once(
    http: Serve, context: RunContext[None], mode: str, call_while_down: bool
) -> None:
    """The second server is new on the same port: sessions of the first mean nothing to it."""
    (first, first_calls), (second, second_calls) = counting(), counting()
    with contextlib.ExitStack() as stack:
        with http(first.streamable_http_app()) as url:
            toolset = MCPToolset(url, mode=mode)
            await toolset.__aenter__()
            (tool,) = await toolset.list_tools(context)
            await tool.call({"n": 1}, context)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                outputs: list[Any] = []

                async def call(n: int) -> None:
                    outputs.append(await tool.call({"n": n}, context))

                if call_while_down:
                    tasks.start_soon(call, 2)
                    await lost(toolset)
                stack.enter_context(http(second.streamable_http_app(), int(url.split(":")[2].split("/")[0])))
                if not call_while_down:
                    tasks.start_soon(call, 2)
            await toolset.__aexit__(None, None, None)
    assert [(output.data, output.is_error) for output in outputs] == [({"result": 2}, False)]
    assert (first_calls, second_calls) == ([1], [2])


async def test_a_server_that_stays_away_is_an_error(
    http: Serve, context: RunContext[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentkit.mcp.connection.RECONNECT_DELAYS_S", (0.0, 0.0))
    server, _ = counting()
    with http(server.streamable_http_app()) as url:
        toolset = MCPToolset(url)
        await toolset.__aenter__()
        (tool,) = await toolset.list_tools(context)
    with anyio.fail_after(30), pytest.raises(MCPConnectionError, match="ConnectError"):
        await tool.call({"n": 1}, context)
    await toolset.__aexit__(None, None, None)


async def lost(toolset: MCPToolset) -> None:
    """Wait until the connection knows that the server is gone."""
    (live,) = toolset._live.values()
    owner = live.connection._owner
    assert owner is not None
    await owner._end.wait()


async def test_cancelling_the_caller_reaches_the_server_over_http(http: Serve, context: RunContext[None]) -> None:
    server = MCPServer("hanging", version="1")
    started, stopped = threading.Event(), threading.Event()

    @server.tool()
    async def hang() -> str:
        """Never return."""
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()
        raise NotImplementedError

    with http(server.streamable_http_app()) as url, anyio.fail_after(20):
        async with MCPToolset(url) as toolset:
            (tool,) = await toolset.list_tools(context)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call_once, tool, context)
                assert await asyncio.to_thread(started.wait, 10)
                tasks.cancel_scope.cancel()
            assert await asyncio.to_thread(stopped.wait, 10)
