"""The suite's own servers, in this process: the same code and protocol without 0.65 s of start for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkit.mcp import MCPToolset
from agentkit.tools.toolset import Toolset
from evals.harness.suite import Solver
from evals.tool_use.executed.disk import DATABASE
from evals.tool_use.executed.running import USER_ZONE, solver
from evals.tool_use.executed.task import Server


def in_process_server(server: Server, folder: Path, *, write: bool = True) -> Toolset:
    if server == "sqlite":
        from mcp_servers.sqlite.server import build_server as build_sqlite

        return MCPToolset(build_sqlite(str(folder / DATABASE), write=write), id=server)
    if server == "time":
        from mcp_servers.time.server import build_server as build_time

        return MCPToolset(build_time(USER_ZONE), id=server)
    from mcp_servers.filesystem.server import build_server as build_filesystem

    return MCPToolset(build_filesystem(str(folder), write=write), id=server)


@pytest.fixture
def solve_in_process() -> Solver:
    return solver(in_process_server)
