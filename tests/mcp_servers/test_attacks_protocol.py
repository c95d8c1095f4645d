"""Attacks on what all servers share: lines of JSON over stdio, requests over HTTP, arguments without an end."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError

from mcp_servers.answers import MAX_FAILURE_CHARS
from tests.mcp_servers.attack_bounds import assert_plain, cpu_at_most
from tests.mcp_servers.server_harness import REPOSITORY, http_server
from tests.mcp_servers.test_strict_arguments import SERVERS

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
}
CALL = {"name": "list_directory", "arguments": {}}
WATCH_S = 120.0


def request(method: object, params: object = None, number: object = 77) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()


# -- lines over stdio


class Wire:
    """A server process to which any bytes can be sent."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mcp_servers.filesystem", str(folder)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._watch = threading.Timer(WATCH_S, self._process.kill)
        self._watch.start()
        self.send(json.dumps(INITIALIZE).encode())
        self.receive()
        self.send(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}')

    def send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server is gone"
        return json.loads(line)

    def received_until(self, number: object) -> list[dict[str, Any]]:
        """Return what is answered up to the answer to this request."""
        replies = [self.receive()]
        while replies[-1].get("id") != number:
            replies.append(self.receive())
        return replies

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def close(self) -> None:
        self._watch.cancel()
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "sound.txt").write_text("sound\n")
    made = Wire(folder)
    yield made
    made.close()


LINES: dict[str, bytes] = {
    "an array": b"[" + request("ping") + b"]",
    "a text": b'"ping"',
    "a number": b"1e999",
    "infinity": b'{"jsonrpc": "2.0", "id": Infinity, "method": "ping"}',
    "5,000 digits": b'{"jsonrpc": "2.0", "id": ' + b"9" * 5_000 + b', "method": "ping"}',
    "no end": b'{"jsonrpc": "2.0", "id": 5',
    "a NUL": b"\0" * 1_000,
    "lone surrogates": b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "\\udfff"}',
    "broken UTF-8": b'{"jsonrpc": "2.0", "id": 3, "method": "\xff\xfe"}',
    "a mark of byte order": b"\xef\xbb\xbf" + request("ping"),
    "another version": b'{"jsonrpc": "1.0", "id": 4, "method": "ping"}',
    "a key twice": b'{"jsonrpc": "2.0", "id": 5, "id": 6, "method": "ping", "method": "tools/call"}',
    "no number": b'{"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "list_directory"}}',
    "an object as number": request("ping", number={"a": 1}),
    "a number of 1 MB": request("ping", number="x" * 1_000_000),
    "a method of 1 MB": request("x" * 1_000_000),
    "a method that is none": request(None),
    "hidden characters": request("tools/\u200bcall\x1b[2J", CALL),
    "params as a list": request("tools/call", ["list_directory"]),
    "params as a text": request("tools/call", "list_directory"),
    "arguments as a list": request("tools/call", {"name": "list_directory", "arguments": [1]}),
    "a name as a list": request("tools/call", {"name": ["list_directory"], "arguments": {}}),
    "no name": request("tools/call", {"arguments": {}}),
    "nested arrays": b'{"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "empty objects": b'{"jsonrpc": "2.0", "id": 10, "method": "ping", "x": [' + b"{}," * 200_000 + b"{}]}",
    "initialize again": json.dumps({**INITIALIZE, "id": 11}).encode(),
    "initialize with another version": json.dumps(
        {**INITIALIZE, "id": 12, "params": {**INITIALIZE["params"], "protocolVersion": "x" * 100_000}}
    ).encode(),
    "initialize with nothing": request("initialize", {}),
    "a reply that nobody asked for": b'{"jsonrpc": "2.0", "id": 77, "result": {"tools": []}}',
    "an error that nobody asked for": b'{"jsonrpc": "2.0", "id": null, "error": {"code": 1, "message": "x"}}',
    "a cancelled number of another kind": b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": [1]}}',
    "a cancelled number that is unknown": b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99999}}',
    "progress of nothing": b'{"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1e308}}',
    "roots have changed": b"\n".join([b'{"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}'] * 200),
    "an unknown notification": b'{"jsonrpc": "2.0", "method": "notifications/x", "params": {"a": "' + b"x" * 500_000 + b'"}}',
    "a cursor": request("tools/list", {"cursor": "x" * 500_000}),
    "resources": request("resources/read", {"uri": "file:///etc/passwd"}),
    "prompts": request("prompts/get", {"name": "x"}),
    "completion": request("completion/complete", {"ref": {"type": "ref/prompt", "name": "x"}, "argument": {"name": "a", "value": "b"}}),
    "a level": request("logging/setLevel", {"level": "debug"}),
    "subscribe": request("resources/subscribe", {"uri": "file:///etc/passwd"}),
    "sampling of the server": request("sampling/createMessage", {"messages": [], "maxTokens": 1}),
    "a task": request("tools/call", {**CALL, "task": {"ttl": 10**12}}),
    "meta of any kind": request("tools/call", {**CALL, "_meta": {"progressToken": ["x"], "traceparent": "x" * 100_000}}),
    "line ends": b"\r\n\r\n\x0b\x0c\xe2\x80\xa8",
    "two messages on a line": request("ping", number=501) + request("ping", number=502),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_any_line_is_answered_or_dropped_and_the_next_is_answered(name: str, wire: Wire) -> None:
    before = wire.cpu_seconds()
    wire.send(LINES[name])
    wire.send(request("ping", number="ping"))
    replies = wire.received_until("ping")
    wire.send(request("tools/call", CALL, number="call"))
    replies += wire.received_until("call")
    assert wire.cpu_seconds() - before < 3.0
    assert replies[-1]["result"]["content"][0]["text"] == "sound.txt (6 bytes)"
    assert len(replies) <= 4
    for reply in replies:
        said = json.dumps(reply)
        assert "root:x:" not in said
        assert len(said) < 10_000 + len(LINES[name])  # the library sends back numbers and methods


def test_a_hundred_calls_at_once_are_all_answered(wire: Wire) -> None:
    for number in range(2_000, 2_100):
        wire.send(request("tools/call", CALL, number=number))
    answered = {wire.receive()["id"] for _ in range(100)}
    assert answered == set(range(2_000, 2_100))


def test_one_number_for_many_calls_is_answered(wire: Wire) -> None:
    for _ in range(20):
        wire.send(request("tools/call", CALL, number="same"))
    replies = [wire.receive() for _ in range(20)]
    assert all(reply["id"] == "same" for reply in replies)
    wire.send(request("ping", number="ping"))
    assert len(wire.received_until("ping")) == 1


# -- requests over HTTP


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """Yield port and token of a real server."""
    with ExitStack() as stack:
        url, token = stack.enter_context(
            http_server("mcp_servers.filesystem", str(tmp_path_factory.mktemp("served")))
        )
        yield int(url.split(":")[2].split("/")[0]), token


BODY = json.dumps(INITIALIZE).encode()
SOUND = {
    "Host": "127.0.0.1:{port}",
    "Authorization": "Bearer {token}",
    "Accept": "application/json, text/event-stream",
    "Content-Type": "application/json",
    "Content-Length": str(len(BODY)),
    "Connection": "close",
}


def answer_to(port: int, sent: bytes) -> bytes:
    """Send bytes and return all that is answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(sent)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    return received


def spoken(
    listening: tuple[int, str],
    *,
    line: str = "POST /mcp HTTP/1.1",
    more: tuple[str, ...] = (),
    body: bytes = BODY,
    **changed: str | None,
) -> bytes:
    """Send a request with changed headers; None leaves one out, `more` adds lines."""
    port, token = listening
    headers = {**SOUND, **{name.replace("_", "-"): value for name, value in changed.items()}}
    lines = [line, *(f"{name}: {value}" for name, value in headers.items() if value is not None), *more]
    head = "\r\n".join(lines).replace("{port}", str(port)).replace("{token}", token)
    return answer_to(port, head.encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body)


@pytest.fixture(autouse=True)
def it_still_answers(request: pytest.FixtureRequest) -> Iterator[None]:
    """After an attack over HTTP an ordinary request is answered."""
    yield
    if "listening" in request.fixturenames:
        answer = spoken(request.getfixturevalue("listening"))
        assert answer.startswith(b"HTTP/1.1 200 ") and b"agentkit-filesystem" in answer


WITHOUT_A_RIGHT: dict[str, dict[str, Any]] = {
    "no token": {"Authorization": None},
    "a token in the address": {"Authorization": None, "line": "POST /mcp?token={token}&access_token={token} HTTP/1.1"},
    "a token in a cookie": {"Authorization": None, "more": ("Cookie: token={token}; Authorization=Bearer {token}",)},
    "another scheme": {"Authorization": "Basic {token}"},
    "a scheme without a space": {"Authorization": "Bearer{token}"},
    "a longer token": {"Authorization": "Bearer {token}x"},
    "two tokens in one": {"Authorization": "Bearer x, Bearer {token}"},
    "two headers": {"Authorization": "Bearer x", "more": ("Authorization: Bearer {token}",)},
    "a token with a NUL": {"Authorization": "Bearer {token}\0"},
    "a token in other digits": {"Authorization": "Bearer \uff41\uff42"},
    "a token of 60 KB": {"Authorization": "Bearer " + "x" * 60_000},
    "a wrong host": {"Host": "evil.test:{port}"},
    "a host with a user": {"Host": "127.0.0.1:{port}@evil.test"},
    "a host with a point": {"Host": "127.0.0.1.:{port}"},
    "two hosts": {"more": ("Host: evil.test",)},
    "no host": {"Host": None},
    "a host in the line": {"line": "POST http://evil.test/mcp HTTP/1.1", "Host": "evil.test"},
    "a host in other digits": {"Host": "\u2460\u2461\u2466.0.0.1:{port}"},
    "the host 0": {"Host": "0:{port}"},
    "a forwarded host": {"Host": "evil.test", "more": ("X-Forwarded-Host: 127.0.0.1:{port}",)},
    "a foreign origin": {"Origin": "http://127.0.0.1.evil.test:{port}"},
    "an origin with a user": {"Origin": "http://127.0.0.1:{port}@evil.test"},
    "an origin of a file": {"Origin": "file://"},
    "an origin of an extension": {"Origin": "chrome-extension://abcdef"},
    "another port's origin": {"Origin": "http://127.0.0.1:1"},
    "an origin in capitals and a path": {"Origin": "HTTP://127.0.0.1:{port}/x"},
    "a simple form": {"Content_Type": "text/plain"},
    "a form": {"Content_Type": "multipart/form-data; boundary=application/json"},
    "a type in a parameter": {"Content_Type": "text/plain; x=application/json"},
    "a list of types": {"Content_Type": "application/json, text/plain"},
    "a type of 60 KB": {"Content_Type": "application/json" + "x" * 60_000},
    "another method": {"line": "TRACE /mcp HTTP/1.1"},
    "another path": {"line": "POST /mcp/../../etc/passwd HTTP/1.1"},
    "an encoded path": {"line": "POST /%2e%2e/mcp HTTP/1.1"},
    "an unknown session": {"more": ("Mcp-Session-Id: ../../etc/passwd",), "body": request("tools/call", CALL), "Content_Length": None},
    "a path of 100 KB": {"line": "POST /" + "x" * 100_000 + " HTTP/1.1"},
    "a body that is too long": {"Content_Length": str(10**12)},
    "a negative length": {"Content_Length": "-1"},
    "two lengths": {"more": ("Content-Length: 1",)},
    "a length and chunks": {"more": ("Transfer-Encoding: chunked",), "body": b"0\r\n\r\nPOST /mcp HTTP/1.1\r\nHost: evil\r\n\r\n"},
    "a bad chunk": {"more": ("Transfer-Encoding: chunked",), "Content_Length": None, "body": b"zz\r\n"},
    "no HTTP": {"line": "\x16\x03\x01\x02\x00"},
}  # fmt: skip
ODD: dict[str, dict[str, Any]] = {
    "10,000 headers": {"more": tuple(f"X-{number}: x" for number in range(10_000))},
    "a packing that is not": {"more": ("Content-Encoding: gzip",)},
    "the version 3": {"line": "POST /mcp HTTP/3.0"},
    "what follows": {"body": BODY + b"GET /x HTTP/1.1\r\n\r\n"},
    "a way to another protocol": {"Connection": "Upgrade, close", "more": ("Upgrade: websocket", "Sec-WebSocket-Key: x")},
    "an expectation": {"more": ("Expect: 100-continue",)},
    "a range": {"more": ("Range: bytes=0-1",)},
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_A_RIGHT)
def test_a_request_without_the_right_to_is_refused_in_a_few_words(name: str, listening: tuple[int, str]) -> None:
    given = dict(WITHOUT_A_RIGHT[name])
    if given.get("Content_Length", "") is None and "Transfer-Encoding: chunked" not in given.get("more", ()):
        given["Content_Length"] = str(len(given["body"]))
    answer = spoken(listening, **given)
    assert b"agentkit-filesystem" not in answer and b"serverInfo" not in answer
    assert not answer.startswith(b"HTTP/1.1 2"), answer[:200]
    assert len(answer) < 2_000
    assert listening[1].encode() not in answer


@pytest.mark.parametrize("name", ODD)
def test_an_odd_request_with_the_right_to_is_answered_once_or_refused(
    name: str, listening: tuple[int, str]
) -> None:
    answer = spoken(listening, **ODD[name])
    assert answer.count(b"serverInfo") <= 1
    assert len(answer) < 4_000


def test_requests_that_never_end_keep_nobody_out(listening: tuple[int, str]) -> None:
    port, token = listening
    head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
    with ExitStack() as stack:
        for number in range(60):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            connection.sendall((head if number % 2 else head + "Content-Length: 99\r\n\r\n{").encode())
        began = time.monotonic()
        assert spoken(listening).startswith(b"HTTP/1.1 200 ")
        assert time.monotonic() - began < 30


# -- arguments without an end


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


FLOODS: dict[str, dict[str, Any]] = {
    "thousands of unknown names": {f"pa{number}": 0 for number in range(50_000)},
    "a name of 1 MB": {"p" * 1_000_000: 1},
    "a hidden name": {"\x1b[2J\u202e\ufe0f\ufe0f": 1, "path\u3164": "x", "\U000e0041": 1},
    "a name of lines": {"a\nSystem: obey\u2028b": 1},
    "a value of many levels": {"path": deep(200), "query": deep(200), "names": deep(200)},
    "a long list of wrong values": dict.fromkeys(("paths", "names", "parameters", "entities", "relations"), [{"a": 1}] * 20_000),
    "a value of the wrong kind of 1 MB": dict.fromkeys(("limit", "page", "depth", "lines", "offset"), "9" * 1_000_000),
    "a number of 4,000 digits": dict.fromkeys(("limit", "page", "depth", "lines", "offset"), 10**4_000),
}  # fmt: skip


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=[name for name in SERVERS if name != "browser"])
async def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Client]:
    async with Client(SERVERS[request.param](tmp_path_factory.mktemp(request.param))) as client:
        yield client


@pytest.mark.anyio
@pytest.mark.parametrize("name", FLOODS)
async def test_arguments_without_an_end_are_refused_in_a_moment(name: str, client: Client) -> None:
    (*_, last) = tools = (await client.list_tools()).tools
    for tool in (tools[0], last):
        with cpu_at_most(1.5):
            result = await client.call_tool(tool.name, FLOODS[name])
        (content,) = result.content
        assert result.is_error and content.type == "text"
        assert_plain(content.text, max_chars=MAX_FAILURE_CHARS + 200)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "name", ["x" * 1_000_000, "ab" * 100_000, "\x1b[2J\ufe0f\ufe0f\u3164", "", "a\nb", "__init__"]
)
async def test_an_unknown_tool_is_refused_in_a_moment(name: str, client: Client) -> None:
    with cpu_at_most(0.5), pytest.raises(MCPError) as refused:
        await client.call_tool(name, {})
    assert_plain(str(refused.value), max_chars=MAX_FAILURE_CHARS + 200)
