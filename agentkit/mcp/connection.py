"""A connection to one MCP server, shared by everybody in one event loop who has entered the toolset.

Users are counted: the first one starts a generation of the connection (an owner task, see `agentkit.mcp.owner`),
the last one ends it and waits until it is gone. Opening in one task and closing in another is nothing special.
When the server goes away its generation ends, and the next call starts the next one.

    idle --acquire--> connecting --> live --server died--> lost --next call--> connecting (next generation)
                          |           `--last release--> idle
                          `--failed--> MCPConnectionError
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agentkit.errors import MCPConnectionError, UserError
from agentkit.mcp.owner import ConnectionOptions, Owner

if TYPE_CHECKING:
    from mcp import Client

RECONNECT_DELAYS_S = (0.0, 0.5, 2.0)
"""A restarting server needs about a second to import mcp and bind its port."""


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
        self.epoch = 0
        """Grows with every generation and every change of the tools."""

    @property
    def users(self) -> int:
        """How many have acquired and not yet released it."""
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
        """Count one user less; after the last one the client is left and a child process is gone."""
        self._users -= 1
        if self._users == 0 and self._owner is not None:
            owner, self._owner = self._owner, None
            await owner.stop()

    async def client(self) -> Client:
        """Return the live client, connecting again if the server went away.

        Raises:
            MCPConnectionError: it cannot be reached (again).
            UserError: nobody has acquired the connection.
        """
        if self._users == 0:
            raise UserError(f"MCP server {self._options.name!r} is closed; use it inside `async with toolset:`.")
        if self._owner is None or self._owner.lost:
            again = self._owner is not None
            if self._owner is not None and self._owner.was_live and not self._options.reconnect:
                raise MCPConnectionError(
                    f"MCP server {self._options.name!r} went away{self._owner.why} (reconnect=False)."
                )
            delays = RECONNECT_DELAYS_S if again else (0.0,)
            self.epoch += 1
            self._owner = Owner(self._target, self._options, self._changed, delays, after=self._last_task)
            self._last_task = self._owner.task
            if again:
                self._on_change()
        return await self._owner.client()

    def has_lost(self, client: Client) -> bool:
        """Whether `client` belongs to a generation that has ended."""
        return self._owner is None or self._owner.lost or not self._owner.serves(client)

    @property
    def fault(self) -> str:
        """Fault of the last server that ended its connection, in words; empty if there was none."""
        return self._owner.fault if self._owner is not None else ""

    def lose(self, client: Client) -> None:
        """Say that `client` no longer answers."""
        if self._owner is not None and self._owner.serves(client):
            self._owner.end()

    def _changed(self) -> None:
        self.epoch += 1
        self._on_change()


def is_closed(error: Any) -> bool:
    """Whether an `MCPError` is mcp's own dispatcher saying that the stream has ended.

    The code alone does not tell: an HTTP transport gives it to one request whose reply was cut off, and a
    server may use it. The worst that a forged one does is a reconnect.
    """
    from mcp_types import CONNECTION_CLOSED

    return error.code == CONNECTION_CLOSED and error.message == "Connection closed"
