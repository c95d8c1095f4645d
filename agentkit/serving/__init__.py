"""Agents as a service: an application for any ASGI server, whose runs and streams survive the server."""

from agentkit.serving.app import app
from agentkit.serving.limits import ServiceLimits

__all__ = ["ServiceLimits", "app"]
