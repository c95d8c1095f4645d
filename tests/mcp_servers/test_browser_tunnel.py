"""The tunnel by itself: what it connects to is decided by host, port and the first byte."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from asyncio import open_connection  # tests put another in asyncio's place
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest
from browser_site import Site, Trap, site_and_trap

from mcp_servers.browser import tunnel as tunnels
from mcp_servers.browser.policy import AllowedOrigins, Origin
from mcp_servers.browser.tunnel import Tunnel

pytestmark = pytest.mark.anyio

HELLO = b"\x05\x01\x00"
SUCCEEDED, FAILED, NOT_ALLOWED = 0, 1, 2
GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
TLS = b"\x16\x03\x01\x02\x00\x01"


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[Site, Trap]]:
    with site_and_trap() as both:
        yield both


@pytest.fixture
async def tunnel(web: tuple[Site, Trap]) -> AsyncIterator[tuple[Tunnel, int]]:
    """A tunnel to the site, by address and by a name, and its port."""
    port = web[0].port
    origins = [Origin("http", host, port) for host in ("127.0.0.1", "site.example", "::1")]
    tunnel = Tunnel(AllowedOrigins(origins))
    yield tunnel, await tunnel.start()
    await tunnel.close()


def by_name(host: str, port: int) -> bytes:
    return b"\x05\x01\x00\x03" + bytes([len(host)]) + host.encode() + port.to_bytes(2, "big")


def by_address(host: str, port: int) -> bytes:
    address = ipaddress.ip_address(host)
    return (
        b"\x05\x01\x00" + (b"\x01" if address.version == 4 else b"\x04") + address.packed + port.to_bytes(2, "big")
    )


async def exchange(port: int, *sent: bytes) -> bytes:
    """Send pieces to the tunnel and return everything that comes back."""
    reader, writer = await open_connection("127.0.0.1", port)
    try:
        for piece in sent:
            writer.write(piece)
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
        with suppress(ConnectionResetError):
            await writer.wait_closed()


def answer(data: bytes) -> int:
    """Return the reply code of a request to connect."""
    assert data[:2] == b"\x05\x00" and data[2] == 5
    return data[3]


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """Let names lead to these addresses, one list for each time that somebody asks."""
    coming = iter(answers)

    async def getaddrinfo(host: str, port: int, **how: object) -> list[tuple[object, ...]]:
        found = next(coming)
        if not found:
            raise socket.gaierror("no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


async def test_an_allowed_origin_is_connected_to(web: tuple[Site, Trap], tunnel: tuple[Tunnel, int]) -> None:
    for request in (by_name("127.0.0.1", web[0].port), by_address("127.0.0.1", web[0].port)):
        data = await exchange(tunnel[1], HELLO, request, GET)
        assert answer(data) == SUCCEEDED and b"<h1>Home</h1>" in data


@pytest.mark.parametrize("kind", ["by name", "by address", "IPv6", "mapped"])
async def test_another_host_or_port_is_not_connected_to(
    kind: str, web: tuple[Site, Trap], tunnel: tuple[Tunnel, int]
) -> None:
    port = web[1].tcp()
    request = {
        "by name": by_name("localhost", web[0].port),
        "by address": by_address("127.0.0.1", port),
        "IPv6": by_address("::1", port),
        "mapped": by_address("::ffff:127.0.0.1", web[0].port),
    }[kind]
    n_requests = len(web[0].requests)
    assert answer(await exchange(tunnel[1], HELLO, request, GET)) == NOT_ALLOWED
    assert sum(tunnel[0].take_traffic().refused.values()) == 1
    assert tunnel[0].take_traffic().refused.total() == 0  # it is told once
    assert web[1].connections[port] == 0 and len(web[0].requests) == n_requests


async def test_the_other_scheme_is_not_spoken(web: tuple[Site, Trap], tunnel: tuple[Tunnel, int]) -> None:
    port = web[0].port
    n_requests = len(web[0].requests)
    data = await exchange(tunnel[1], HELLO, by_name("127.0.0.1", port), TLS)
    assert answer(data) == SUCCEEDED and len(data) == 12  # connected to, and nothing was said
    assert tunnel[0].take_traffic().refused == {("127.0.0.1", port): 1}
    assert len(web[0].requests) == n_requests
    secure = Tunnel(AllowedOrigins([Origin("https", "127.0.0.1", port)]))
    try:
        data = await exchange(await secure.start(), HELLO, by_name("127.0.0.1", port), GET)
        assert len(data) == 12 and len(web[0].requests) == n_requests
    finally:
        await secure.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET http://127.0.0.1/ HTTP/1.1\r\n\r\n",
        b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n",
        b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
        b"\x05\x01\x02",
        b"\x05\x00",
        HELLO + b"\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50",
        HELLO + b"\x05\x03\x00\x01\x7f\x00\x00\x01\x00\x50",
        HELLO + b"\x05\x01\x00\x09\x7f\x00\x00\x01\x00\x50",
        HELLO + by_name("\x00" * 255, 80),
        HELLO + by_name("", 80),
    ],
)
async def test_what_is_no_request_to_connect_gets_nothing(sent: bytes, tunnel: tuple[Tunnel, int]) -> None:
    data = await exchange(tunnel[1], sent + b"\x00" * 300)
    assert data in (b"", b"\x05\x00") or answer(data) in (FAILED, NOT_ALLOWED)


class Connecting:
    """Stands for connecting to an address: keeps it, and fails."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int, *, limit: int) -> None:
        self.asked.append(host)
        raise ConnectionRefusedError


async def test_a_name_that_was_public_is_not_followed_to_this_machine(
    web: tuple[Site, Trap], tunnel: tuple[Tunnel, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the owner of an allowed name answers with 127.0.0.1 once his page is loaded."""
    resolving(monkeypatch, ["192.168.1.1", "8.8.8.8"], ["127.0.0.1"], ["10.0.0.1", "8.8.4.4"])
    monkeypatch.setattr(asyncio, "open_connection", connecting := Connecting())
    request = by_name("site.example", web[0].port)
    assert answer(await exchange(tunnel[1], HELLO, request)) == FAILED
    assert answer(await exchange(tunnel[1], HELLO, request)) == NOT_ALLOWED
    problem = "has the address 127.0.0.1, where a name must not lead"
    assert tunnel[0].take_traffic().failed == {("site.example", web[0].port): problem}
    assert answer(await exchange(tunnel[1], HELLO, request)) == FAILED
    assert connecting.asked == ["8.8.8.8", "8.8.4.4"]


async def test_a_name_of_the_neighbourhood_works_except_where_clouds_keep_credentials(
    web: tuple[Site, Trap], tunnel: tuple[Tunnel, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    request = by_name("site.example", web[0].port)
    assert b"<h1>Home</h1>" in await exchange(tunnel[1], HELLO, request, GET)
    assert answer(await exchange(tunnel[1], HELLO, request)) == NOT_ALLOWED


async def test_why_a_connection_failed_is_kept(
    web: tuple[Site, Trap], tunnel: tuple[Tunnel, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "CONNECT_TIMEOUT_S", 0.2)
    resolving(monkeypatch, [], ["127.0.0.1"])
    endpoint = ("site.example", web[0].port)
    assert answer(await exchange(tunnel[1], HELLO, by_name(*endpoint))) == FAILED
    assert tunnel[0].take_traffic().failed == {endpoint: "is a name that cannot be found"}

    async def never(host: str, port: int, *, limit: int) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "open_connection", never)
    assert answer(await exchange(tunnel[1], HELLO, by_name(*endpoint))) == FAILED
    assert tunnel[0].take_traffic().failed == {endpoint: "did not answer within 0.2 s"}


async def test_too_many_connections_are_dropped(
    tunnel: tuple[Tunnel, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "MAX_CONNECTIONS", 1)
    reader, writer = await open_connection("127.0.0.1", tunnel[1])
    writer.write(HELLO)
    assert await reader.readexactly(2) == b"\x05\x00"
    assert await exchange(tunnel[1], HELLO) == b""
    await tunnel[0].close()
    assert await reader.read() == b""  # closing ends the one that was open
    writer.close()
    await writer.wait_closed()


def test_ever_new_hosts_are_counted_together() -> None:
    traffic = tunnels.Traffic()
    for number in range(tunnels.MAX_REMEMBERED_HOSTS + 50):
        traffic.refuse((f"host{number}.example", 80))
    assert len(traffic.refused) == tunnels.MAX_REMEMBERED_HOSTS + 1
    assert traffic.refused["other hosts", 0] == 50
