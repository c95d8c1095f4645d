"""The MCP request that a tool's function serves, for what the protocol offers beyond arguments and results.

A function needs it only to ask the client something (elicitation, sampling) or to send it log messages. Progress
has functions of its own (`mcp_servers.long_calls`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mcp.server.context import ServerRequestContext

_request: ContextVar[ServerRequestContext[Any] | None] = ContextVar("request", default=None)


@contextmanager
def serving_request(request: ServerRequestContext[Any]) -> Iterator[None]:
    """Make `request` the current one of the enclosed code and of worker threads started inside."""
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)


def current_request() -> ServerRequestContext[Any]:
    """Return the request that is being served.

    Raises:
        LookupError: No request is being served.
    """
    request = _request.get()
    if request is None:
        raise LookupError("no MCP request is being served; call this from a tool's function.")
    return request
