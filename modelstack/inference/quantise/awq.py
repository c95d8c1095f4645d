"""AWQ: inputs with large activations get finer weights, by a scale per input that the layer before undoes.

Lin et al., arXiv 2306.00978. For the layers W that read the same input x, W diag(s) is rounded, and 1 / s is
multiplied into the norm or the layer that computes x. s = a^r / sqrt(max a^r min a^r) with the mean magnitude a
of each input. The exponent r is searched on a grid; 0 leaves the model as it is. The paper compares outputs of a
block of the model. Here the error is that of the layers' own outputs on all calibration tokens, which needs the
second moment of x alone: |x (W - W')^T|^2 sums to the trace of D M D^T with D = W - W'.

Letters: N outputs, K inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

EXPONENTS = tuple(n / 20 for n in range(20))
"""Grid of the exponent r; the paper's."""
SAMPLED_ROWS = 128
"""Rows of each weight that decide on the exponent: evenly spaced ones, as all rows read the same input."""
SMALLEST = 1e-4
"""Smallest scale before it is normalised, of inputs that are nearly always zero; the paper's."""

Rounding = Callable[[Tensor, Tensor], Tensor]
"""Returns the rounded weights [N, K] for weights and the second moment of their input."""


def input_scale(
    weights: Sequence[Tensor], magnitude_K: Tensor, second_moment_KK: Tensor, rounded: Rounding
) -> Tensor:
    """Return the scale s_K by which weights that share an input are multiplied, of the least output error.

    Args:
        weights: Weights [N, K] of the layers that read the input, fp32.
        magnitude_K: Mean magnitude of each input.
        second_moment_KK: Mean of x^T x over the calibration inputs x.
        rounded: Rounds weights; the scaled weights are rounded with the scaled input's second moment.
    """
    best, best_error = torch.ones_like(magnitude_K), float("inf")
    sampled = [weight[:: max(1, len(weight) // SAMPLED_ROWS)] for weight in weights]
    for exponent in EXPONENTS:
        powers = magnitude_K.pow(exponent).clamp(min=SMALLEST)
        scale = powers / (powers.max() * powers.min()).sqrt()
        scaled_moment = second_moment_KK / (scale[:, None] * scale)
        scaled = [weight * scale for weight in sampled]
        error = sum(output_error(weight, rounded(weight, scaled_moment), scaled_moment) for weight in scaled)
        if error < best_error:
            best, best_error = scale, error
    return best


def output_error(weight: Tensor, other: Tensor, second_moment_KK: Tensor) -> float:
    """Return the mean over the inputs of the squared difference of two layers' outputs, summed over outputs."""
    difference = weight - other
    return float((difference @ second_moment_KK).mul_(difference).sum())
