"""Bodies of requests to a served agent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agentkit.approvals.pending import Approve, Decision, Deny, Settle
from agentkit.messages import BinaryContent
from modelstack.inference.server.bodies import Body

MOST_DECISIONS = 1000


class RunBody(Body):
    """Request for a run."""

    prompt: Annotated[str, Field(min_length=1)] | Annotated[list[str | BinaryContent], Field(min_length=1)]
    """Text, or texts and files in order; a file is `{"kind": "binary", "data": BASE64URL, "media_type": ...}`."""
    session: str | None = Field(default=None, min_length=1, max_length=200)
    timeout_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class ApproveBody(Body):
    """Approval of a waiting call."""

    decision: Literal["approve"]
    tool_call_id: str
    digest: str
    """Digest of the call that was shown."""
    for_run: bool = False

    def as_decision(self) -> Decision:
        """Return the decision."""
        return Approve(self.tool_call_id, self.digest, self.for_run)


class DenyBody(Body):
    """Refusal of a waiting call."""

    decision: Literal["deny"]
    tool_call_id: str
    reason: str = ""

    def as_decision(self) -> Decision:
        """Return the decision."""
        return Deny(self.tool_call_id, self.reason)


class SettleBody(Body):
    """Result of a call that ran elsewhere, or before its process died."""

    decision: Literal["settle"]
    tool_call_id: str
    content: str
    digest: str | None = None
    is_error: bool = False

    def as_decision(self) -> Decision:
        """Return the decision."""
        return Settle(self.tool_call_id, self.content, self.is_error, self.digest)


class DecisionsBody(Body):
    """Decisions about waiting calls, applied together or not at all."""

    decisions: list[Annotated[ApproveBody | DenyBody | SettleBody, Field(discriminator="decision")]] = Field(
        min_length=1, max_length=MOST_DECISIONS
    )
