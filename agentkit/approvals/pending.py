"""Calls that wait for a decision, and the decisions.

An approval answers one question: may this call of this run, with these arguments, be attempted this time? It names
the question's digest. A call with other arguments, a later call with the same id, and another attempt of the same
call have other digests and require a new approval: a changed call must not inherit one, and an approval must not
be lost (openai-agents-python#4244). An approval that is delivered twice counts once.

A call whose process died while it ran waits too: the outcome is unknown, and a person must decide. So does a call
of an external tool (`Tool.external`): it waits for its result.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from agentkit.messages import ToolCallPart


EXTERNAL = "the application runs it"
"""Reason shown for a call of an external tool."""
IN_DOUBT = "its process ended while it ran; it may have taken effect"
"""Reason shown for a call whose outcome is unknown."""


@dataclass(frozen=True, slots=True)
class Approve:
    """Run the call, if it is unchanged since it was shown."""

    tool_call_id: str
    digest: str
    """Digest of the call that was shown (`PendingCall.digest`)."""
    for_run: bool = False
    """Allow every later call of this tool in the run as well, whatever its arguments."""


@dataclass(frozen=True, slots=True)
class Deny:
    """Do not run the call."""

    tool_call_id: str
    reason: str = ""
    """Reason, shown to the model."""


@dataclass(frozen=True, slots=True)
class Settle:
    """The call ran: before its process died, or outside of the run (an external tool); `content` is its result."""

    tool_call_id: str
    content: str
    is_error: bool = False
    digest: str | None = None
    """Digest of the call that was shown; None settles the waiting call with this id, whatever its arguments."""


Decision = Approve | Deny | Settle
QuestionKind = Literal["approval", "unknown", "external"]


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A call that waits for a decision."""

    tool_name: str
    tool_call_id: str
    arguments: str
    """Arguments as canonical JSON."""
    digest: str
    """SHA-256 of the question (`question_digest`), which an approval repeats."""
    reason: str
    """Reason for the question; may contain text of a tool's author."""
    kind: QuestionKind = "approval"
    """Kind of the question.

    - "approval": may the call run?
    - "unknown": the process died while the call ran, so it may have taken effect. Did it?
    - "external": which result has the call, which the application runs?
    """
    attempt: int = 1
    """Number of the attempt that an approval allows; above 1 if earlier ones were cut off or asked again."""

    def approve(self, *, for_run: bool = False) -> Approve:
        """Return the decision to run the call (once more, if its outcome is unknown)."""
        return Approve(self.tool_call_id, self.digest, for_run)

    def deny(self, reason: str = "") -> Deny:
        """Return the decision not to run the call; the model reads the reason."""
        return Deny(self.tool_call_id, reason)

    def settle(self, content: str, *, is_error: bool = False) -> Settle:
        """Return the decision that the call ran, with the result `content`; `is_error` if it failed."""
        return Settle(self.tool_call_id, content, is_error, self.digest)


@dataclass(frozen=True, slots=True)
class Grant:
    """A permission for one call, or for a tool until the end of the run."""

    tool_name: str
    tool_call_id: str | None
    """Call that is allowed; None: any call of the tool."""
    digest: str | None
    """Digest of the answered question; None: any arguments."""

    def covers(self, tool_name: str, tool_call_id: str, digest: str) -> bool:
        """Return whether the grant allows a call."""
        if self.tool_name != tool_name:
            return False
        return self.tool_call_id is None or (self.tool_call_id, self.digest) == (tool_call_id, digest)


def pending_call(
    call: ToolCallPart, reason: str, kind: QuestionKind = "approval", *, place: str = "", attempt: int = 1
) -> PendingCall:
    """Return the pending form of a call; `place` names its run and step."""
    canonical = canonical_arguments(call.arguments)
    pending = PendingCall(call.tool_name, call.tool_call_id, canonical, "", reason, kind, attempt)
    return replace(pending, digest=question_digest(pending, place))


_CANONICAL = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=16)  # a step asks for the same call's form more than once
def canonical_arguments(arguments: str) -> str:
    """Return a call's arguments as JSON with sorted keys and no spaces; invalid JSON is returned unchanged.

    Equal arguments have one form, so that the approver, the digest and the tool read the same thing. For a
    duplicate key the last value wins, here and in the validation of the arguments.
    """
    try:
        value: Any = json.loads(arguments) if arguments.strip() else {}
        return _CANONICAL.encode(value)
    except (ValueError, RecursionError):
        return arguments


def question_digest(call: PendingCall, place: str) -> str:
    """Return the hexadecimal SHA-256 of a question: place, call, tool, canonical arguments, kind and attempt."""
    fields = (place, call.tool_call_id, call.tool_name, call.arguments, call.kind, str(call.attempt))
    text = json.dumps(fields)  # with a plain separator, which a field may contain, two questions could collide
    return hashlib.sha256(text.encode()).hexdigest()
