"""The HTTP client under streamable HTTP: it knows when a request did not reach the server.

Two failures are certain knowledge: no connection could be made, and a 404 for a request with a session id, by
which a server says that it no longer has the session (2025-11-25, transports, session management). A call that
met one of them was not carried out and may be sent again, whatever the tool does.

`undelivered` travels in a context variable, because mcp sends each message in its sender's context. Imported only
when a connection is opened: it imports httpx2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx2

TIMEOUT_S = 30.0
READ_TIMEOUT_S = 300.0
"""A server may hold a stream open without sending; both are mcp's own defaults."""

SESSION_HEADER = "mcp-session-id"


@dataclass(slots=True)
class Delivery:
    """What is known of one call's way to the server."""

    undelivered: bool = False


delivery: ContextVar[Delivery | None] = ContextVar("agentkit_mcp_delivery", default=None)


class SessionClient(httpx2.AsyncClient):
    """Marks the sender's `Delivery`, and calls `on_end` when the server has forgotten the session."""

    def __init__(self, headers: Mapping[str, str], on_end: Callable[[], None]) -> None:
        """Send `headers` with every request."""
        super().__init__(headers=dict(headers), timeout=httpx2.Timeout(TIMEOUT_S, read=READ_TIMEOUT_S))
        self._on_end = on_end

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request as the parent does."""
        try:
            response = await super().send(request, **options)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            _mark_undelivered()
            raise
        if response.status_code == HTTPStatus.NOT_FOUND and SESSION_HEADER in request.headers:
            _mark_undelivered()
            self._on_end()
        return response


def _mark_undelivered() -> None:
    if (current := delivery.get()) is not None:
        current.undelivered = True
