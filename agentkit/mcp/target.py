"""Targets that a toolset connects to, and the new transport that each connection opens.

An `mcp.Client` serves one connection, so a target is a description from which any number of transports
can be made. `mcp` is imported when the first connection is opened, because it costs 0.7 s of CPU.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias
from urllib.parse import urlsplit

from agentkit.errors import UserError
from agentkit.mcp.message_bounds import MAX_ITEMS, has_too_many_items

if TYPE_CHECKING:
    from mcp.client import Transport
    from mcp.client.stdio import StdioServerParameters
    from mcp.server import MCPServer, Server

    from agentkit.mcp.oauth.options import OAuth
    from agentkit.mcp.oauth.session import OAuthSession

    ClientTarget: TypeAlias = "MCPServer | Server[Any] | Transport | StdioServerParameters | str"

logger = logging.getLogger(__name__)


STDERR_LINES = 20
"""Lines of stderr that are kept: a Python traceback of ordinary depth."""

STDERR_LINE_CHARS = 500
STDERR_READ_BYTES = 65_536

MIN_SECRET_CHARS = 6
"""Characters of a header's value that counts as a secret; shorter ones occur in ordinary text."""
_SCHEMES = ("Bearer", "Digest", "application/json", "text/event-stream")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""RFC 9110, section 5.1 (`token`)."""

LAUNCHERS = re.compile(r"agentkit-mcp|python[\d.]*|uvx|pipx|npx|bunx|node")
"""Names of commands that only launch a server; its name is their first argument."""


@dataclass(frozen=True, slots=True)
class StdioTarget:
    """A command to run as a child process."""

    command: str
    """"python" and "python3" mean the running interpreter, "agentkit-mcp" the servers installed for it."""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] | None = field(default=None, repr=False)
    """Added to HOME, LOGNAME, PATH, SHELL, TERM and USER; no other variable of the parent is passed."""
    cwd: str | Path | None = None


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """A streamable HTTP endpoint."""

    url: str
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    auth: OAuth | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the URL and the headers before anything is sent; no message has the value of a header."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(
                f"MCP server URL {self.url!r} must look like http://host/path or https://host/path; "
                f"a command is given as MCPToolset.stdio(COMMAND, ARGUMENT, ...)."
            )
        for name, value in (self.headers or {}).items():
            if not _HEADER_NAME.fullmatch(name):
                raise UserError(f"MCP server {describe(self)!r}: a header's name has letters, digits and hyphens.")
            if not (value.isascii() and value.isprintable()):
                raise UserError(
                    f"MCP server {describe(self)!r}: the value of header {name!r} must be one line of ASCII text."
                )
        if self.auth is not None:
            self._check_auth()

    def _check_auth(self) -> None:
        """Check that tokens may be sent to the URL.

        Raises:
            UserError: it is not encrypted, or a header would compete with the token.
        """
        from agentkit.mcp.oauth.urls import checked_url

        checked_url(self.url, "MCP server URL", error=UserError)
        if any(name.lower() == "authorization" for name in self.headers or {}):
            raise UserError(
                f"MCP server {describe(self)!r}: give auth=OAuth(...) or the header Authorization, not both."
            )

    def redacted(self, text: str) -> str:
        """Return `text` without the values of the headers: a server may repeat what it was sent."""
        values = (word for value in (self.headers or {}).values() for word in (value, *value.split()))
        for secret in sorted(values, key=len, reverse=True):
            if len(secret) >= MIN_SECRET_CHARS and secret not in _SCHEMES:
                text = text.replace(secret, "[header]")
        return text


@dataclass(slots=True)
class TransportTarget:
    """A ready transport, which one connection uses up."""

    transport: Any
    used: bool = False


def describe(target: Any) -> str:
    """Return a short name for a target, without secrets."""
    if isinstance(target, StdioTarget):
        args = [arg for arg in target.args if not arg.startswith("-")]
        is_launcher = LAUNCHERS.fullmatch(Path(target.command).name) is not None
        names_server = is_launcher and args and not {"-c", "-e"} & set(target.args)
        launched = args[0] if names_server else target.command
        return Path(launched).name
    url = target.url if isinstance(target, HttpTarget) else target
    if isinstance(url, str):
        parts = urlsplit(url)
        return f"{parts.hostname or url}{parts.path}"
    return str(getattr(target, "name", None) or getattr(target, "command", None) or type(target).__name__)


class StderrTail:
    """The last lines of a child's stderr, which is read continuously so that the child never blocks."""

    def __init__(self) -> None:
        """Start empty; `open` starts reading."""
        self._lines: deque[bytes] = deque([b""], maxlen=STDERR_LINES + 1)
        self._reader: Thread | None = None

    @contextmanager
    def open(self) -> Generator[TextIO]:
        """Yield the child's end of a pipe whose other end a thread reads until all copies are closed."""
        read_fd, write_fd = os.pipe()
        self._reader = Thread(target=self._read, args=(read_fd,), name="agentkit-mcp-stderr", daemon=True)
        self._reader.start()
        with os.fdopen(write_fd, "w") as file:
            yield file

    def text(self, wait_s: float = 0.0) -> str:
        """Return the last lines; blocks up to `wait_s` seconds for a child that has just ended."""
        if self._reader is not None:
            self._reader.join(wait_s)
        lines = (line.decode(errors="replace") for line in tuple(self._lines))
        return "\n".join(lines).strip()

    def _read(self, read_fd: int) -> None:
        try:
            while chunk := os.read(read_fd, STDERR_READ_BYTES):
                first, *more = chunk.split(b"\n")
                self._lines[-1] = (self._lines[-1] + first)[:STDERR_LINE_CHARS]
                self._lines.extend(line[:STDERR_LINE_CHARS] for line in more)
        finally:
            os.close(read_fd)


@asynccontextmanager
async def open_target(
    target: Any,
    *,
    stderr: StderrTail,
    on_end: Callable[[], None],
    on_fault: Callable[[Exception], None],
    on_status: Callable[[int], None],
    silence_s: float = 0.0,
    login: OAuthSession | None = None,
) -> AsyncGenerator[ClientTarget]:
    """Yield a new target for `mcp.Client`, for one connection.

    `on_end` is called when its stream ends, `on_fault` before that if the stream cannot continue. A stream over
    HTTP may be silent for at least `silence_s`; `on_status` receives the status of each HTTP answer. `login` gives
    the tokens for HTTP.
    """
    from mcp.client.stdio import StdioServerParameters
    from mcp.client.streamable_http import streamable_http_client
    from mcp.server import MCPServer, Server

    from agentkit.mcp.http_client import SessionClient
    from agentkit.mcp.stdio import stdio_transport

    if isinstance(target, MCPServer | Server):
        yield target  # pyright: ignore[reportUnknownVariableType]
        return
    if isinstance(target, StdioTarget):
        command, args = _in_this_environment(target)
        target = StdioServerParameters(
            command=command,
            args=args,
            env=dict(target.env) if target.env is not None else None,
            cwd=target.cwd,
            encoding_error_handler="replace",  # noise on stdout need not be UTF-8
        )
    if isinstance(target, StdioServerParameters):
        with stderr.open() as errlog:
            yield _Watched(stdio_transport(target, errlog=errlog, on_fault=on_fault), on_end)
    elif isinstance(target, HttpTarget):
        auth = None if login is None else _oauth_requests(login, target.url)
        async with SessionClient(target.headers or {}, on_end, on_status, silence_s, auth) as http:
            yield _Watched(streamable_http_client(target.url, http_client=http), on_end)
    elif isinstance(target, TransportTarget):
        if target.used:
            raise UserError(
                "a transport serves one connection and is used up; "
                "give MCPToolset a URL, stdio parameters or a server object to connect again."
            )
        target.used = True
        yield _Watched(target.transport, on_end)
    else:
        raise UserError(
            f"an MCP target is a server object, a URL, StdioServerParameters or a transport, not {target!r}."
        )


def _oauth_requests(login: OAuthSession, url: str) -> Any:
    from agentkit.mcp.oauth.http_auth import OAuthRequests

    return OAuthRequests(login, url)


def _in_this_environment(target: StdioTarget) -> tuple[str, list[str]]:
    """Return command and arguments; programs of this environment are found without its `bin` folder in PATH."""
    if target.command in ("python", "python3"):
        return sys.executable, [*target.args]
    if target.command == "agentkit-mcp":
        return sys.executable, ["-m", "mcp_servers", *target.args]
    return target.command, [*target.args]


class _Watched:
    """A transport that calls `on_end` when the other side has closed its stream."""

    def __init__(self, transport: Transport, on_end: Callable[[], None]) -> None:
        self._transport = transport
        self._on_end = on_end

    async def __aenter__(self) -> tuple[Any, Any]:
        read, write = await self._transport.__aenter__()
        return _WatchedStream(read, self._on_end), write

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._transport.__aexit__(*error)


class _WatchedStream:
    """A transport's read stream without oversized messages; `last_context` and the rest are delegated to it."""

    def __init__(self, inner: Any, on_end: Callable[[], None]) -> None:
        self._inner = inner
        self._on_end = on_end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __aiter__(self) -> _WatchedStream:
        return self

    async def __anext__(self) -> Any:
        try:
            while (message := _bounded(await self._inner.__anext__())) is None:
                pass
            return message
        except StopAsyncIteration:
            self._on_end()
            raise

    async def __aenter__(self) -> _WatchedStream:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._inner.__aexit__(*error)


def _bounded(received: Any) -> Any:
    """Return a message unchanged, an error for an oversized result, None for any other oversized message."""
    message = getattr(received, "message", None)  # an exception from the transport has none
    content = getattr(message, "result", None) or getattr(message, "params", None)
    if content is None or not has_too_many_items(content):
        return received
    from mcp.shared.message import SessionMessage
    from mcp_types import INVALID_REQUEST, ErrorData, JSONRPCError, JSONRPCResponse

    if not isinstance(message, JSONRPCResponse):
        logger.warning("a message of an MCP server with over %d items was thrown away", MAX_ITEMS)
        return None
    error = ErrorData(code=INVALID_REQUEST, message=f"Its answer lists over {MAX_ITEMS:,} items (MAX_ITEMS).")
    return SessionMessage(JSONRPCError(jsonrpc="2.0", id=message.id, error=error))
