"""Task vectors t_i = parent_i - base: summed and added to the base.

Task arithmetic: base + scale sum(w_i t_i) (Ilharco et al., arXiv 2212.04089). TIES: if the vectors disagree on
the sign of an entry, the sign with the larger total weight is elected, and only entries of that sign are summed
(Yadav et al., 2306.01708, section 4). `normalize` divides by the sum of the weights used, which turns the sum
into a mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modelstack.reasoning.merging.linear import NO_WEIGHT, weighted_sum


def task_arithmetic(
    base: Tensor,
    parents: Sequence[Tensor],
    weights: Sequence[float],
    *,
    scale: float = 1.0,
    normalize: bool = False,
) -> Tensor:
    """Return base + scale sum(w_i t_i), computed without forming the differences.

    The formula is (1 - sum(c_i)) base + sum(c_i parent_i). With a single weight of 1 the base cancels, and the
    result equals the parent bit for bit.

    Args:
        base: Tensor of the common base.
        parents: Tensors of the parents, in the base's shape.
        weights: One weight per parent.
        scale: Factor of the sum; lambda in the papers.
        normalize: Whether to divide the sum by the sum of the weights.
    """
    factor = scale / _divisor(sum(weights)) if normalize else scale
    coefficients = [factor * weight for weight in weights]
    return weighted_sum([base, *parents], [1 - sum(coefficients), *coefficients])


def summed(deltas: Sequence[Tensor], weights: Sequence[float], *, normalize: bool) -> Tensor:
    """Return the weighted sum of task vectors, whatever their signs."""
    total = weighted_sum(deltas, weights)
    return total.div_(_divisor(sum(weights))) if normalize else total


def elected(deltas: Sequence[Tensor], weights: Sequence[float], *, normalize: bool) -> Tensor:
    """Return the weighted sum of the entries with the elected sign, which is that of the full sum.

    A sum of 0 elects plus.
    Entries equal to 0 have no sign: they are excluded, and so is their weight from the divisor.
    """
    positive = weighted_sum(deltas, weights) >= 0
    total = torch.zeros_like(deltas[0])
    divisor = torch.zeros_like(deltas[0])
    for delta, weight in zip(deltas, weights, strict=True):
        weighted = delta * weight
        agrees = torch.where(positive, weighted > 0, weighted < 0)
        total.add_(weighted.mul_(agrees))
        if normalize:
            divisor.add_(agrees, alpha=weight)
    return total.div_(divisor.masked_fill_(divisor == 0, 1)) if normalize else total


def _divisor(total: float) -> float:
    """Return the divisor for a sum of weights; 1 if the weights cancel."""
    return 1.0 if abs(total) < NO_WEIGHT else total
