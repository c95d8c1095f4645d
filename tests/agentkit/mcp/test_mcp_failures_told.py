"""Failures of MCP servers as people read them: the telling line, the HTTP status, no secret."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentkit.errors import MCPConnectionError, UserError
from agentkit.mcp import MCPToolset
from agentkit.mcp.last_words import telling_line

Raw = Callable[..., MCPToolset]
Serve = Callable[[Any], Any]

PYTHON = """loading plugins
Traceback (most recent call last):
  File "server.py", line 6, in <module>
    start(12)
    ~~~~~^^^^
KeyError: 'NOTES_TOKEN is not set'
"""
GROUP = """  + Exception Group Traceback (most recent call last):
  |   File "server.py", line 3, in <module>
  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "server.py", line 1, in serve
    | ValueError: port 80 is taken
    +------------------------------------
"""
NODE = """node:internal/modules/cjs/loader:1080
  throw err;
  ^

Error: Cannot find module '/srv/index.js'
    at Module._resolveFilename (node:internal/modules/cjs/loader:1077:15) {
  code: 'MODULE_NOT_FOUND',
}

Node.js v20.1.0
"""


@pytest.mark.parametrize(
    ("stderr", "line"),
    [
        (PYTHON, "KeyError: 'NOTES_TOKEN is not set'"),
        (GROUP, "ValueError: port 80 is taken"),
        (NODE, "Error: Cannot find module '/srv/index.js'"),
        ("panic: no config\n\ngoroutine 1 [running]:\nmain.main()\n", "panic: no config"),
        ("usage: server FOLDER\nserver: error: FOLDER is missing\n", "server: error: FOLDER is missing"),
        ("one\ntwo\n", "two"),
        ("  only indented\n", "only indented"),
        ("", ""),
    ],
)
def test_the_telling_line_of_a_traceback_is_the_error(stderr: str, line: str) -> None:
    assert telling_line(stderr) == line


@pytest.mark.anyio
async def test_a_server_that_dies_is_told_in_one_line_and_the_whole_is_kept(raw: Raw, no_child_left: None) -> None:
    with pytest.raises(MCPConnectionError) as caught:
        await raw("print('loading', file=sys.stderr)\nraise KeyError('TOKEN is not set')").__aenter__()
    message = str(caught.value)
    assert message.startswith(
        "MCP server 'raw' cannot be reached: its process ended. Its stderr says: KeyError: 'TOKEN is not set' "
    )
    assert "`error.stderr`" in message and "\n" not in message
    assert caught.value.stderr.startswith("loading\nTraceback")
    assert caught.value.stderr in caught.value.__notes__[0]  # so a traceback shows it
    again = copy.copy(caught.value)
    assert (str(again), again.stderr) == (message, caught.value.stderr)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("python -m notes", "is one word to the system; give the command and its arguments apart"),
        ("no-such-command", "there is no command 'no-such-command' on PATH. Is it installed?"),
        ("{folder}/serve", "the command '{folder}/serve' does not exist; did you mean '{folder}/server'?"),
        ("{folder}", "is a folder; a server is a command."),
        ("{folder}/server", "is not executable."),
    ],
)
async def test_a_command_that_cannot_be_started_says_why(command: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "server").touch(mode=0o600)
    with pytest.raises(MCPConnectionError) as caught:
        await MCPToolset.stdio(command.format(folder=tmp_path)).__aenter__()
    assert reason.format(folder=tmp_path) in str(caught.value)


@pytest.mark.anyio
async def test_a_missing_working_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MCPConnectionError, match="its folder cwd='.*/gone' does not exist"):
        await MCPToolset.stdio("python", "-V", cwd=tmp_path / "gone").__aenter__()


class Refusing:
    """An endpoint that answers every request with one status, and repeats what it was sent."""

    def __init__(self, status: int) -> None:
        self.status = status

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = repr(dict(scope["headers"])).encode()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": body})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (
            401,
            None,
            "the server answered 401 Unauthorized: it wants a secret. Give it as a header: ",
        ),
        (401, {"Authorization": "Bearer t0ps3cret"}, "401 Unauthorized: it refuses the headers Authorization."),
        (403, {"X-Key": "t0ps3cret"}, "403 Forbidden: it refuses the headers X-Key."),
        (404, None, "the server answered 404 Not Found. Is the path of the URL right?"),
        (500, None, "the server answered 500 Internal Server Error."),
    ],
)
async def test_a_refusal_over_http_has_its_status_and_no_secret(
    http: Serve, status: int, headers: dict[str, str] | None, reason: str
) -> None:
    with http(Refusing(status)) as url, pytest.raises(MCPConnectionError) as caught:
        await MCPToolset.http(url, headers=headers).__aenter__()
    assert reason in str(caught.value)
    assert "t0ps3cret" not in str(caught.value)


def test_a_server_that_repeats_a_header_does_not_show_its_value() -> None:
    toolset = MCPToolset.http("https://example.com/mcp", headers={"Authorization": "Bearer t0ps3cret"})
    assert toolset._target.redacted("got t0ps3cret, as Bearer t0ps3cret") == "got [header], as [header]"
    assert "t0ps3cret" not in repr(toolset._target)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Authorization": "Bearer t0ps3cret\nX: y"}, "value of header 'Authorization' must be one line of ASCII"),
        ({"Authorization": "Bearer t0ps3crét"}, "value of header 'Authorization' must be one line of ASCII"),
        ({"Bad name": "t0ps3cret"}, "a header's name has letters, digits and hyphens"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(headers: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        MCPToolset.http("https://example.com/mcp", headers=headers)
    assert message in str(caught.value) and "t0ps" not in str(caught.value)
