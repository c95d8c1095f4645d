"""What a guardrail decides."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allow:
    """The text may pass."""


@dataclass(frozen=True, slots=True)
class Block:
    """The text must not pass."""

    reason: str
    """For the application's log; whether a user sees it is the application's choice."""
    hazard: str | None = None
    """MLCommons hazard S1 to S14, A1 (injection), A2 (jailbreak), or None where none is known."""
    probability: float | None = None
    """Calibrated probability of the classifier that decided, or None where another rule did."""


Verdict = Allow | Block
