"""Server that the conformance scenarios call, on the base of all our servers; servers on ports.

Tools, resources and prompts are written as an author of a server writes them. Our own servers ask the client for
nothing and send no log messages (both deprecated in 2026-07-28): here mcp's own calls do, on the current request.

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
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import mcp_types as types
import uvicorn
from mcp.server.lowlevel.server import Server
from pydantic import Field
from starlette.types import Receive, Scope, Send

from mcp_servers.current_request import current_request
from mcp_servers.failures import ToolFailure
from mcp_servers.long_calls import report_progress_async
from mcp_servers.prompts import prompt
from mcp_servers.resources import Body, Resources, Template
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


async def test_tool_with_logging() -> Said:
    """Send three log messages."""
    request = current_request()
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await request.session.send_log_message("info", text, related_request_id=request.request_id)
        await asyncio.sleep(0.05)
    return Said(text="Logged.")


async def test_sampling(prompt: str) -> Said:
    """Ask the client's model."""
    request = current_request()
    question = types.SamplingMessage(role="user", content=types.TextContent(text=prompt))
    reply = await request.session.create_message([question], max_tokens=100, related_request_id=request.request_id)
    assert isinstance(reply.content, types.TextContent)
    return Said(text=f"LLM response: {reply.content.text}")


async def asked(message: str, properties: dict[str, Any], required: Sequence[str] = ()) -> Said:
    """Ask the person at the client."""
    request = current_request()
    schema = {"type": "object", "properties": properties, "required": list(required)}
    reply = await request.session.elicit_form(message, schema, request.request_id)
    return Said(text=f"Elicitation completed: action={reply.action}, content={json.dumps(reply.content)}")


async def test_elicitation(message: str) -> Said:
    """Ask the person for a name and an address."""
    return await asked(message, {"username": {"type": "string"}, "email": {"type": "string"}}, ["username"])


async def test_elicitation_sep1034_defaults() -> Said:
    """Ask with defaults."""
    return await asked(
        "Are these right?",
        {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "default": True},
        },
    )


async def test_elicitation_sep1330_enums() -> Said:
    """Ask for choices, in each way that the protocol has for them."""
    options = ["option1", "option2", "option3"]
    titled = [{"const": f"value{n}", "title": title} for n, title in enumerate(("First", "Second", "Third"), 1)]
    return await asked(
        "Choose.",
        {
            "untitledSingle": {"type": "string", "enum": options},
            "titledSingle": {"type": "string", "oneOf": titled},
            "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["One", "Two"]},
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled}},
        },
    )


TOOLS = (
    test_simple_text,
    test_image_content,
    test_audio_content,
    test_embedded_resource,
    test_multiple_content_types,
    test_error_handling,
    test_tool_with_progress,
    test_tool_with_logging,
    test_sampling,
    test_elicitation,
    test_elicitation_sep1034_defaults,
    test_elicitation_sep1330_enums,
)

TEMPLATES = (
    Template(
        "test://static-text", "text", "A text.", lambda: Body("This is the content of a static text resource.")
    ),
    Template(
        "test://static-binary", "picture", "A red pixel.", lambda: Body(base64.b64decode(RED_PIXEL), "image/png")
    ),
    Template("test://watched-resource", "watched", "A text to subscribe to.", lambda: Body("Watched.")),
    Template(
        "test://template/{id}/data",
        "data",
        "Data of an id.",
        lambda id: Body(
            json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"}), "application/json"
        ),
        media_type="application/json",
    ),
)


def test_simple_prompt() -> str:
    """Return a text."""
    return "This is a simple prompt for testing."


def test_prompt_with_arguments(
    arg1: Annotated[str, Field(description="First.")], arg2: Annotated[str, Field(description="Second.")]
) -> str:
    """Return a text with the arguments in it."""
    return f"Prompt with arguments: arg1={arg1!r}, arg2={arg2!r}"


def test_prompt_with_embedded_resource(resourceUri: str) -> list[types.PromptMessage]:
    """Return a resource and a text."""
    resource = types.TextResourceContents(
        uri=resourceUri, mime_type="text/plain", text="Embedded resource content for testing."
    )
    return [
        types.PromptMessage(role="user", content=types.EmbeddedResource(resource=resource)),
        types.PromptMessage(role="user", content=types.TextContent(text="Please process the embedded resource.")),
    ]


def test_prompt_with_image() -> list[types.PromptMessage]:
    """Return an image and a text."""
    return [
        types.PromptMessage(role="user", content=types.ImageContent(data=RED_PIXEL, mime_type="image/png")),
        types.PromptMessage(role="user", content=types.TextContent(text="Please analyze the image above.")),
    ]


PROMPTS = (
    prompt(test_simple_prompt),
    prompt(test_prompt_with_arguments, {"arg1": lambda value, given: ["test", "testing", "paris"]}),
    prompt(test_prompt_with_embedded_resource),
    prompt(test_prompt_with_image),
)


async def set_level(context: Any, params: types.SetLevelRequestParams) -> types.EmptyResult:
    """Accept any level: the scenarios set the lowest."""
    return types.EmptyResult()


def build_server() -> Server[Any]:
    """Return the server."""
    server = strict_server(
        "conformance-fixture",
        instructions="",
        tools=[strict_tool(tool, READS) for tool in TOOLS],
        resources=Resources(TEMPLATES, lambda: [], state=lambda uri: uri),
        prompts=PROMPTS,
    )
    server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)
    return server


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
