"""A connection to one MCP server, shared by all users of the toolset in one event loop.

Users are counted: the first one starts a generation of the connection (an owner task, see `agentkit.mcp.owner`),
the last one ends it and waits until it is gone. It may be opened in one task and closed in another.
When the server goes away its generation ends, and the next call starts a new one.

    idle --acquire--> connecting --> live --server died--> lost --next call--> connecting (next generation)
                          |           `--last release--> idle
                          `--failed--> MCPConnectionError
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agentkit.errors import MCPConnectionError, UserError
from agentkit.mcp.call_clocks import CallClocks
from agentkit.mcp.owner import ConnectionOptions, Owner
from agentkit.mcp.resource_updates import ResourceUpdates
from agentkit.mcp.results import error_text

if TYPE_CHECKING:
    from mcp import Client

RECONNECT_DELAYS_S = (0.0, 0.5, 2.0)
"""Seconds before each attempt; a restarting server needs about one to import mcp and bind its port."""


class Connection:
    """The connection of one toolset in one event loop."""

    def __init__(self, target: Any, options: ConnectionOptions, on_change: Callable[[], None]) -> None:
        """Prepare a connection; `on_change` is called when the server's tools may have changed."""
        self._target = target
        self._options = options
        self._on_change = on_change
        self._users = 0
        self._owner: Owner | None = None
        self._last_task: asyncio.Task[None] | None = None
        self.clocks = CallClocks()
        """Time limits of the calls."""
        self.updates = ResourceUpdates()
        """Subscribers to changes of resources."""
        self.epoch = 0
        """Counter that grows with every generation and every change of the tools."""

    @property
    def users(self) -> int:
        """Number of users that have acquired the connection and not yet released it."""
        return self._users

    async def acquire(self) -> None:
        """Connect unless connected, and count one more user.

        Raises:
            MCPConnectionError: the server cannot be started or reached.
        """
        self._users += 1
        try:
            await self.client()
        except BaseException:
            await self.release()
            raise

    async def release(self) -> None:
        """Count one user less; the last one exits the client, and a child process has ended on return."""
        self._users -= 1
        if self._users == 0 and self._owner is not None:
            owner, self._owner = self._owner, None
            await owner.stop()

    async def client(self) -> Client:
        """Return the live client, connecting again if the server went away.

        Raises:
            MCPConnectionError: the server cannot be reached or reconnected.
            UserError: the connection has not been acquired.
        """
        if self._users == 0:
            raise UserError(f"MCP server {self._options.name!r} is closed; use it inside `async with toolset:`.")
        if self._owner is None or self._owner.lost:
            again = self._owner is not None
            if self._owner is not None and self._owner.was_live and not self._options.reconnect:
                raise MCPConnectionError(
                    f"MCP server {self._options.name!r} went away{self._owner.why} (reconnect=False).",
                    stderr=self._owner.stderr,
                )
            delays = RECONNECT_DELAYS_S if again else (0.0,)
            self.epoch += 1
            self._owner = Owner(
                self._target,
                self._options,
                self._changed,
                delays,
                after=self._last_task,
                clocks=self.clocks,
                updates=self.updates,
            )
            self._last_task = self._owner.task
            if again:
                self._on_change()
        return await self._owner.client()

    def has_lost(self, client: Client) -> bool:
        """Return whether `client` belongs to a generation that has ended."""
        return self._owner is None or self._owner.lost or not self._owner.serves(client)

    @property
    def refusal(self) -> Exception | None:
        """Error of the login because of which the server refused the last request; None if there was none."""
        return self._owner.refusal if self._owner is not None else None

    @property
    def fault(self) -> str:
        """Fault of the last server that ended its connection, in words; empty if there was none."""
        return self._owner.fault if self._owner is not None else ""

    def said(self, error: BaseException) -> str:
        """Return a server's reason for an error, safe to print; see `Owner.said`."""
        return self._owner.said(error) if self._owner is not None else error_text(error)

    def lose(self, client: Client) -> None:
        """End the generation of `client`, which no longer answers."""
        if self._owner is not None and self._owner.serves(client):
            self._owner.end()

    def _changed(self) -> None:
        self.epoch += 1
        self._on_change()


def is_closed(error: Any) -> bool:
    """Return whether an `MCPError` is the report of mcp's own dispatcher that the stream has ended.

    The code alone is ambiguous: an HTTP transport uses it for one request whose reply was cut off, and a
    server may use it. A forged error causes a reconnect at worst.
    """
    from mcp_types import CONNECTION_CLOSED

    return error.code == CONNECTION_CLOSED and error.message == "Connection closed"
