"""Limits of a served agent."""

from __future__ import annotations

from dataclasses import dataclass, fields

from agentkit.errors import UserError


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Limits of number, size and time; None is no limit."""

    max_runs: int = 64
    """Runs that one process performs at once; others wait in the journal."""
    max_waiting: int = 1000
    """Accepted runs that no process performs yet; a further request is answered 503."""
    run_timeout_s: float | None = 3600.0
    """Seconds after which a run is cancelled, for requests that name no deadline, and the longest that they may
    name. Time in which a run waits for a decision counts too."""
    max_body_bytes: int = 8_000_000
    """Bytes of a request, files in base64 included: an image of 5 MB, as large as most providers accept one."""
    body_timeout_s: float = 30.0
    send_timeout_s: float = 30.0
    """Seconds after which the connection of a client that reads nothing is closed; it can reconnect."""
    keep_s: float | None = None
    """Seconds after its end at which a run is deleted from the journal; its session keeps the messages."""
    drain_s: float = 10.0
    """Seconds for running calls to end when the server stops; what goes on then is resumed later."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a limit is not positive.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise UserError(f"{field.name}={value!r} must be above zero.")
