"""MCP servers named on the command line: paths that do not exist, headers, variables of the environment."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from agentkit.cli.options import AgentOptions, mcp_toolsets, servers_of
from agentkit.errors import UserError
from agentkit.mcp.toolset import MCPToolset
from tests.agentkit.cli.conftest import Agentkit

SECRET = "t0ps3cret"
URL = "https://example.com/mcp"


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SERVER_TOKEN", SECRET)
    monkeypatch.setenv("AGENTKIT_PINS_DIR", str(tmp_path / "pins"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "./notez",
            "'notez' does not exist; did you mean 'notes'? Give a command in quotes, a URL, or an mcpServers",
        ),
        ("notez", "'notez': there is no such command on PATH; did you mean 'notes'?"),
        ("./notes", "'./notes' is a folder; serve its files with 'python -m mcp_servers.filesystem ./notes'."),
        ("server.json", "'server.json' does not exist; did you mean 'servers.json'?"),
        ("localhost:8000/mcp", "is no command; for a URL write 'http://localhost:8000/mcp'."),
        ("no-such-command", "there is no such command on PATH. Give a command in quotes"),
        ("", "the MCP server is empty. Give a command in quotes"),
        ("python 'x", "write the command as in a shell"),
    ],
)
def test_a_value_that_names_no_server_says_what_was_probably_meant(
    agentkit: Agentkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "servers.json").touch()
    for command in (("mcp", "list", value), ("run", "x", "--model", "test", "--mcp", value)):
        done = agentkit(*command)
        assert done.returncode == 1 and message in done.stderr


def test_a_missing_model_file_is_not_fetched(agentkit: Agentkit, tmp_path: Path) -> None:
    (tmp_path / "missing.gguf").touch()
    done = agentkit("run", "x", "--model", f"local:{tmp_path}/mising.gguf")
    assert done.returncode == 1 and "fetching" not in done.stderr
    assert f"'{tmp_path}/mising.gguf' does not exist; did you mean '{tmp_path}/missing.gguf'?" in done.stderr


def headers_of(*values: str) -> dict[str, str]:
    (toolset,) = mcp_toolsets(URL, values)
    assert isinstance(toolset, MCPToolset)
    return dict(toolset._target.headers)


def test_a_header_takes_its_secret_from_the_environment() -> None:
    assert headers_of("Authorization: Bearer ${SERVER_TOKEN}") == {"Authorization": f"Bearer {SECRET}"}
    assert headers_of("X-Key: abc", "X-Tenant:ann") == {"X-Key": "abc", "X-Tenant": "ann"}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (f"Bearer {SECRET}", "a header is written 'NAME: VALUE'"),
        ("Authorization: Bearer ${NO_TOKEN}", "header 'Authorization': the environment has no NO_TOKEN"),
    ],
)
def test_a_wrong_header_is_an_error_without_its_value(header: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        headers_of(header)
    assert message in str(caught.value) and SECRET not in str(caught.value)


def test_a_secret_goes_to_one_server_only() -> None:
    with pytest.raises(UserError, match="--header is for one MCP server at a URL, and 2 are named"):
        servers_of([URL, f"other={URL}"], headers=["X-Key: abc"])
    with pytest.raises(UserError, match="--header is for an MCP server at a URL, and none is named"):
        servers_of(["python -m x"], headers=["X-Key: abc"])
    with pytest.raises(UserError, match="--allow-env is for one MCP server, and 2 commands are named"):
        servers_of(["python -m x", "python -m y"], allow_env=["SERVER_TOKEN"])
    assert len(servers_of([URL, "python -m x"], ["X-Key: abc"], ["SERVER_TOKEN"])) == 2


def test_a_command_gets_the_variables_that_are_allowed_and_no_others(agentkit: Agentkit, tmp_path: Path) -> None:
    program = "import os, sys; sys.exit('error: token ' + os.environ.get('SERVER_TOKEN', 'missing'))"
    server = shlex.join([sys.executable, "-c", program])
    assert "error: token missing" in agentkit("mcp", "list", server).stderr
    assert f"error: token {SECRET}" in agentkit("mcp", "list", server, "--allow-env", "SERVER_TOKEN").stderr
    done = agentkit("mcp", "list", server, "--allow-env", "NO_TOKEN")
    assert "--allow-env NO_TOKEN: the environment has no such variable" in done.stderr


def test_a_file_takes_the_variables_that_are_allowed(tmp_path: Path) -> None:
    file = tmp_path / "servers.json"
    entry = {"url": URL, "headers": {"Authorization": "Bearer ${SERVER_TOKEN}"}}
    file.write_text(json.dumps({"mcpServers": {"web": entry}}), encoding="utf-8")
    with pytest.raises(UserError, match="on the command line --allow-env SERVER_TOKEN"):
        mcp_toolsets(str(file))
    (toolset,) = mcp_toolsets(str(file), allow_env=["SERVER_TOKEN"])
    assert isinstance(toolset, MCPToolset)
    assert toolset._target.headers == {"Authorization": f"Bearer {SECRET}"}


def test_a_secret_that_was_typed_is_not_stored_with_the_run() -> None:
    typed, named = f"X-Key: {SECRET}", "Authorization: Bearer ${SERVER_TOKEN}"
    options = AgentOptions("test", [URL], headers=[named, typed], allow_env=["A"])
    assert SECRET not in repr(options)
    kept = options.to_metadata()
    assert SECRET not in json.dumps(kept)
    again = AgentOptions.from_metadata(kept, Path("runs.db"), headers=[typed])
    assert list(again.headers) == [named, typed]
    assert list(again.allow_env) == ["A"]


def test_a_header_is_in_no_file_of_a_run(agentkit: Agentkit, tmp_path: Path) -> None:
    done = agentkit(
        "run", "x", "--model", "test", "--mcp", "http://127.0.0.1:9/mcp", "--header", f"X-Key: {SECRET}"
    )
    assert done.returncode == 1 and SECRET not in done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
