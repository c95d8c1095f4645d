"""Load of the comparison of served agents: clients that ask at once, and the check of every reply.

The clients speak HTTP/1.1 over sockets of their own, because they share the machine with the server and an HTTP
library would take more of it than some servers do. Each client keeps its connection and asks again as soon as it
has the whole reply.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evals.speed.serving_agents_worker import ADK_APP, ARGUMENTS, PIECES, PROMPT, RESULT, TOOL

Protocol = Literal["ag-ui", "adk"]
LIMIT_S = 60.0
"""Seconds in which a reply must be complete."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Said:
    """Content of a reply."""

    text: str = ""
    """Pieces of text, joined."""
    calls: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    """Names and arguments of the calls of tools."""
    results: list[Any] = field(default_factory=list[Any])
    has_ended: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """Measurement of some requests."""

    cpu_s: float
    """CPU seconds of the server."""
    latencies_s: Sequence[float]
    """Seconds from each request to the end of its reply."""


async def load(pid: int, port: int, protocol: Protocol, *, n_requests: int, n_clients: int, name: str) -> Load:
    """Send requests from clients that ask at once, and check the replies.

    Args:
        pid: Process of the server.
        port: Its port on this machine.
        protocol: Form of the requests.
        n_requests: Number of requests, of all clients together.
        n_clients: Number of clients.
        name: Beginning of the names of the conversations; another one in each call.

    Raises:
        RuntimeError: a request was refused, or its reply is not complete or has other content.
    """
    numbers = iter(range(n_requests))
    latencies: list[float] = []
    replies: list[bytes] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            started = time.perf_counter()
            writer.write(request(protocol, f"{name}-{number}"))
            async with asyncio.timeout(LIMIT_S):
                replies.append(await reply_of(reader))
            latencies.append(time.perf_counter() - started)
        writer.close()
        await writer.wait_closed()

    before = cpu_s(pid)
    await asyncio.gather(*(client() for _ in range(n_clients)))
    taken = cpu_s(pid) - before
    for reply in replies:
        check(SAID[protocol](reply))
    return Load(taken, latencies)


def request(protocol: Protocol, conversation: str) -> bytes:
    """Return a request that begins a conversation, in the form of HTTP."""
    if protocol == "ag-ui":
        path = "/ag-ui"
        messages = [{"id": "1", "role": "user", "content": PROMPT}]
        ids = {"threadId": conversation, "runId": "1"}
        body: dict[str, Any] = {
            **ids, "messages": messages, "state": {}, "tools": [], "context": [], "forwardedProps": {},
        }  # fmt: skip
    else:
        path = "/run_sse"
        message = {"role": "user", "parts": [{"text": PROMPT}]}
        ids = {"appName": ADK_APP, "userId": "user", "sessionId": conversation}
        body = {**ids, "newMessage": message, "streaming": True}
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def reply_of(reader: asyncio.StreamReader) -> bytes:
    """Return the body of a response that arrives in chunks.

    Raises:
        RuntimeError: it has another status than 200, or no chunks.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, _, fields = head.partition("\r\n")
    if " 200 " not in status or "transfer-encoding: chunked" not in fields.lower():
        raise RuntimeError(f"it answered {status!r} with {fields!r}")
    body = b""
    while n_bytes := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(n_bytes + 2))[:-2]
    await reader.readexactly(2)
    return body


def check(said: Said) -> None:
    """Check that a reply shows the work: the call of the tool, its result and the answer.

    Raises:
        RuntimeError: it does not.
    """
    wanted = Said("".join(PIECES), [(TOOL, ARGUMENTS)], [RESULT], has_ended=True)
    if said != wanted:
        raise RuntimeError(f"it answered {said}, not {wanted}")


def said_in_ag_ui(reply: bytes) -> Said:
    """Return the content of a reply in AG-UI."""
    said = Said()
    arguments: dict[str, str] = {}
    for event in events_of(reply):
        match event["type"]:
            case "TEXT_MESSAGE_CONTENT":
                said.text += event["delta"]
            case "TOOL_CALL_START":
                said.calls.append((event["toolCallName"], None))
                arguments[event["toolCallId"]] = ""
            case "TOOL_CALL_ARGS":
                arguments[event["toolCallId"]] += event["delta"]
            case "TOOL_CALL_RESULT":
                said.results.append(json.loads(event["content"]))
            case "RUN_FINISHED":
                said.has_ended = True
            case _:
                pass
    texts = arguments.values()
    said.calls = [(name, json.loads(text)) for (name, _), text in zip(said.calls, texts, strict=True)]
    return said


def said_by_adk(reply: bytes) -> Said:
    """Return the content of a reply of ADK's server."""
    said = Said()
    for event in events_of(reply):
        for part in event.get("content", {}).get("parts", ()):
            if "functionCall" in part:
                said.calls.append((part["functionCall"]["name"], part["functionCall"]["args"]))
            elif "functionResponse" in part:
                said.results.append(part["functionResponse"]["response"]["result"])
            elif event.get("partial"):
                said.text += part["text"]
            else:
                said.has_ended = part["text"] == said.text  # the whole text follows its pieces
    return said


def events_of(reply: bytes) -> Iterator[dict[str, Any]]:
    """Yield the server-sent events of a reply, which are JSON."""
    for line in reply.splitlines():
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


SAID: dict[Protocol, Callable[[bytes], Said]] = {"ag-ui": said_in_ag_ui, "adk": said_by_adk}
"""Readers of replies by protocol."""


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and its children, ended ones included."""
    fields = Path("/proc", str(pid), "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    ticks = sum(map(int, fields[11:15]))  # user, system, and both of the children that have ended
    return ticks / TICKS_PER_S + sum(cpu_s(child) for child in _children(pid))


def resident_bytes(pid: int) -> int:
    """Return the memory of a process."""
    return int(Path("/proc", str(pid), "statm").read_text(encoding="utf-8").split()[1]) * PAGE_BYTES


def _children(pid: int) -> Iterator[int]:
    for task in Path("/proc", str(pid), "task").iterdir():
        yield from map(int, (task / "children").read_text(encoding="utf-8").split())
