"""Delivery state of one message, set where HTTP is sent and read by the sender.

It travels in a context variable, because mcp sends each message in its sender's context.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Delivery:
    """Delivery state of one call."""

    undelivered: bool = False
    """True if the request provably did not reach the server."""
    refused: Exception | None = None
    """Error of the login because of which the server refused the request; None if there was none."""


delivery: ContextVar[Delivery | None] = ContextVar("agentkit_mcp_delivery", default=None)
