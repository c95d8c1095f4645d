"""A scripted HTTP/1.1 server on loopback, in a thread with an event loop of its own.

Written on raw asyncio streams rather than a framework, so that a script can cut a connection at any byte, stall,
and see when the client goes away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agentkit.messages import ModelRequest, UserPromptPart

NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
HELLO = (ModelRequest((UserPromptPart("Hello"),)),)


@dataclass(frozen=True)
class Received:
    """One request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    n_connection: int


class Connection:
    """What a scripted reply writes to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: ChatServer) -> None:
        self._reader = reader
        self._writer = writer
        self._server = server
        self.closed = False

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
        await self.write("\r\n".join([*lines, "", ""]).encode())

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def chunk(self, data: bytes) -> None:
        await self.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def end_chunks(self) -> None:
        await self.write(b"0\r\n\r\n")

    def cut(self) -> None:
        """Abort; what is still in flight may be lost."""
        self._writer.transport.abort()
        self.closed = True

    def close_politely(self) -> None:
        """Close after what was written, which is less than the headers promised."""
        self._writer.write_eof()
        self.closed = True

    async def wait_for_client_to_leave(self) -> None:
        self._server.stalled.set()
        with contextlib.suppress(ConnectionError):
            await self._reader.read()
        self._server.client_left.set()
        self.closed = True


Reply = Callable[[Connection], Awaitable[None]]


class ChatServer:
    """Serves the replies in order, one a request; the last one again and again."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = replies
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="chat-server", daemon=True)
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._n_connections = 0
        self.requests: list[Received] = []
        self.base_url = ""
        self.stalled = threading.Event()
        self.client_left = threading.Event()

    def __enter__(self) -> ChatServer:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def n_connections(self) -> int:
        return self._n_connections

    @property
    def bodies(self) -> list[Any]:
        return [request.body for request in self.requests]

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._started.set()
        async with server:
            await self._stop.wait()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._n_connections += 1
        connection = Connection(reader, writer, self)
        n_connection = self._n_connections
        try:
            while not connection.closed:
                received = await _read_request(reader, n_connection)
                if received is None:
                    break
                reply = self._replies[min(len(self.requests), len(self._replies) - 1)]
                self.requests.append(received)
                await reply(connection)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader, n_connection: int) -> Received | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    request_line, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _ = request_line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, json.loads(body), n_connection)


def raw(
    body: bytes,
    *,
    status: int = 200,
    content_type: str | None = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Answer with a body as it is."""

    async def reply(connection: Connection) -> None:
        kind = {} if content_type is None else {"content-type": content_type}
        await connection.head(status, {**kind, "content-length": str(len(body)), **(headers or {})})
        await connection.write(body)

    return reply


def answer(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Answer with JSON."""
    return raw(json.dumps(body).encode(), status=status, headers=headers)


def stream(pieces: Sequence[bytes], *, then: str = "end") -> Reply:
    """Answer with an event stream of pieces; `then` end it, "cut" the connection, or "stall"."""

    async def reply(connection: Connection) -> None:
        await connection.head(
            200, {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}
        )
        for piece in pieces:
            await connection.chunk(piece)
        if then == "end":
            await connection.end_chunks()
        elif then == "cut":
            connection.close_politely()
        else:
            await connection.wait_for_client_to_leave()

    return reply


async def hang_up(connection: Connection) -> None:
    """Close the connection without a byte."""
    connection.cut()


async def say_nothing(connection: Connection) -> None:
    """Take the request and never answer."""
    await connection.wait_for_client_to_leave()


DONE = b"data: [DONE]\n\n"


def event(chunk: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def delta(finish_reason: str | None = None, **fields: Any) -> bytes:
    """One chat completion chunk as an event."""
    choice = {"index": 0, "delta": fields, "finish_reason": finish_reason}
    return event({"id": "c", "object": "chat.completion.chunk", "model": "served", "choices": [choice]})


def completion(message: Any, *, finish_reason: str | None = "stop", **fields: Any) -> dict[str, Any]:
    """One whole chat completion."""
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion", "model": "served", "choices": [choice], **fields}
