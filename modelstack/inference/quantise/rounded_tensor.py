"""Report on a rounded tensor."""

from __future__ import annotations

from dataclasses import dataclass

from modelstack.architecture.rounded_weight import NumberFormat


@dataclass(frozen=True, slots=True)
class RoundedTensor:
    """Report on one rounded tensor."""

    name: str
    format: NumberFormat
    n_weights: int
    bits_per_weight: float
    weight_error: float
    """Squared error of the weights as a share of their squares."""
    output_error: float | None
    """Squared error of the outputs on the calibration inputs as a share of their squares; None without text."""
