"""`mcpServers` files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentkit.errors import UserError
from agentkit.mcp import MCPToolset, load_mcp_config
from agentkit.mcp.target import HttpTarget, StdioTarget


def write(tmp_path: Path, servers: dict[str, Any], **more: Any) -> Path:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers, **more}), encoding="utf-8")
    return path


def test_both_kinds_of_servers_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "files": {"command": "python", "args": ["-m", "files"], "env": {"A": "1"}, "cwd": "sub"},
            "web": {"type": "http", "url": "https://example.com/mcp", "headers": {"X": "y"}},
            "off": {"command": "true", "disabled": True},
        },
        globalShortcut="other hosts keep other things here",
    )
    servers = load_mcp_config(path)
    assert servers["files"].target() == StdioTarget("python", ("-m", "files"), {"A": "1"}, str(tmp_path / "sub"))
    assert servers["web"].target() == HttpTarget("https://example.com/mcp", {"X": "y"})
    assert servers["off"].disabled
    toolsets = MCPToolset.from_config(path, trust="trusted")
    assert [(toolset.id, toolset.trust) for toolset in toolsets] == [("files", "trusted"), ("web", "trusted")]


def test_only_allowed_variables_are_expanded(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"web": {"url": "https://example.com/${PLACE:-here}", "headers": {"Authorization": "Bearer ${TOKEN}"}}},
    )
    environment = {"TOKEN": "t0ken", "AWS_SECRET": "x"}
    server = load_mcp_config(path, allow_env=["TOKEN", "PLACE"], environment=environment)["web"]
    assert server.url == "https://example.com/here"
    assert server.headers == {"Authorization": "Bearer t0ken"} and "t0ken" not in repr(server)
    with pytest.raises(
        UserError, match=r"web\.headers\.Authorization: \$\{TOKEN\} is not allowed; allow it with allow_env"
    ):
        load_mcp_config(path, allow_env=["PLACE"], environment=environment)
    with pytest.raises(UserError, match="the environment has no TOKEN"):
        load_mcp_config(path, allow_env=["TOKEN", "PLACE"], environment={})


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({"comand": "x"}, "key 'comand' is not known; nearest: 'command'"),
        ({"command": "x", "zzz": 1}, "key 'zzz' is not known; known: type, command"),
        ({}, "either `command`"),
        ({"command": "x", "url": "https://a"}, "either `command`"),
        ({"url": "https://a", "env": {"A": "b"}}, "belong to `command`"),
        ({"command": "x", "headers": {"A": "b"}}, "belong to `url`"),
        ({"command": "x", "type": "http"}, "type 'http' does not fit"),
        ({"command": "x", "type": "sse"}, r"web\.type: "),
        ({"command": "x", "args": "-m"}, r"web\.args: "),
        ({"command": "x", "env": {"A": 1}}, r"web\.env\.A: "),
        ({"command": "x", "disabled": "no"}, r"web\.disabled: "),
        ("x", "must be an object"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, server: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_mcp_config(write(tmp_path, {"web": server}))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not a readable JSON"), ("[]", "needs an object"), ('{"mcpServer": {}}', "found 'mcpServer'")],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_mcp_config(path)
    with pytest.raises(UserError, match="not a readable JSON"):
        load_mcp_config(tmp_path / "absent.json")


def test_values_that_break_a_rule_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_mcp_config(write(tmp_path, {"web": {"command": "x", "env": {"TOKEN": ["hunter2"]}}}))
    assert "hunter2" not in str(caught.value) and caught.value.__cause__ is None


def test_ids_are_short_and_hold_no_secret() -> None:
    assert MCPToolset.stdio("python", "-m", "mcp_servers.filesystem", "./notes").id == "mcp_servers.filesystem"
    assert MCPToolset.stdio("agentkit-mcp", "filesystem", "./notes").id == "filesystem"
    assert MCPToolset.stdio("/usr/bin/notes-server", "--token", "x").id == "notes-server"
    assert MCPToolset.stdio("python", "-c", "secret = 1").id == "python"
    assert MCPToolset("https://user:pw@example.com/mcp?key=1").id == "example.com/mcp"


def test_a_file_may_say_that_missing_hints_are_harmless_and_the_program_goes_before_it(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"lenient": {"command": "true", "assume_harmless": True}, "strict": {"command": "true"}},
    )

    def assumed(**options: Any) -> list[bool]:
        return [toolset.assume_harmless for toolset in MCPToolset.from_config(path, **options)]

    assert assumed() == [True, False]
    assert assumed(assume_harmless=True) == [True, True]
    assert assumed(assume_harmless=False) == [False, False]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"mcpServers": {"a": {"env": ' + '{"b": ' * 100_000,
        '{"mcpServers": {"a": {"command": "x", "args": ' + "[" * 480 + "]" * 480 + "}}}",
    ],
    ids=["arrays", "objects", "arguments that json still reads"],
)
def test_a_file_that_is_nested_too_deeply_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"mcp\.json: (nested too deeply|mcpServers\.a\.args)"):
        load_mcp_config(path)


def test_a_server_with_a_login_says_how_in_the_file(tmp_path: Path) -> None:
    auth = {"type": "oauth", "scopes": ["read"], "client_id": "c", "client_secret": "${SECRET}", "account": "work"}
    path = write(tmp_path, {"mail": {"url": "https://mail.example/mcp", "auth": auth}})
    (server,) = load_mcp_config(path, allow_env=["SECRET"], environment={"SECRET": "hunter2"}).values()
    target = server.target()
    assert isinstance(target, HttpTarget) and target.auth is not None
    assert (target.auth.scopes, target.auth.client_secret, target.auth.account) == (("read",), "hunter2", "work")
    assert target.auth.on_authorize is None  # nobody is asked because of a file
    assert "hunter2" not in repr(server) + repr(target)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"command": "x", "auth": {}}, "belong to `url`"),
        ({"url": "https://a.example", "auth": {"scope": "x"}}, "auth.scope"),
        ({"url": "https://a.example", "auth": "oauth"}, "mcpServers.a.auth"),
        ({"url": "http://a.example", "auth": {}}, "must be https"),
        ({"url": "https://a.example", "auth": {"client_secret": "s"}}, "belong to a client_id"),
        ({"url": "https://a.example", "auth": {}, "headers": {"Authorization": "x"}}, "not both"),
    ],
)
def test_a_login_that_cannot_work_is_refused_with_its_reason(
    tmp_path: Path, entry: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        MCPToolset.from_config(write(tmp_path, {"a": entry}))
