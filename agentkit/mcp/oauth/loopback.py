"""The redirect back from the browser: a server on 127.0.0.1 that takes one authorization response (RFC 8252).

Any program and any web page of this machine can send requests to the port. A request with a wrong path, host or
state is refused and the right one is still awaited, so that a page cannot end a login. The page that the person
sees has fixed text only.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

HOST = "127.0.0.1"
PATH = "/callback"
MAX_REQUEST_BYTES = 16_384
REQUEST_TIMEOUT_S = 10.0
MAX_PARAMETERS = 50
_DONE = "You are logged in. You can close this page."
_REFUSED = "The login was not granted. You can close this page; the program says why."
_NOT_HERE = "This is not the end of the login that the program waits for."


@dataclass(frozen=True, slots=True)
class AuthorizationResponse:
    """Parameters of the redirect back; all are untrusted."""

    code: str | None
    state: str | None
    issuer: str | None
    """The parameter `iss` (RFC 9207)."""
    error: str | None


def response_in(url: str) -> AuthorizationResponse:
    """Return the authorization response in the query of a redirect's URL.

    A parameter that occurs twice counts as missing (RFC 6749, section 3.1).
    """
    try:
        pairs = parse_qsl(urlsplit(url).query, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        pairs = []
    names = [name for name, _ in pairs]
    found = {name: value for name, value in pairs if names.count(name) == 1}
    return AuthorizationResponse(found.get("code"), found.get("state"), found.get("iss"), found.get("error"))


class RedirectReceiver:
    """Receives the redirect of one login; see `open_receiver`."""

    def __init__(self, state: str) -> None:
        """Wait for the response with `state`."""
        self._state = state
        self._received: asyncio.Future[AuthorizationResponse] = asyncio.get_running_loop().create_future()
        self.port = 0

    @property
    def redirect_uri(self) -> str:
        """URL for the request parameter `redirect_uri`."""
        return redirect_uri(self.port)

    async def response(self) -> AuthorizationResponse:
        """Wait for the authorization response."""
        return await self._received

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status, text = self._answer(head)
                writer.write(_page(status, text))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # a connection that sends no request: browsers open some in advance
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> tuple[str, str]:
        lines = head.decode("latin-1").split("\r\n")
        request = re.fullmatch(r"GET (/\S*) HTTP/1\.[01]", lines[0])
        hosts = [line.partition(":")[2].strip() for line in lines[1:] if line.lower().startswith("host:")]
        if request is None or hosts != [f"{HOST}:{self.port}"] or urlsplit(request[1]).path != PATH:
            return "404 Not Found", _NOT_HERE
        response = response_in(request[1])
        if not is_state(response.state, self._state) or self._received.done():
            return "400 Bad Request", _NOT_HERE
        self._received.set_result(response)
        return "200 OK", _DONE if response.error is None and response.code else _REFUSED


def is_state(given: str | None, expected: str) -> bool:
    """Return whether a response has the state of its request; takes the same time for all wrong ones."""
    return given is not None and hmac.compare_digest(given.encode(), expected.encode())


def redirect_uri(port: int) -> str:
    """Return the redirect URI with a port."""
    return f"http://{HOST}:{port}{PATH}"


@asynccontextmanager
async def open_receiver(state: str, port: int) -> AsyncGenerator[RedirectReceiver]:
    """Listen on 127.0.0.1 until the block ends; port 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """
    receiver = RedirectReceiver(state)
    server = await asyncio.start_server(receiver.handle, HOST, port, limit=MAX_REQUEST_BYTES)
    try:
        receiver.port = server.sockets[0].getsockname()[1]
        yield receiver
    finally:
        server.close()


def _page(status: str, text: str) -> bytes:
    body = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>agentkit</title><p>{text}</p>'.encode()
    headers = (
        f"HTTP/1.1 {status}",
        "Content-Type: text/html; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'",
        "Cache-Control: no-store",
        "Referrer-Policy: no-referrer",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    )
    return "\r\n".join((*headers, "", "")).encode("ascii") + body
