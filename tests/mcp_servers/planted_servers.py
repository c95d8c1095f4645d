"""Git servers in which checks are made blind: forks of one process that has imported what a server imports."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp.server.stdio import stdio_server

from tests.mcp_servers.server_harness import REPOSITORY

PROGRAM = """
import json, os, socket, sys
from mcp_servers import serving
from mcp_servers.quick_start import quick_imports
with quick_imports():
    import mcp.server.stdio
    from mcp_servers.git import __main__, command, repository, server

listener, running = socket.socket(fileno=int(sys.argv[1])), set()
while True:
    connection, _ = listener.accept()
    running -= {process for process in running if os.waitpid(process, os.WNOHANG)[0]}
    if not (process := os.fork()):
        break
    running.add(process)
    connection.close()
listener.close()
plan = json.loads(connection.makefile("rb", buffering=0).readline())
for standard in (0, 1):
    os.dup2(connection.fileno(), standard)
connection.close()

if "stale configuration" in plan["holes"]:
    async def nothing(self):
        return []
    command.Git._configured_keys = nothing
if "no look at the layout" in plan["holes"]:
    repository.check_layout = lambda root: None
    repository.LinkCheck.refuse_links = lambda self: None
if "no confinement" in plan["holes"]:
    serving.confine = lambda confinement: ""
__main__.main(plan["arguments"])
"""

Served = Callable[..., AbstractAsyncContextManager[Any]]
"""(repository, *holes) -> a transport to a server of the repository, which ends with it."""


@contextmanager
def planted_servers(folder: Path) -> Iterator[Served]:
    """Start the process that is forked; its socket lies in `folder`."""
    path = str(folder / "socket")

    @asynccontextmanager
    async def served_with(repository: Path, *holes: str) -> AsyncIterator[Any]:
        plan = {"holes": holes, "arguments": [str(repository), "--write", "--author", "Bo <bo@example.org>"]}
        with (
            socket.socket(socket.AF_UNIX) as connection,
            connection.makefile("r", encoding="utf-8") as incoming,
            connection.makefile("w", encoding="utf-8") as outgoing,
        ):
            connection.connect(path)
            connection.sendall(json.dumps(plan).encode() + b"\n")
            async with stdio_server(anyio.wrap_file(incoming), anyio.wrap_file(outgoing)) as streams:
                try:
                    yield streams
                finally:
                    connection.shutdown(socket.SHUT_WR)  # the server ends, and closes its side

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(listener.fileno())],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # `sys.stdout` of a fork is made here, and a pipe cannot seek
            pass_fds=[listener.fileno()],
        )
    try:
        yield served_with
    finally:
        process.kill()
        process.communicate()
