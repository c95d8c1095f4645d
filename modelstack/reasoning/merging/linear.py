"""Weighted sums of models: soups, and how every method treats norms and embeddings.

Model soups: Wortsman et al., arXiv 2203.05482. Task arithmetic is such a sum too, with the base as one of the
models (`task_vectors`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modelstack.errors import UserError

NO_WEIGHT = 1e-8
"""A sum of weights that cannot be divided by."""


def linear(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum(w_i t_i) / sum(w_i).

    Args:
        tensors: One of each parent, shapes the same.
        weights: Of the parents.

    Raises:
        UserError: The weights add up to 0.
    """
    total = sum(weights)
    if abs(total) < NO_WEIGHT:
        raise UserError(f"weights {list(weights)} add up to 0, and a mean divides by their sum: change one")
    return weighted_sum(tensors, [weight / total for weight in weights])


def weighted_sum(tensors: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """Return sum(c_i t_i).

    What has coefficient 0 takes no part and 1 multiplies nothing, so that 1 and 0 give a tensor back bit for bit,
    its negative zeros included.
    """
    parts = [(tensor, c) for tensor, c in zip(tensors, coefficients, strict=True) if c != 0]
    if not parts:
        return torch.zeros_like(tensors[0])
    (first, c), *others = parts
    total = first.clone() if c == 1 else first * c
    for tensor, c in others:
        total.add_(tensor, alpha=c)
    return total
