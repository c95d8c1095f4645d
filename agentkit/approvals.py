"""Calls that wait for somebody's decision, and the decisions.

An approval is for one tool with one set of arguments: it names the digest of both, and whoever decides has seen
them. A call with other arguments has another digest and asks again, whatever was allowed before (the approval
that openai-agents-python#4244 loses, and the one that a changed call must not inherit).

A call whose process died while it ran waits as well: nobody knows whether it took effect, so somebody says.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A call that is not run before somebody decides."""

    tool_name: str
    tool_call_id: str
    arguments: str
    """Canonical JSON."""
    digest: str
    """Of tool and arguments; an approval names it."""
    reason: str
    """Why it is asked; may hold text of a tool's author."""
    kind: Literal["approval", "unknown"] = "approval"
    """"unknown": its process died while it ran, so it may have taken effect already."""

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
    """None: any arguments."""

    def covers(self, tool_name: str, tool_call_id: str, digest: str) -> bool:
        """Say whether it allows a call."""
        if self.tool_name != tool_name:
            return False
        return self.tool_call_id is None or (self.tool_call_id, self.digest) == (tool_call_id, digest)


def pending_call(
    call: ToolCallPart, reason: str, kind: Literal["approval", "unknown"] = "approval"
) -> PendingCall:
    """Make a call wait."""
    canonical = canonical_arguments(call.arguments)
    digest = call_digest(call.tool_name, canonical)
    return PendingCall(call.tool_name, call.tool_call_id, canonical, digest, reason, kind)


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


def call_digest(tool_name: str, canonical: str) -> str:
    """Return the SHA-256 of a tool's name and canonical arguments, in hexadecimal."""
    return hashlib.sha256(f"{tool_name}\0{canonical}".encode(errors="surrogatepass")).hexdigest()
