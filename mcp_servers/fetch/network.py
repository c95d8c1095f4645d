"""A GET request: the name is resolved once, every address is checked, and one of these addresses is connected.

A name's address can change between a check and a second look-up by the HTTP library (DNS rebinding). The library
therefore gets connections and never names: `CheckedBackend` is the only place where a socket is opened.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import anyio
import httpcore2

from mcp_servers import __version__
from mcp_servers.addresses import Address, is_public
from mcp_servers.failures import ToolFailure
from mcp_servers.fetch.policy import REDIRECTS, Limits, Target

USER_AGENT = f"agentkit-fetch/{__version__}"
ROBOTS_NAME = "agentkit-fetch"
ACCEPT = "text/markdown, text/html;q=0.9, application/xhtml+xml;q=0.9, text/plain;q=0.8, */*;q=0.5"
_CONNECT_SECONDS = 5.0
_MAX_ADDRESSES = 4


@dataclass(frozen=True)
class Response:
    """A response with its whole body, or a redirect without one."""

    status: int
    content_type: str
    location: str
    """Location header of a redirect; else empty."""
    body: bytes


async def resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of a name, in the system's order.

    Raises:
        ToolFailure: The name does not resolve.
    """
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ToolFailure(f"The name {host!r} has no address ({error}). Check how it is written.") from error
    # A scope (`%eth0`) marks a link-local address, which is blocked anyway.
    return list(dict.fromkeys(ipaddress.ip_address(str(each[4][0]).split("%")[0]) for each in found))


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Opens the HTTP library's connections, only to checked addresses."""

    def __init__(self, allowed_origins: frozenset[str], target: Target) -> None:
        """Serve connections for `target`; allowed origins may have any address."""
        self._is_allowed = target.origin in allowed_origins
        # With anyio missing, the package substitutes a stand-in; type checkers see that stand-in.
        self._inner = cast(httpcore2.AsyncNetworkBackend, httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve, check every address, connect to the first that answers.

        Raises:
            ToolFailure: One of the addresses is not public, or none answers.
        """
        addresses = await resolve(host, port)
        refused = [] if self._is_allowed else [str(each) for each in addresses if not is_public(each)]
        if refused:
            raise ToolFailure(
                f"{host!r} is at {', '.join(refused)}, which is not on the public internet, so it is not fetched."
            )
        return await self._first(addresses[:_MAX_ADDRESSES], host, port)

    async def _first(self, addresses: Sequence[Address], host: str, port: int) -> httpcore2.AsyncNetworkStream:
        failures = []
        for address in addresses:
            try:
                return await self._inner.connect_tcp(str(address), port, timeout=_CONNECT_SECONDS)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failures.append(f"{address}: {error or 'no answer'}")
        raise ToolFailure(f"Nothing answers at {host!r} port {port} ({'; '.join(failures)}).")

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """Refuse UNIX sockets.

        Raises:
            ToolFailure: Always.
        """
        raise ToolFailure("Sockets of this machine are not fetched from.")


async def get(
    target: Target, tls: ssl.SSLContext, allowed_origins: frozenset[str], limits: Limits, max_bytes: int
) -> Response:
    """Request one URL; a redirect is returned and not followed.

    Args:
        target: Parsed URL to request.
        tls: TLS settings with the trusted authorities.
        allowed_origins: Origins that may have any address.
        limits: Limits of the bytes read.
        max_bytes: Maximum size of the decompressed body.

    Raises:
        ToolFailure: The address is not public, nothing answers, or the answer is too large or cannot be read.
    """
    backend = CheckedBackend(allowed_origins, target)
    headers = [
        ("Host", target.authority),
        ("User-Agent", USER_AGENT),
        ("Accept", ACCEPT),
        ("Accept-Encoding", "gzip, identity"),
    ]
    url = httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    try:
        async with (
            httpcore2.AsyncConnectionPool(ssl_context=tls, network_backend=backend, max_connections=1) as pool,
            pool.stream("GET", url, headers=headers) as answer,
        ):
            return await _read(target, answer, limits, max_bytes)
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, ssl.SSLError) as error:
        raise ToolFailure(f"{target.url} could not be read: {str(error) or type(error).__name__}.") from error


async def _read(target: Target, answer: httpcore2.Response, limits: Limits, max_bytes: int) -> Response:
    fields = {name.lower(): value.decode("latin-1") for name, value in reversed(answer.headers)}
    content_type = fields.get(b"content-type", "")
    location = fields.get(b"location", "")
    if answer.status in REDIRECTS and location:
        return Response(answer.status, content_type, location, b"")
    unpack = _unpacker(fields.get(b"content-encoding", ""), target)
    n_wire, body = 0, bytearray()
    async for chunk in answer.aiter_stream():
        n_wire += len(chunk)
        if n_wire > limits.wire_bytes:
            raise ToolFailure(f"{target.url} sends more than {limits.wire_bytes} bytes, so it was not read.")
        while True:  # a small chunk can decompress to a very large one, so the output is bounded
            piece, chunk = unpack(chunk, max_bytes + 1 - len(body))
            body += piece
            if len(body) > max_bytes:
                raise ToolFailure(f"{target.url} is larger than {max_bytes} bytes, so it was not read.")
            if not chunk:
                break
    return Response(answer.status, content_type, "", bytes(body))


def _unpacker(encoding: str, target: Target) -> Any:
    """Return a function from encoded bytes to (decoded bytes, encoded bytes left over)."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return lambda chunk, most: (chunk, b"")
    if name not in ("gzip", "x-gzip"):
        raise ToolFailure(f"{target.url} is sent in the encoding {encoding[:40]!r}, which was not asked for.")
    unzip = zlib.decompressobj(wbits=31)

    def unpack(chunk: bytes, most: int) -> tuple[bytes, bytes]:
        try:
            return unzip.decompress(chunk, most), unzip.unconsumed_tail
        except zlib.error as error:
            raise ToolFailure(f"{target.url} sends gzip that is broken: {error}.") from error

    return unpack
