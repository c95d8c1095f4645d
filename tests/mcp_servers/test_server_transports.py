"""Transports: a real stdio child, a real HTTP server on loopback."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from server_harness import REPOSITORY, asker, http_server

from mcp_servers.failures import StartError
from mcp_servers.serving import allowed_names, check_host, check_token

pytestmark = pytest.mark.anyio

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
}
ACCEPT = {"accept": "application/json, text/event-stream"}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "todo.md").write_text("one\ntwo\nthree\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "a.db"
    connection = sqlite3.connect(path)
    connection.executescript("create table t(a); insert into t values (41), (42);")
    connection.close()
    return path


async def test_filesystem_over_stdio(notes: Path) -> None:
    target = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_servers.filesystem", str(notes)], cwd=REPOSITORY
    )
    async with Client(target) as client:
        assert await asker(client)("file_info", path="todo.md") is not None
        text, is_error = await asker(client)("read_text_file", path="todo.md")
        assert (text, is_error) == ("todo.md: 3 lines\none\ntwo\nthree\n", False)
        assert await asker(client)("search_text", text="t(w|x)o", regex=True) == ("todo.md:2: two", False)


async def test_sqlite_over_stdio(database: Path) -> None:
    target = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_servers.sqlite", str(database)], cwd=REPOSITORY
    )
    async with Client(target) as client:
        assert await asker(client)("query", sql="select max(a) as m from t") == ("m\n42", False)


async def test_http_needs_the_token_and_a_known_host_and_origin(notes: Path) -> None:
    with http_server("mcp_servers.filesystem", str(notes)) as (url, token):
        bearer = {"authorization": f"Bearer {token}", **ACCEPT}
        port = url.split(":")[2].split("/")[0]

        async with httpx2.AsyncClient() as http:

            async def status(headers: dict[str, str]) -> int:
                return (await http.post(url, json=INITIALIZE, headers=headers)).status_code

            assert await status(ACCEPT) == 401
            assert await status({**bearer, "authorization": "Bearer wrong"}) == 401
            assert await status({**bearer, "authorization": token}) == 401
            for host in (
                "evil.test",
                "localhost:1@evil",
                "127.0.0.1:1",
                f"127.0.0.1.evil.test:{port}",
                f"127.0.0.1:{port}@evil",
                "localhost",
            ):
                assert await status({**bearer, "host": host}) == 421, host
            for origin in (
                "http://evil.test",
                "null",
                "",
                f"http://127.0.0.1:{port}.evil.test",
                "https://localhost",
            ):
                assert await status({**bearer, "origin": origin}) == 403, origin
            own = f"http://localhost:{port}"
            assert await status({**bearer, "origin": own}) == 200
            twice = [*bearer.items(), ("origin", own), ("origin", own)]
            assert (await http.post(url, json=INITIALIZE, headers=twice)).status_code == 403
            body = json.dumps(INITIALIZE).encode()
            for said in (
                (),
                ("text/plain",),
                ("application/x-www-form-urlencoded",),
                ("",),
                ("application/jsonp",),
            ):
                headers = [*bearer.items(), *(("content-type", one) for one in said)]
                assert (await http.post(url, content=body, headers=headers)).status_code == 415, said
            json_type = {**bearer, "content-type": "application/json; charset=utf-8"}
            assert (await http.post(url, content=body, headers=json_type)).status_code == 200
            both = [*json_type.items(), ("content-type", "text/plain")]
            assert (await http.post(url, content=body, headers=both)).status_code == 415
            too_large = await http.post(url, content=b" " * (4 * 1024 * 1024 + 1), headers=json_type)
            assert too_large.status_code == 413

        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            assert not (await asker(client)("list_directory"))[1]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["filesystem", "/no/such/folder"], "cannot open the folder"),
        (["sqlite", "/no/such.db"], "is not a file"),
        (["filesystem", ".", "--http", "--host", "0.0.0.0"], "binds every interface"),
        (["filesystem", ".", "--http", "--token", "short"], "--token needs"),
        (["sqlite", ".", "--timeout", "0"], "--timeout must be positive"),
        (["time", "--zone", "Europe/Berln"], "'Europe/Berlin'"),
        (["git", "/no/such/folder"], "has no folder '.git'"),
        (["git", ".", "--author", "nobody"], "Ann Lee <ann@example.org>"),
        (["fetch", "--allow", "localhost"], "--allow"),
        (["memory", "/no/such/folder/memory.db"], "/no/such/folder"),
        (["search", "/no/such/folder"], "cannot open the folder"),
        (["python", "--seconds", "0"], "--seconds must be above 0"),
    ],
)
async def test_a_wrong_command_line_is_explained_without_a_traceback(arguments: list[str], problem: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"mcp_servers.{arguments[0]}", *arguments[1:]],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert problem in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "server", ["browser", "fetch", "filesystem", "git", "memory", "python", "search", "sqlite", "time"]
)
async def test_help_does_not_import_mcp(server: str) -> None:
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('mcp_servers.{server}', run_name='__main__')\n"
        "except SystemExit: print('mcp' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert "--token" in done.stdout
    assert done.stderr.strip() == "False"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org", ""])
async def test_only_concrete_addresses_can_be_bound(host: str) -> None:
    with pytest.raises(StartError):
        check_host(host)


async def test_loopback_answers_to_its_three_names_and_others_to_one() -> None:
    assert set(allowed_names("127.0.0.1")) == {"127.0.0.1", "localhost", "[::1]"}
    assert set(allowed_names("::1")) == {"127.0.0.1", "localhost", "[::1]"}
    assert allowed_names("192.0.2.7") == ("192.0.2.7",)


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "\u00e9" * 20, "with space in it 123"])
async def test_a_weak_token_is_refused(token: str) -> None:
    with pytest.raises(StartError):
        check_token(token)


NO_MESSAGES = (
    b"{not json}",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"jsonrpc": "2.0", "id": "x", "method": "tools/call", "params": {"name": NaN}}',
    b"[" * 5_000,
    b'"' + b"x" * 5_000_000 + b'"',
)


async def test_lines_that_are_no_messages_do_not_stop_the_server(notes: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mcp_servers.filesystem", str(notes)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    # Each of the lines comes before a request, the first one before any.
    requests = [
        INITIALIZE,
        *({"jsonrpc": "2.0", "id": n, "method": "ping"} for n in range(2, 1 + len(NO_MESSAGES))),
    ]
    lines = [
        line
        for pair in zip(NO_MESSAGES, requests, strict=True)
        for line in (pair[0], json.dumps(pair[1]).encode())
    ]
    output, _ = process.communicate(b"\n".join(lines) + b"\n")
    replies = {reply["id"]: reply for reply in map(json.loads, output.splitlines()) if reply.get("id") != "x"}
    assert replies[1]["result"]["serverInfo"]["name"] == "agentkit-filesystem"
    assert [n for n in range(2, 1 + len(NO_MESSAGES)) if replies.get(n, {}).get("result") != {}] == []
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
async def test_an_interrupt_ends_a_server_whose_standard_input_is_open(notes: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mcp_servers.filesystem", str(notes)],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )  # fmt: skip
    with process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(INITIALIZE) + "\n")
        process.stdin.flush()
        assert "serverInfo" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == -signal.SIGINT
