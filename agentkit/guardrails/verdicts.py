"""Verdicts of a guardrail."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allow:
    """The text or call passes unchanged."""


@dataclass(frozen=True, slots=True)
class Block:
    """The text or call is blocked."""

    reason: str
    """Reason for the application's log; for a tool call or tool result the model reads it too."""
    hazard: str | None = None
    """MLCommons hazard S1 to S14, A1 (injection), A2 (jailbreak); None if unknown."""
    probability: float | None = None
    """Calibrated probability of the classifier; None if no classifier decided."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The text or call passes with other content."""

    text: str
    """Replacement text; for a tool call the JSON text of its arguments."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RequireApproval:
    """The call requires approval; allowed only for tool calls."""

    reason: str


Verdict = Allow | Block | Rewrite | RequireApproval
