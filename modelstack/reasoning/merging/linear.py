"""Weighted averages of models (model soups), used by every method for norms and embeddings.

Model soups: Wortsman et al., arXiv 2203.05482. Task arithmetic is also such a sum, with the base as one of the
models (`task_vectors`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modelstack.errors import UserError

NO_WEIGHT = 1e-8
"""Smallest absolute sum of weights that is used as a divisor."""


def linear(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum(w_i t_i) / sum(w_i).

    Args:
        tensors: One tensor per parent, all of the same shape.
        weights: One weight per parent.

    Raises:
        UserError: The weights sum to 0.
    """
    total = sum(weights)
    if abs(total) < NO_WEIGHT:
        raise UserError(f"weights {list(weights)} sum to 0, but the mean divides by their sum: change one")
    return weighted_sum(tensors, [weight / total for weight in weights])


def weighted_sum(tensors: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """Return sum(c_i t_i).

    Terms with coefficient 0 are skipped and coefficient 1 is not multiplied. With coefficients 1 and 0 the
    result is therefore equal to a tensor bit for bit, negative zeros included.
    """
    parts = [(tensor, c) for tensor, c in zip(tensors, coefficients, strict=True) if c != 0]
    if not parts:
        return torch.zeros_like(tensors[0])
    (first, c), *others = parts
    total = first.clone() if c == 1 else first * c
    for tensor, c in others:
        total.add_(tensor, alpha=c)
    return total
