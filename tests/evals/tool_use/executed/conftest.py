"""The suite's own servers, in this process: the same code and protocol without 0.65 s of start for each."""

from __future__ import annotations

import atexit
import functools
from pathlib import Path

import pytest

from agentkit.mcp import MCPToolset
from agentkit.tools.toolset import Toolset
from evals.harness.suite import Solver
from evals.tool_use.executed.disk import DATABASE
from evals.tool_use.executed.running import USER_ZONE, solver
from evals.tool_use.executed.task import Server
from mcp_servers.child import KillableChild


def in_process_server(server: Server, folder: Path, *, write: bool = True) -> Toolset:
    if server == "sqlite":
        from mcp_servers.sqlite.server import build_server as build_sqlite

        return MCPToolset(build_sqlite(str(folder / DATABASE), write=write), id=server)
    if server == "time":
        from mcp_servers.time import server as time

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(time, "KillableChild", lambda *_args, **_named: unit_child())
            return MCPToolset(time.build_server(USER_ZONE), id=server)
    from mcp_servers.filesystem.server import build_server as build_filesystem

    return MCPToolset(build_filesystem(str(folder), write=write), id=server)


@functools.cache
def unit_child() -> KillableChild:
    """Return the one process that converts units for all time servers of this process; it takes 0.4 s to start."""
    from mcp_servers.time.server import UNIT_WORKER

    child = Kept(UNIT_WORKER, packages=True)
    atexit.register(child.end)
    return child


class Kept(KillableChild):
    """A child process that does not end with a server."""

    def close(self) -> None:
        """Leave it to the next server."""

    def end(self) -> None:
        """Stop it."""
        super().close()


@pytest.fixture
def solve_in_process() -> Solver:
    return solver(in_process_server)
