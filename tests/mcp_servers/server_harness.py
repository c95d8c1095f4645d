"""What the server tests share: a call that returns text, a real child, a real HTTP server."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.server.lowlevel.server import Server

from mcp_servers.sqlite.policy import Limits
from mcp_servers.sqlite.server import build_server

REPOSITORY = Path(__file__).resolve().parents[2]

SWAP = """
import os, sys
folder, aside, outside = sys.argv[1:]
print("swapping", flush=True)
while True:
    os.rename(folder, aside)
    os.symlink(outside, folder)
    os.unlink(folder)
    os.rename(aside, folder)
"""
"""Program that swaps a folder for a link, and back, for ever."""


def kill_when_inside(program: str, *arguments: object) -> None:
    """Run a Python program, and kill it when it has printed "inside"."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"inside\n"
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL


# (tool, **arguments) -> (text, is_error)
Ask = Callable[..., Awaitable[tuple[str, bool]]]


def asker(client: Client) -> Ask:
    """Return a function that calls a tool and gives back the text that the model would read."""

    async def ask(tool: str, **arguments: Any) -> tuple[str, bool]:
        result = await client.call_tool(tool, arguments)
        (content,) = result.content
        assert content.type == "text"
        assert (result.structured_content is None) == bool(result.is_error)
        return content.text, bool(result.is_error)

    return ask


async def ask_once(server: Server[Any], tool: str, **arguments: Any) -> tuple[str, bool]:
    """Call one tool of an in-memory server."""
    async with Client(server) as client:
        return await asker(client)(tool, **arguments)


async def query(database: str, sql: str, *parameters: Any, limits: Limits | None = None) -> tuple[str, bool]:
    """Run one query on an in-memory SQLite server."""
    return await ask_once(build_server(database, limits=limits), "query", sql=sql, parameters=list(parameters))


@contextmanager
def http_server(*arguments: str) -> Iterator[tuple[str, str]]:
    """Run a server module with `--http` on a free port; yield its URL and the token it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments, "--http"], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        url = process.stderr.readline().split(": ", 1)[1].strip()
        token = process.stderr.readline().removeprefix("token: ").strip()
        yield url, token
    finally:
        process.terminate()
        process.communicate()
