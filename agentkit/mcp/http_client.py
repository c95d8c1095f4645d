"""The HTTP client under streamable HTTP: it detects requests that did not reach the server.

Two failures are conclusive: no connection could be made, or a request with a session id got a 404, by which a
server states that it no longer has the session (2025-11-25, transports, session management). Such a call was not
executed and may be sent again, whatever the tool does.

A body that is not an event stream is read up to a limit, because an endless one would exhaust memory. Event
streams have mcp's own limit of 1 MiB per event.

Imported only when a connection is opened: it imports httpx2.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from typing import Any

import httpx2

from agentkit.mcp.delivery import delivery
from agentkit.mcp.message_bounds import MAX_CONTAINERS, MAX_MESSAGE_BYTES, n_containers

TIMEOUT_S = 30.0
READ_TIMEOUT_S = 300.0
"""Seconds that a server may hold a stream open without sending; both timeouts are mcp's own defaults."""

SESSION_HEADER = "mcp-session-id"


class SessionClient(httpx2.AsyncClient):
    """Marks the sender's `Delivery`, and calls `on_end` when the server has forgotten the session."""

    def __init__(
        self,
        headers: Mapping[str, str],
        on_end: Callable[[], None],
        on_status: Callable[[int], None],
        silence_s: float = 0.0,
        auth: httpx2.Auth | None = None,
    ) -> None:
        """Send `headers` with every request; a stream may be silent for `silence_s` or `READ_TIMEOUT_S`.

        `on_status` receives the status of each answer. `auth` adds tokens and answers refusals.
        """
        # No compression: a small compressed body could expand to any size.
        headers = {"accept-encoding": "identity", **headers}
        timeout = httpx2.Timeout(TIMEOUT_S, read=max(READ_TIMEOUT_S, silence_s))
        super().__init__(headers=headers, timeout=timeout, auth=auth)
        self._on_end = on_end
        self._on_status = on_status

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Send a request as the parent does; a body other than an event stream is bounded.

        Raises:
            httpx2.RemoteProtocolError: the body is too large, or compressed although that was not requested.
        """
        try:
            response = await super().send(request, stream=True, **options)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            _mark_undelivered()
            raise
        self._on_status(response.status_code)
        if response.status_code == HTTPStatus.NOT_FOUND and SESSION_HEADER in request.headers:
            _mark_undelivered()
            self._on_end()
        if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            await _bound(response)
        if not stream:
            await response.aread()
        return response


async def _bound(response: httpx2.Response) -> None:
    """Make reading a body raise an error once it is too large."""
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        await response.aclose()
        raise httpx2.RemoteProtocolError("the answer is packed, which was not asked for")
    response.stream = _BoundedStream(response.stream)


class _BoundedStream(httpx2.AsyncByteStream):
    """A body of at most `MAX_MESSAGE_BYTES` bytes and `MAX_CONTAINERS` JSON objects and lists."""

    def __init__(self, inner: Any) -> None:
        """Wrap the stream `inner`."""
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        n_bytes = n_opened = 0
        async for piece in self._inner:
            n_bytes += len(piece)
            n_opened += n_containers(piece)
            if n_bytes > MAX_MESSAGE_BYTES:
                raise httpx2.RemoteProtocolError(f"the answer has over {MAX_MESSAGE_BYTES >> 20} MiB")
            if n_opened > MAX_CONTAINERS:
                raise httpx2.RemoteProtocolError(f"the answer has over {MAX_CONTAINERS:,} objects and lists")
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


def _mark_undelivered() -> None:
    if (current := delivery.get()) is not None:
        current.undelivered = True
