"""Adaptive KL coefficient that keeps the KL near a target (Ziegler et al., 1909.08593 section 2.2)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

_LARGEST_ERROR = 0.2
"""Bound on the relative error: one step changes the coefficient by at most this share times the gain (paper's
value)."""


class KlControl(BaseModel):
    """Target and gain of the adaptive KL coefficient."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: float = Field(default=6.0, gt=0)
    """Target KL in nats per completion; 6 to 10 in the paper."""
    gain: float = Field(default=0.1, gt=0)
    """Gain K_beta per optimizer step (paper's value)."""


def next_kl_coefficient(coefficient: float, kl: float, control: KlControl) -> float:
    """Return beta (1 + K clip(kl / target - 1, -0.2, 0.2)).

    Args:
        coefficient: Current coefficient beta.
        kl: Mean over completions of the sum of k1 over their tokens, nats.
        control: Target and gain.
    """
    error = min(max(kl / control.target - 1, -_LARGEST_ERROR), _LARGEST_ERROR)
    return coefficient * (1 + control.gain * error)
