"""Notifications of a server that resources have changed.

Two eras of the protocol: before 2026-07-28 a client subscribes to each URI and the server sends notifications on
the connection; since then the notifications come on a stream of their own. Here both are an iterator of URIs.
Updates that nobody has taken yet are kept once a URI. Nothing is sent again after a lost connection, so the
iteration then ends with an error, and the caller reads the resources anew.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio

from agentkit.errors import MCPConnectionError

if TYPE_CHECKING:
    from mcp import Client

MAX_WAITING = 1_000
"""Changed URIs that wait to be taken; more are dropped, because a server may invent URIs."""

UNSUBSCRIBE_TIMEOUT_S = 2.0
"""Seconds for telling the server that a subscription has ended."""


class Inbox:
    """The updates that one subscriber has not taken yet."""

    def __init__(self, uris: Sequence[str]) -> None:
        """Take updates of these resources, and of those below them."""
        self._uris = tuple(uris)
        self._waiting: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._ended = False

    def put(self, uri: str) -> None:
        """Add an update; one of another resource is ignored."""
        if not any(uri == own or uri.startswith(own.rstrip("/") + "/") for own in self._uris):
            return
        if uri in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[uri] = None
            self._wake.set()

    def end(self) -> None:
        """End the iteration after the updates that wait."""
        self._ended = True
        self._wake.set()

    async def take(self) -> str | None:
        """Wait for an update and return its URI; None if there will be none."""
        while not self._waiting and not self._ended:
            self._wake.clear()
            await self._wake.wait()
        if not self._waiting:
            return None
        uri = next(iter(self._waiting))
        del self._waiting[uri]
        return uri


class ResourceUpdates:
    """The subscribers of one connection."""

    def __init__(self) -> None:
        """Start without subscribers."""
        self._inboxes: set[Inbox] = set()
        self._subscribed: Counter[str] = Counter()
        """Number of subscribers of each URI on a connection of the handshake era."""

    def received(self, uri: str) -> None:
        """Pass an update on."""
        for inbox in self._inboxes:
            inbox.put(uri)

    def ended(self) -> None:
        """Tell the subscribers that the connection has ended."""
        for inbox in self._inboxes:
            inbox.end()

    @asynccontextmanager
    async def subscribed(
        self, client: Client, uris: Sequence[str], server: str
    ) -> AsyncGenerator[AsyncIterator[str]]:
        """Subscribe to resources within the context.

        Raises:
            mcp.MCPError: the server refuses.
            MCPConnectionError: raised by the iterator when the connection is lost.
        """
        from mcp_types.version import MODERN_PROTOCOL_VERSIONS

        if client.protocol_version in MODERN_PROTOCOL_VERSIONS:
            async with client.listen(resource_subscriptions=list(uris)) as stream:
                yield _of_stream(stream, server)
            return
        inbox = Inbox(uris)
        self._inboxes.add(inbox)
        new = [uri for uri in uris if not self._subscribed[uri]]
        self._subscribed.update(uris)
        try:
            for uri in new:
                await _subscribe(client, uri)
            yield _of_inbox(inbox, server)
        finally:
            self._inboxes.discard(inbox)
            self._subscribed.subtract(uris)
            with anyio.move_on_after(UNSUBSCRIBE_TIMEOUT_S, shield=True):
                for uri in uris:
                    if not self._subscribed[uri]:
                        await _unsubscribe(client, uri)


async def _of_stream(stream: Any, server: str) -> AsyncIterator[str]:
    from mcp.client.subscriptions import SubscriptionLost
    from mcp.shared.subscriptions import ResourceUpdated

    try:
        async for event in stream:
            if isinstance(event, ResourceUpdated):
                yield event.uri
    except SubscriptionLost as error:
        raise _lost(server) from error


async def _of_inbox(inbox: Inbox, server: str) -> AsyncIterator[str]:
    while (uri := await inbox.take()) is not None:
        yield uri
    raise _lost(server)


def _lost(server: str) -> MCPConnectionError:
    return MCPConnectionError(
        f"the connection to MCP server {server!r} was lost, and its subscriptions with it; subscribe again and "
        f"read the resources anew."
    )


async def _subscribe(client: Client, uri: str) -> None:
    """Subscribe to a resource; mcp's own method for it warns, because later versions of the protocol have none."""
    from mcp_types import EmptyResult, SubscribeRequest, SubscribeRequestParams

    await client.session.send_request(SubscribeRequest(params=SubscribeRequestParams(uri=uri)), EmptyResult)


async def _unsubscribe(client: Client, uri: str) -> None:
    """Unsubscribe from a resource, unless the server has gone or refuses: there is nothing to do then."""
    from mcp import MCPError
    from mcp_types import EmptyResult, UnsubscribeRequest, UnsubscribeRequestParams

    request = UnsubscribeRequest(params=UnsubscribeRequestParams(uri=uri))
    with suppress(MCPError, anyio.ClosedResourceError, RuntimeError):
        await client.session.send_request(request, EmptyResult)
