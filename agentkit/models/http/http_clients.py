"""HTTP clients, one per event loop, each opened by its first user there and closed by its last.

A model object may serve several loops at once (`run_sync` uses its own), and a connection pool belongs to the loop
that made it. httpx is imported, and certificates are read, in a worker thread at first use.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from ssl import PROTOCOL_TLS_CLIENT, SSLContext
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar, RunvarToken

from agentkit.errors import UserError

if TYPE_CHECKING:
    import httpx

CLOSE_TIMEOUT_S = 5.0
"""Seconds for closing idle connections when a run was cancelled; TLS close waits for the peer."""


@dataclass(slots=True)
class _Shared:
    client: httpx.AsyncClient
    n_users: int = 0
    token: RunvarToken[_Shared] | None = None


class LoopClients:
    """The HTTP clients of one model."""

    def __init__(self, base_url: str, given: httpx.AsyncClient | None = None) -> None:
        """Make clients for `base_url`; an application's own client, `given`, replaces them and is not closed."""
        self._base_url = base_url
        self._given = given
        self._shared: RunVar[_Shared] = RunVar(f"agentkit HTTP client of {base_url}")
        self._ssl: SSLContext | None = None

    async def acquire(self) -> httpx.AsyncClient:
        """Return this loop's client and count one more user of it."""
        if self._given is not None:
            return self._given
        if self._ssl is None:
            self._ssl = await anyio.to_thread.run_sync(_load, self._base_url)
        shared = self._shared.get(None)
        if shared is None:
            shared = _Shared(_new_client(self._base_url, self._ssl))
            shared.token = self._shared.set(shared)
        shared.n_users += 1
        return shared.client

    async def release(self) -> None:
        """Count one user less; the last one closes the client.

        Raises:
            UserError: nothing is open in this event loop.
        """
        if self._given is not None:
            return
        shared = self._shared.get(None)
        if shared is None or shared.token is None:
            raise UserError("a model must be left in the event loop in which it was entered.")
        shared.n_users -= 1
        if shared.n_users == 0:
            self._shared.reset(shared.token)
            with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await shared.client.aclose()

    @asynccontextmanager
    async def borrowed(self) -> AsyncGenerator[httpx.AsyncClient, None]:
        """Hold the loop's client for one request, opening it if it is not open."""
        client = await self.acquire()
        try:
            yield client
        finally:
            await self.release()


def is_loopback(base_url: str) -> bool:
    """Return whether a URL's host is this machine."""
    host = urlsplit(base_url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _load(base_url: str) -> SSLContext:
    import httpx

    if urlsplit(base_url).scheme == "https":
        return httpx.create_ssl_context()
    # Plain HTTP never becomes TLS, as redirects are not followed; without certificates no server is trusted.
    return SSLContext(PROTOCOL_TLS_CLIENT)


def _new_client(base_url: str, ssl: SSLContext) -> httpx.AsyncClient:
    import httpx

    # A proxy cannot reach this machine's loopback, and must not see what is sent there.
    return httpx.AsyncClient(verify=ssl, follow_redirects=False, trust_env=not is_loopback(base_url))
