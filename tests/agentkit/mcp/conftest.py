"""Servers to connect to: in process, raw children that speak just enough JSON-RPC, and HTTP on loopback."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mcp.server import MCPServer

from agentkit.context import RunContext
from agentkit.events import AgentEvent
from agentkit.mcp import MCPToolset

RAW_SERVER = """
import json, os, sys, time

TOOLS = [{"name": name, "inputSchema": {"type": "object"}, **extra} for name, extra in TOOL_SPECS.items()]

def send(**message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\\n")
    sys.stdout.flush()

def text(id, value):
    send(id=id, result={"content": [{"type": "text", "text": value}]})

def initialize(id):
    send(id=id, result={"protocolVersion": "2025-11-25", "capabilities": {"tools": {"listChanged": True}},
                        "serverInfo": {"name": "raw", "version": "1"}})

def main():
    for line in sys.stdin:
        message = json.loads(line)
        method, id = message["method"], message.get("id")
        if method == "server/discover":
            send(id=id, error={"code": -32601, "message": "Method not found"})
        elif method == "initialize":
            initialize(id)
        elif method == "tools/list":
            send(id=id, result={"tools": TOOLS})
        elif method == "tools/call":
            call(message["params"]["name"], message["params"].get("arguments") or {}, id)
        elif method == "notifications/cancelled":
            cancelled(message["params"]["requestId"])

def cancelled(id):
    pass
"""
"""A legacy (2025-11-25) server of the standard library only: it starts in 20 ms, `mcp` needs 500."""


@pytest.fixture
def raw(tmp_path: Path) -> Callable[..., MCPToolset]:
    """Make a toolset over a raw child; `code` defines `call(name, arguments, id)` and may redefine the rest."""
    n_scripts = iter(range(1000))

    def make(code: str, *, tools: dict[str, Any] | None = None, **options: Any) -> MCPToolset:
        path = tmp_path / f"server{next(n_scripts)}.py"
        specs = tools if tools is not None else {"pid": {}}
        path.write_text(f"TOOL_SPECS = {specs!r}\n{RAW_SERVER}\n{code}\nmain()\n", encoding="utf-8")
        options.setdefault("id", "raw")
        options.setdefault("pins", None)  # these servers change on purpose; `test_tool_pins` is about that
        return MCPToolset.stdio("python", "-IS", path, **options)  # without installed packages it starts quickly

    return make


@pytest.fixture
def context() -> RunContext[None]:
    """A context in which nobody listens."""
    return RunContext(deps=None, tool_name="tool", tool_call_id="1")


@pytest.fixture
def listening() -> tuple[RunContext[None], list[AgentEvent]]:
    """A context and the list of the events sent through it."""
    events: list[AgentEvent] = []
    return RunContext(deps=None, tool_name="tool", tool_call_id="1", emit=events.append), events


def children() -> set[int]:
    """The process ids of this process's children, zombies included."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.add(int(entry.name))
    return found


@pytest.fixture
def no_child_left() -> Iterator[None]:
    """Fail if the test leaves a child process."""
    if sys.platform != "linux":
        pytest.skip("needs /proc")
    before = children()
    yield
    assert children() - before == set()


@contextmanager
def serving(app: Any, port: int = 0) -> Iterator[str]:
    """Serve an ASGI app on 127.0.0.1, in a thread; port 0 takes a free one."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()  # a client may connect before the thread runs
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def http() -> Callable[[Any], Any]:
    """Give the `serving` context manager."""
    return serving


@pytest.fixture
def adder() -> MCPServer:
    """An in-process server with the tool `add`."""
    server = MCPServer("adder", version="1")

    @server.tool()
    async def add(a: int, b: int) -> int:
        """Add two integers."""
        return a + b

    return server
