"""The tools that the conformance scenarios call, on the base that all our servers stand on; servers on ports.

The scenarios send no token. The transport of our servers asks for one, and does here too: what stands before it
adds the token, and nothing else differs from `python -m mcp_servers.NAME --http`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import sys
import zlib
from collections.abc import Mapping
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.lowlevel.server import Server
from starlette.types import Receive, Scope, Send

from mcp_servers.failures import ToolFailure
from mcp_servers.long_calls import report_progress_async
from mcp_servers.serving import http_app
from mcp_servers.strict import READS, ToolResult, strict_server, strict_tool

TOKEN = "conformance-token-for-loopback"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


RED_PIXEL = base64.b64encode(
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"\0\xff\0\0"))
    + _chunk(b"IEND", b"")
).decode()
SILENCE = base64.b64encode(
    b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8_000, 8_000, 1, 8)
    + b"data" + struct.pack("<I", 0)
).decode()  # fmt: skip


class Said(ToolResult):
    """A text."""

    text: str

    def as_text(self) -> str:
        """The text."""
        return self.text


class Shown(Said):
    """A text and what is shown beside it."""

    kinds: list[str]

    def as_content(self) -> list[types.ContentBlock]:
        """One block of each kind."""
        blocks: dict[str, types.ContentBlock] = {
            "text": types.TextContent(type="text", text=self.text),
            "image": types.ImageContent(type="image", data=RED_PIXEL, mime_type="image/png"),
            "audio": types.AudioContent(type="audio", data=SILENCE, mime_type="audio/wav"),
            "resource": types.EmbeddedResource(
                type="resource",
                resource=types.TextResourceContents(uri="test://resource", mime_type="text/plain", text=self.text),
            ),
        }
        return [blocks[kind] for kind in self.kinds]


def test_simple_text() -> Said:
    """Return a text."""
    return Said(text="This is a simple text response for testing.")


def test_image_content() -> Shown:
    """Return an image."""
    return Shown(text="", kinds=["image"])


def test_audio_content() -> Shown:
    """Return a sound."""
    return Shown(text="", kinds=["audio"])


def test_embedded_resource() -> Shown:
    """Return a resource."""
    return Shown(text="This is an embedded resource content.", kinds=["resource"])


def test_multiple_content_types() -> Shown:
    """Return a text, an image and a resource."""
    return Shown(text="Multiple content types test:", kinds=["text", "image", "resource"])


def test_error_handling() -> Said:
    """Fail."""
    raise ToolFailure("This tool intentionally returns an error for testing")


async def test_tool_with_progress() -> Said:
    """Report progress three times."""
    for done in (0, 50, 100):
        await report_progress_async(done, 100)
    return Said(text="Done.")


TOOLS = (
    test_simple_text,
    test_image_content,
    test_audio_content,
    test_embedded_resource,
    test_multiple_content_types,
    test_error_handling,
    test_tool_with_progress,
)


def build_server() -> Server[Any]:
    """Return the server."""
    tools = [strict_tool(tool, READS) for tool in TOOLS]
    return strict_server("conformance-fixture", instructions="", tools=tools)


async def serve(servers: Mapping[str, Server[Any]]) -> None:
    """Serve each on a free port of loopback; print the URLs by name."""
    listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in servers}
    ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}
    print(json.dumps({name: f"http://127.0.0.1:{port}/mcp" for name, port in ports.items()}), flush=True)
    await asyncio.gather(*(_serve_on(listeners[name], server) for name, server in servers.items()))


async def _serve_on(listener: socket.socket, server: Server[Any]) -> None:
    app = http_app(server, "127.0.0.1", listener.getsockname()[1], TOKEN)

    async def with_token(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], (b"authorization", b"Bearer " + TOKEN.encode())]}
        await app(scope, receive, send)

    config = uvicorn.Config(with_token, log_level="error", access_log=False)
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    from tests.conformance.our_servers import SERVERS

    wanted: dict[str, list[str]] = json.loads(sys.argv[1])
    asyncio.run(serve({name: SERVERS[name](*arguments) for name, arguments in wanted.items()}))
