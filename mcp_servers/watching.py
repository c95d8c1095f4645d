"""Notifications that a resource has changed, for the clients that subscribed to it.

The state of each watched URI is compared once a second, because a file system tells a confined process nothing. It
works the same way in both eras of the protocol: `resources/subscribe` before 2026-07-28, and a stream of
`subscriptions/listen` since. A URI is watched as long as a client is subscribed to it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread
import mcp_types as types
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourceUpdated

from mcp_servers.failures import ToolFailure
from mcp_servers.resources import MAX_URI_CHARS

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""Seconds between two looks at the watched resources."""
MAX_WATCHED = 100
"""Resources that all clients of a server process watch together."""
MAX_STREAMS = 64
"""Streams of subscriptions that are open at once."""
SEND_TIMEOUT_S = 5.0
"""Seconds for one notification; a client that does not read misses it."""

State = Callable[[str], Hashable]


@dataclass(slots=True)
class Follower:
    """A connection of the handshake era (before 2026-07-28) and the resources to which it subscribed."""

    session: ServerSession
    uris: set[str] = field(default_factory=set)

    async def tell(self, uri: str) -> None:
        """Send a notification if the connection subscribed to `uri`; a lost one is not repeated."""
        if uri not in self.uris:
            return
        try:
            with anyio.move_on_after(SEND_TIMEOUT_S):
                await self.session.send_resource_updated(uri)
        except Exception:  # the boundary to a transport that may be closing; other clients are told all the same
            logger.debug("a client was not told that %r has changed", uri, exc_info=True)


class Watcher:
    """The watched resources of one lifespan of a server: of a connection, or of all connections over HTTP."""

    def __init__(self, state: State, poll_s: float) -> None:
        """Compare the results of `state` every `poll_s` seconds."""
        self._state = state
        self._poll_s = poll_s
        self._watched: Counter[str] = Counter()
        self._known: dict[str, Hashable] = {}
        self._is_needed = anyio.Event()
        self.followers: dict[Connection, Follower] = {}
        self.bus = InMemorySubscriptionBus()
        """Receives an event for each change."""
        self.listen = ListenHandler(self.bus, max_subscriptions=MAX_STREAMS)
        """Serves `subscriptions/listen`."""

    async def run(self) -> None:
        """Look at the watched resources until cancelled; without any it costs nothing."""
        while True:
            if not self._watched:
                self._is_needed = anyio.Event()
                await self._is_needed.wait()
            await anyio.sleep(self._poll_s)
            for uri in list(self._watched):
                before, now = self._known.get(uri), await self._look(uri)
                if uri in self._watched and now != before:
                    self._known[uri] = now
                    await self.bus.publish(ResourceUpdated(uri=uri))
                    for follower in list(self.followers.values()):
                        await follower.tell(uri)

    async def watch(self, uris: Sequence[str]) -> None:
        """Watch resources once more.

        Raises:
            MCPError: A URI is too long, or too many are watched.
        """
        new = {uri for uri in uris if uri not in self._watched}
        if any(len(uri) > MAX_URI_CHARS for uri in new):
            raise MCPError(types.INVALID_PARAMS, f"A URI has at most {MAX_URI_CHARS:,} characters.")
        if len(self._watched) + len(new) > MAX_WATCHED:
            raise MCPError(types.INVALID_PARAMS, f"At most {MAX_WATCHED} resources are watched at once.")
        self._watched.update(uris)
        try:
            for uri in new:
                self._known[uri] = await self._look(uri)
        except BaseException:
            self.forget(uris)
            raise
        self._is_needed.set()

    def forget(self, uris: Sequence[str]) -> None:
        """Undo one `watch` of these resources."""
        self._watched.subtract(uris)
        for uri in {each for each in uris if self._watched[each] <= 0}:
            del self._watched[uri]
            self._known.pop(uri, None)

    async def _look(self, uri: str) -> Hashable:
        try:
            return await anyio.to_thread.run_sync(self._state, uri)
        except (ToolFailure, OSError):  # a resource that cannot be looked at is as good as missing
            return None


def offer_subscriptions(server: Server[Any]) -> None:
    """Make `server`, whose lifespan yields a `Watcher`, answer subscriptions of both eras."""

    async def subscribe(
        ctx: ServerRequestContext[Watcher], params: types.SubscribeRequestParams
    ) -> types.EmptyResult:
        follower = _follower(ctx)
        uri = str(params.uri)
        if uri not in follower.uris:
            await ctx.lifespan_context.watch([uri])
            follower.uris.add(uri)
        return types.EmptyResult()

    async def unsubscribe(
        ctx: ServerRequestContext[Watcher], params: types.UnsubscribeRequestParams
    ) -> types.EmptyResult:
        follower = _follower(ctx)
        uri = str(params.uri)
        if uri in follower.uris:
            follower.uris.remove(uri)
            ctx.lifespan_context.forget([uri])
        return types.EmptyResult()

    async def listen(
        ctx: ServerRequestContext[Watcher], params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        uris = [str(uri) for uri in dict.fromkeys(params.notifications.resource_subscriptions or ())]
        watcher = ctx.lifespan_context
        await watcher.watch(uris)
        try:
            return await watcher.listen(ctx, params)
        finally:
            watcher.forget(uris)

    server.add_request_handler("resources/subscribe", types.SubscribeRequestParams, subscribe)
    server.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, unsubscribe)
    server.add_request_handler("subscriptions/listen", types.SubscriptionsListenRequestParams, listen)


def _follower(ctx: ServerRequestContext[Watcher]) -> Follower:
    """Return the follower of the request's connection; its subscriptions end with the connection."""
    connection: Connection = ctx.session._connection  # pyright: ignore[reportPrivateUsage]
    watcher = ctx.lifespan_context
    if connection not in watcher.followers:
        watcher.followers[connection] = follower = Follower(ctx.session)

        def end() -> None:
            del watcher.followers[connection]
            watcher.forget(list(follower.uris))

        connection.exit_stack.callback(end)
    return watcher.followers[connection]
