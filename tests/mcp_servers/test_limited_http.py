"""Requests as bytes, to a server on each parser: what is answered, what is refused, and that none waits for ever.

The rules are those of RFC 9112 (HTTP/1.1), sections 2.2, 3.2, 5 to 7 and 11.2.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from mcp_servers.limited_http import MOST_HEAD_BYTES
from mcp_servers.uvicorn_settings import http_parser

pytestmark = pytest.mark.anyio
HTTPTOOLS = "mcp_servers.limited_http:LimitedHttp"
ASKS_TO_UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
THREE = b"Content-Length: 3\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def request(method: str = "GET", path: str = "/a", lines: bytes = b"", body: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n".encode() + lines + b"\r\n" + body


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with path and body of the request."""
    if scope["type"] != "http":
        return
    text = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        text += message["body"]
        if not message["more_body"]:
            break
    answer = f"<{scope['path']}:{text.decode()}>".encode()
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


@asynccontextmanager
async def _served(parser: str) -> AsyncIterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(_echo, http=parser, ws="none", log_level="critical", access_log=False)  # pyright: ignore[reportArgumentType]
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


async def _answer(port: int, *parts: bytes, until: bytes = b">") -> str:
    """Return what a server sends for a connection's bytes, until it closes or has sent `until`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    try:
        async with asyncio.timeout(20):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.02)
            while not got.endswith(until) and (more := await reader.read(65_536)):
                got += more
    except ConnectionError:
        pass  # closed before all was sent
    finally:
        writer.close()
    return got.decode()


@pytest.mark.parametrize("parser", [HTTPTOOLS, "h11"])
@pytest.mark.parametrize(
    ("parts", "answers"),
    [
        pytest.param((request(),), ["</a:>"], id="GET"),
        pytest.param((b"GET /a HTTP/1.0\r\n\r\n",), ["</a:>"], id="1.0"),
        pytest.param((request("POST", "/a%20b?c", THREE, b"abc"),), ["</a b:abc>"], id="POST"),
        pytest.param((request("POST", lines=THREE), b"a", b"bc"), ["</a:abc>"], id="body in parts"),
        pytest.param(
            (request("POST", lines=CHUNKED), b"2\r\nab\r\n", b"1\r\nc\r\n0\r\n\r\n"), ["</a:abc>"], id="chunks"
        ),
        pytest.param((request(), request(path="/b")), ["</a:>", "</b:>"], id="two requests"),
        pytest.param((request() + request(path="/b"),), ["</a:>", "</b:>"], id="pipelined"),
        pytest.param((request(lines=ASKS_TO_UPGRADE), request(path="/b")), ["</a:>", "</b:>"], id="upgrade"),
        pytest.param((b"GET /a HTTP/1.0\r\n" + ASKS_TO_UPGRADE + b"\r\n",), ["</a:>"], id="upgrade of HTTP/1.0"),
        pytest.param(
            (request(lines=ASKS_TO_UPGRADE) + request(path="/b"),), ["</a:>", "</b:>"], id="upgrade, pipelined"
        ),
        pytest.param(
            (request("POST", lines=ASKS_TO_UPGRADE + THREE, body=b"abc"),), ["</a:abc>"], id="upgrade with a body"
        ),
        pytest.param(
            (request("POST", lines=ASKS_TO_UPGRADE + THREE), b"a", b"bc"),
            ["</a:abc>"],
            id="upgrade with a body in parts",
        ),
        pytest.param(
            (request("POST", lines=ASKS_TO_UPGRADE + THREE, body=b"abc"), request(path="/b")),
            ["</a:abc>", "</b:>"],
            id="upgrade with a body, and a request",
        ),
    ],
)
async def test_what_is_answered(parser: str, parts: tuple[bytes, ...], answers: list[str]) -> None:
    async with _served(parser) as port:
        got = await _answer(port, *parts, until=answers[-1].encode())
    assert got.count("HTTP/1.1 200") == len(answers)
    assert [got.find(each) for each in answers] == sorted(got.find(each) for each in answers)
    assert all(got.count(each) == 1 for each in answers)


@pytest.mark.parametrize("parser", [HTTPTOOLS, "h11"])
@pytest.mark.parametrize(
    "parts",
    [
        pytest.param((request(lines=b"A: " + b"x" * 200_000 + b"\r\n"),), id="one long line"),
        pytest.param((request()[:-2], *[b"A: " + b"x" * 9_000 + b"\r\n"] * 30), id="many lines"),
        pytest.param((b"GET /", *[b"x" * 60_000] * 4), id="endless target"),
        pytest.param((request("POST", lines=CHUNKED, body=b"3;"), *[b"x" * 60_000] * 4), id="chunk extension"),
        pytest.param((request("POST", lines=CHUNKED, body=b"0\r\nA: "), *[b"x" * 60_000] * 4), id="trailer"),
        pytest.param((b"GET /a HTTP/1.1\r\n\r\n",), id="no host"),
        pytest.param((request(lines=b"Host: y\r\n"),), id="two hosts"),
        pytest.param((request("POST", lines=THREE + b"Content-Length: 5\r\n", body=b"abc"),), id="two lengths"),
        pytest.param((request(lines=b"A: b\0c\r\n"),), id="NUL"),
        pytest.param((b"GET /a HTTP/1.1\r\nHost : x\r\n\r\n",), id="space before the colon"),
        pytest.param((b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",), id="a letter beyond ASCII"),
        pytest.param((request("POST", lines=CHUNKED, body=b"zz\r\n"),), id="no chunk"),
        pytest.param((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",), id="TLS"),
    ],
)
async def test_what_is_refused_ends_the_connection(parser: str, parts: tuple[bytes, ...]) -> None:
    async with _served(parser) as port:
        got = await _answer(port, *parts)
        assert "</b:>" in await _answer(port, request(path="/b"))
    assert "HTTP/1.1 200" not in got
    assert got.startswith("HTTP/1.1 400") or not got  # the bytes that came too late make the system reset it


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        pytest.param(
            request(lines=b"A: " + b"x" * MOST_HEAD_BYTES + b"\r\n"), "has more than 65536 bytes", id="long head"
        ),
        pytest.param(b"GET /a HTTP/1.1\r\n\r\n", "has one Host", id="no host"),
        pytest.param(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "is no proxy", id="CONNECT"),
        pytest.param(request("POST", lines=THREE + CHUNKED, body=b"abc"), "Invalid HTTP", id="length and chunks"),
    ],
)
async def test_the_reason_is_told(part: bytes, reason: str) -> None:
    async with _served(HTTPTOOLS) as port:
        assert reason in await _answer(port, part)


async def test_many_requests_to_upgrade_in_one_piece_are_all_answered() -> None:
    n = 2_000
    async with _served(HTTPTOOLS) as port:
        got = await _answer(port, request(lines=ASKS_TO_UPGRADE) * n + request(path="/b"), until=b"</b:>")
    assert got.count("</a:>") == n


async def test_a_long_head_within_the_limit_is_answered() -> None:
    async with _served(HTTPTOOLS) as port:
        lines = b"A: " + b"x" * (MOST_HEAD_BYTES - 100) + b"\r\n"
        assert "</a:>" in await _answer(port, request(lines=lines))


def test_httptools_is_chosen_where_it_is_installed() -> None:
    assert http_parser() == HTTPTOOLS
