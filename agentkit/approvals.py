"""Calls that wait for somebody's decision, and the decisions.

An approval answers one question: may this call of this run, with these arguments, be attempted this time? It names
the question's digest. A call with other arguments, a later call under the same id, and another attempt of the same
call have other digests and ask again, whatever was allowed before (the approval that openai-agents-python#4244
loses, and the one that a changed call must not inherit). So an approval that is delivered twice counts once.

A call whose process died while it ran waits as well: its outcome is unknown, and a person must decide.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from agentkit.messages import ToolCallPart


IN_DOUBT = "its process ended while it ran; it may have taken effect"
"""Why a call of unknown outcome waits."""


@dataclass(frozen=True, slots=True)
class Approve:
    """Run the call, if it is still the one that was seen."""

    tool_call_id: str
    digest: str
    """Of the call that was seen (`PendingCall.digest`)."""
    for_run: bool = False
    """Allow every later call of this tool in the run as well, whatever its arguments."""


@dataclass(frozen=True, slots=True)
class Deny:
    """Do not run the call."""

    tool_call_id: str
    reason: str = ""
    """The model reads it."""


@dataclass(frozen=True, slots=True)
class Settle:
    """The call took effect before its process died: this is what it gave."""

    tool_call_id: str
    content: str
    is_error: bool = False


Decision = Approve | Deny | Settle
QuestionKind = Literal["approval", "unknown"]


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A call that is not run before somebody decides."""

    tool_name: str
    tool_call_id: str
    arguments: str
    """Canonical JSON."""
    digest: str
    """SHA-256 of the question (`question_digest`); an approval names it."""
    reason: str
    """Why it is asked; may hold text of a tool's author."""
    kind: QuestionKind = "approval"
    """"unknown": its process died while it ran, so it may have taken effect already."""
    attempt: int = 1
    """Number of the attempt that an approval allows; above 1 where earlier ones were cut off or asked again."""

    def approve(self, *, for_run: bool = False) -> Approve:
        """Return the decision to run it (once more, if its outcome is unknown)."""
        return Approve(self.tool_call_id, self.digest, for_run)

    def deny(self, reason: str = "") -> Deny:
        """Return the decision not to run it; the model reads the reason."""
        return Deny(self.tool_call_id, reason)

    def settle(self, content: str, *, is_error: bool = False) -> Settle:
        """Return the decision that it took effect and gave `content`."""
        return Settle(self.tool_call_id, content, is_error)


@dataclass(frozen=True, slots=True)
class Grant:
    """A permission that was given: for one call, or for a tool until the run's end."""

    tool_name: str
    tool_call_id: str | None
    """None: any call of the tool."""
    digest: str | None
    """Digest of the question that was answered; None: any arguments."""

    def covers(self, tool_name: str, tool_call_id: str, digest: str) -> bool:
        """Say whether it allows a call."""
        if self.tool_name != tool_name:
            return False
        return self.tool_call_id is None or (self.tool_call_id, self.digest) == (tool_call_id, digest)


def pending_call(
    call: ToolCallPart, reason: str, kind: QuestionKind = "approval", *, place: str = "", attempt: int = 1
) -> PendingCall:
    """Make a call wait; `place` names the run and the step that it belongs to."""
    canonical = canonical_arguments(call.arguments)
    pending = PendingCall(call.tool_name, call.tool_call_id, canonical, "", reason, kind, attempt)
    return replace(pending, digest=question_digest(pending, place))


def canonical_arguments(arguments: str) -> str:
    """Return a call's arguments as JSON with sorted keys and no spaces; text that is no JSON stays as it is.

    One form for one meaning, so that whoever approves, the digest, and the tool read the same thing: of a key
    that stands twice the last value holds, here and where the arguments are checked.
    """
    try:
        value: Any = json.loads(arguments) if arguments.strip() else {}
        return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return arguments


def question_digest(call: PendingCall, place: str) -> str:
    """Return the hexadecimal SHA-256 of a question: place, call, tool, canonical arguments, kind and attempt."""
    fields = (place, call.tool_call_id, call.tool_name, call.arguments, call.kind, str(call.attempt))
    text = json.dumps(fields)  # a separator that a field could hold would let two questions have one digest
    return hashlib.sha256(text.encode()).hexdigest()
