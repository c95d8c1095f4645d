"""Requests that a served agent refuses, in terms of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agentkit.errors import AgentKitError

STATUS: Mapping[str, int] = MappingProxyType(
    {
        "bad_request": 400,
        "unauthorized": 401,
        "forbidden": 403,
        "not_found": 404,
        "not_waiting": 409,
        "stale_decision": 409,
        "held": 409,
        "ended": 409,
        "not_ended": 409,
        "session_busy": 409,
        "events_gone": 410,
        "idempotency_conflict": 409,
        "needs_decision": 409,
        "restarted": 409,
        "unprocessable": 422,
        "failed": 500,
        "not_there": 501,
        "busy": 503,
        "closing": 503,
        "journal": 503,
    }
)
"""Status of HTTP by code."""


@dataclass(eq=False)
class RequestRefused(AgentKitError):
    """A request that has no effect; `message` names the value, the rule and the fix."""

    code: str
    """Key of `STATUS`."""
    message: str

    def __str__(self) -> str:
        """Return the message."""
        return self.message

    @property
    def status(self) -> int:
        """Status of HTTP."""
        return STATUS[self.code]
