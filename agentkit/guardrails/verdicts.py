"""What a guardrail decides."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allow:
    """It may pass."""


@dataclass(frozen=True, slots=True)
class Block:
    """It must not pass."""

    reason: str
    """For the application's log and, of a tool call or its result, for the model."""
    hazard: str | None = None
    """MLCommons hazard S1 to S14, A1 (injection), A2 (jailbreak), or None where none is known."""
    probability: float | None = None
    """Calibrated probability of the classifier that decided, or None where another rule did."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """It passes in another form."""

    text: str
    """In its place; of a tool call the JSON text of its arguments."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RequireApproval:
    """Somebody has to allow it; of tool calls alone."""

    reason: str


Verdict = Allow | Block | Rewrite | RequireApproval
