"""Agents as a service: an application for any ASGI server, whose runs and streams survive the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentkit.serving.limits import ServiceLimits

if TYPE_CHECKING:
    from agentkit.serving.asgi import app

__all__ = ["ServiceLimits", "app"]


def __getattr__(name: str) -> Any:
    """Load the application when it is first used: `agentkit acp` needs no HTTP server.

    Raises:
        AttributeError: the package has no such name.
    """
    if name == "app":
        from importlib import import_module

        return import_module("agentkit.serving.asgi").app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
