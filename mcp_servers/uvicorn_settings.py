"""Settings of uvicorn that all our servers share."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any


def uvicorn_settings(*, log_level: str = "warning") -> dict[str, Any]:
    """Return arguments of `uvicorn.Config`: no log of requests, no name of the server, a limit on heads.

    Without them, uvicorn takes httptools without our limits where it is installed. No route is a WebSocket: a
    client that asks for one is answered as without the question.
    """
    return {
        "log_level": log_level,
        "access_log": False,
        "server_header": False,
        "http": http_parser(),
        "ws": "none",
    }


def http_parser() -> str:
    """Return httptools with our limits where it is installed, else h11, which has limits of its own."""
    return "mcp_servers.limited_http:LimitedHttp" if find_spec("httptools") else "h11"
