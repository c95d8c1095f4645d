"""The browser's only network access: a SOCKS5 proxy (RFC 1928) that connects only to allowed origins.

Chromium opens every connection through it: documents, redirects, frames, workers, WebSockets, favicons, prefetch,
beacons, reports, its own services; names are resolved here, not in the browser. So access is decided in one place,
by the host and port of the actual connection. It does not depend on URLs before a redirect, or on interception,
which does not see every kind of request.

Two facts beyond host and port are checked here too. A port that is allowed with one scheme is not used with the
other: TLS begins with the byte 22, HTTP with a letter. And a name that once had a public address is never again
connected to a private one, so the owner of an allowed name cannot redirect it to this machine or its neighbours
(DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import Counter
from dataclasses import dataclass, field

from mcp_servers.addresses import Address, is_public
from mcp_servers.browser.policy import AllowedOrigins, canonical_host, reachable

LOOPBACK = "127.0.0.1"
CONNECT_TIMEOUT_S = 10.0
# Chromium opens at most 32 connections through one proxy; with connections being closed still far below this.
MAX_CONNECTIONS = 128
# A page can request new names indefinitely; names beyond this count as one.
MAX_REMEMBERED_HOSTS = 100
CHUNK_BYTES = 64 * 1024
TLS_HANDSHAKE = 0x16  # record type at the start of a TLS connection (RFC 8446, 5.1)

VERSION, NO_AUTHENTICATION, CONNECT = 5, 0, 1
IPV4, NAME, IPV6 = 1, 3, 4
SUCCEEDED, FAILED, NOT_ALLOWED = 0, 1, 2

Endpoint = tuple[str, int]


class _Refused(Exception):
    """Ends a request with a reply code."""

    def __init__(self, reply: int) -> None:
        super().__init__(reply)
        self.reply = reply


@dataclass
class Traffic:
    """Refused connections, and reasons of failed ones to allowed hosts, since the last `take_traffic`."""

    refused: Counter[Endpoint] = field(default_factory=Counter)
    failed: dict[Endpoint, str] = field(default_factory=dict)

    def refuse(self, endpoint: Endpoint) -> None:
        """Count a connection that was not made."""
        if endpoint not in self.refused and len(self.refused) >= MAX_REMEMBERED_HOSTS:
            endpoint = ("other hosts", 0)
        self.refused[endpoint] += 1


class Tunnel:
    """A SOCKS5 server on a loopback port."""

    def __init__(self, allowed: AllowedOrigins) -> None:
        """Prepare a proxy to `allowed`; it listens after `start`."""
        self.traffic = Traffic()
        self._allowed = allowed
        self._public_names: set[str] = set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Start listening; return the port."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0, limit=CHUNK_BYTES)
        return self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and drop all connections."""
        if self._server is None:
            return
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def take_traffic(self) -> Traffic:
        """Return the traffic since the last call, and start a new count."""
        taken, self.traffic = self.traffic, Traffic()
        return taken

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.close()
            return
        task = asyncio.create_task(self._served_to_its_end(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _served_to_its_end(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, TimeoutError):
            pass  # the browser or the site hung up; the browser notices the end itself
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                endpoint = await _asked_for(reader, writer)
            schemes = self._allowed.schemes_at(*endpoint)
            if not schemes:
                self.traffic.refuse(endpoint)
                raise _Refused(NOT_ALLOWED)
            site_reader, site_writer = await self._connected(endpoint)
        except _Refused as refusal:
            writer.write(_reply(refusal.reply))
            await writer.drain()
            return
        try:
            writer.write(_reply(SUCCEEDED))
            first = await reader.read(1)
            scheme = "https" if first[:1] == bytes([TLS_HANDSHAKE]) else "http"
            if first and scheme not in schemes:
                self.traffic.refuse(endpoint)
                return
            site_writer.write(first)
            await _carry(reader, writer, site_reader, site_writer)
        finally:
            site_writer.close()

    async def _connected(self, endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await _first_open(await self._addresses(*endpoint), endpoint[1])
        except TimeoutError:
            self.traffic.failed[endpoint] = f"did not answer within {CONNECT_TIMEOUT_S:g} s"
        except socket.gaierror:
            self.traffic.failed[endpoint] = "is a name that cannot be found"
        except OSError:
            self.traffic.failed[endpoint] = "refused the connection"
        raise _Refused(FAILED)

    async def _addresses(self, host: str, port: int) -> list[Address]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in found]
        usable = reachable(host, addresses, was_public=host in self._public_names)
        if not usable:
            self.traffic.failed[host, port] = f"has the address {addresses[0]}, where a name must not lead"
            raise _Refused(NOT_ALLOWED)
        if any(map(is_public, usable)):
            self._public_names.add(host)
        return usable


async def _first_open(addresses: list[Address], port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    *others, last = addresses
    for address in others:
        try:
            return await asyncio.open_connection(str(address), port, limit=CHUNK_BYTES)
        except OSError:
            continue  # a name often has an IPv6 address that this machine cannot reach
    return await asyncio.open_connection(str(last), port, limit=CHUNK_BYTES)


async def _asked_for(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Endpoint:
    """Return the host and port of a SOCKS5 request to connect."""
    version, n_methods = await reader.readexactly(2)
    methods = await reader.readexactly(n_methods)
    if version != VERSION or NO_AUTHENTICATION not in methods:
        raise EOFError("not SOCKS5")
    writer.write(bytes([VERSION, NO_AUTHENTICATION]))
    version, command, _, kind = await reader.readexactly(4)
    if version != VERSION or command != CONNECT or kind not in (IPV4, NAME, IPV6):
        raise _Refused(FAILED)
    if kind == NAME:
        (length,) = await reader.readexactly(1)
        host = (await reader.readexactly(length)).decode("ascii", "replace")
    else:
        host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == IPV4 else 16)))
    return canonical_host(host), int.from_bytes(await reader.readexactly(2), "big")


def _reply(code: int) -> bytes:
    return bytes([VERSION, code, 0, IPV4]) + bytes(6)  # the bound address is not informative


async def _carry(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    site_reader: asyncio.StreamReader,
    site_writer: asyncio.StreamWriter,
) -> None:
    """Copy in both directions until one of them ends."""
    copies = [
        asyncio.create_task(_copy(reader, site_writer)),
        asyncio.create_task(_copy(site_reader, writer)),
    ]
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
