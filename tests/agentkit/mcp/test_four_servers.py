"""One agent uses four of our servers, which a configuration file names: over stdio and over HTTP."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, MCPToolset
from agentkit.messages import ToolReturnPart
from agentkit.testing import ScriptedModel, call
from tests.mcp_servers.git_repository import git, new_repository
from tests.mcp_servers.server_harness import REPOSITORY, http_server

pytestmark = pytest.mark.anyio

Servers = dict[str, list[str]]


@pytest.fixture
def servers(tmp_path: Path) -> Servers:
    """The words after `python -m` of each server."""
    new_repository(tmp_path / "repository")
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("create table orders (id integer primary key, total real)")
        database.executemany("insert into orders (total) values (?)", [(19.5,), (22.25,)])
    database.close()
    return {
        "files": ["mcp_servers.filesystem", str(tmp_path / "repository"), "--write"],
        "shop": ["mcp_servers.sqlite", str(tmp_path / "shop.db")],
        "clock": ["mcp_servers.time", "--zone", "UTC"],
        "git": ["mcp_servers.git", str(tmp_path / "repository"), "--write", "--author", "Bo <bo@example.org>"],
    }


OVER_HTTP = ("shop", "git")
"""The other two run over stdio."""


@contextmanager
def config(servers: Servers, folder: Path) -> Iterator[Path]:
    """Write the configuration file; servers over HTTP run meanwhile."""
    with ExitStack() as stack:
        written: dict[str, dict[str, Any]] = {}
        for name, words in servers.items():
            if name in OVER_HTTP:
                url, token = stack.enter_context(http_server(*words))
                written[name] = {"type": "http", "url": url, "headers": {"Authorization": f"Bearer {token}"}}
            else:
                written[name] = {"command": sys.executable, "args": ["-m", *words], "cwd": str(REPOSITORY)}
        path = folder / "mcp.json"
        path.write_text(json.dumps({"mcpServers": written}))
        yield path


async def test_an_agent_works_with_four_servers_of_a_configuration_file(servers: Servers, tmp_path: Path) -> None:
    model = ScriptedModel(
        [
            call("query", sql="select sum(total) from orders"),
            call("calculate", expression="41.75 * 1.25"),
            call("write_file", path="invoice.md", text="Total with tax: 52.1875\n"),
            call("git_add", paths=["invoice.md"]),
            call("git_commit", message="Add the invoice"),
            "The invoice of 52.1875 is committed.",
        ]
    )
    with config(servers, tmp_path) as path:
        agent = Agent(model, toolsets=MCPToolset.from_config(path, pins=None, trust="trusted"))
        result = await agent.run("Add up the orders, add 25 % tax, write an invoice and commit it.")
    assert result.status == "completed"
    assert result.output == "The invoice of 52.1875 is committed."
    answers = [part for message in result.messages for part in message.parts if isinstance(part, ToolReturnPart)]
    assert not any(part.is_error for part in answers)
    assert "41.75" in str(answers[0].content)
    assert "52.1875" in str(answers[1].content)
    model.assert_complete()
    offered = {tool.name for tool in model.calls[0].parameters.tools}
    assert {"query", "calculate", "write_file", "git_commit"} <= offered
    repository = tmp_path / "repository"
    assert git(repository, "log", "-1", "--format=%an: %s") == "Bo: Add the invoice\n"
    assert git(repository, "show", "HEAD:invoice.md") == "Total with tax: 52.1875\n"
