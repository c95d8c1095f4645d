"""A KL coefficient that holds the KL to a target (Ziegler et al., 1909.08593 section 2.2)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

_LARGEST_ERROR = 0.2
"""A step changes the coefficient by at most this share times the gain; the paper's."""


class KlControl(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: float = Field(default=6.0, gt=0)
    """Nats per completion; the paper's runs have 6 to 10."""
    gain: float = Field(default=0.1, gt=0)
    """K_beta, per optimizer step; the paper's."""


def next_kl_coefficient(coefficient: float, kl: float, control: KlControl) -> float:
    """Return beta (1 + K clip(kl / target - 1, -0.2, 0.2)).

    Args:
        coefficient: The one in use.
        kl: Mean over completions of the sum of k1 over their tokens, nats.
        control: Target and gain.
    """
    error = min(max(kl / control.target - 1, -_LARGEST_ERROR), _LARGEST_ERROR)
    return coefficient * (1 + control.gain * error)
