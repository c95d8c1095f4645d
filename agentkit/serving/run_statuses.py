"""Statuses of runs that requests need, and the errors of requests about runs that have others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentkit.persistence.checkpointer import UNENDED, RunSummary, StoredStatus
from agentkit.serving.errors import RequestRefused

WAITING: tuple[StoredStatus, ...] = ("needs_approval", "needs_results")
"""Statuses of runs that wait for a client."""
FAILED: tuple[StoredStatus, ...] = ("failed",)
_REFUSALS: Mapping[Sequence[StoredStatus], tuple[str, str]] = {
    WAITING: ("not_waiting", "waits for no decision"),
    FAILED: ("not_ended", "has not failed"),
    UNENDED: ("ended", "has ended"),
}


def session_busy(session: str | None, other: RunSummary) -> RequestRefused:
    """Return the error of a request to a conversation that a run goes on with."""
    return RequestRefused(
        "session_busy",
        f"session {session!r} has a run that has not ended ({other.run_id}, {other.status!r}); "
        f"wait for it, decide about its calls, or cancel it.",
    )


def require_status(summary: RunSummary, statuses: Sequence[StoredStatus]) -> None:
    """Check that a run has one of some statuses.

    Raises:
        RequestRefused: It has another one.
    """
    if summary.status not in statuses:
        code, what = _REFUSALS.get(statuses, ("held", "has gone on"))
        raise RequestRefused(code, f"run {summary.run_id} {what}: its status is {summary.status!r}.")
