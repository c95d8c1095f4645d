"""Task vectors, t_i = parent_i - base, added up and put back on the base.

Task arithmetic: base + scale sum(w_i t_i) (Ilharco et al., arXiv 2212.04089). TIES: where the vectors disagree on
a sign, the one with more weight behind it is elected, and only entries of that sign are added up (Yadav et al.,
2306.01708, section 4). `normalize` divides by the weights that took part, which makes of the sum a mean.
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
    """Return base + scale sum(w_i t_i), computed without a difference being made.

    It is (1 - sum(c_i)) base + sum(c_i parent_i): with one weight of 1 the base cancels, and the parent comes back
    bit for bit.

    Args:
        base: What the parents began as.
        parents: Shapes as the base's.
        weights: Of the parents.
        scale: The papers' lambda.
        normalize: Divide the sum by that of the weights.
    """
    factor = scale / _divisor(sum(weights)) if normalize else scale
    coefficients = [factor * weight for weight in weights]
    return weighted_sum([base, *parents], [1 - sum(coefficients), *coefficients])


def summed(deltas: Sequence[Tensor], weights: Sequence[float], *, normalize: bool) -> Tensor:
    """Return the weighted sum of task vectors, signs as they are."""
    total = weighted_sum(deltas, weights)
    return total.div_(_divisor(sum(weights))) if normalize else total


def elected(deltas: Sequence[Tensor], weights: Sequence[float], *, normalize: bool) -> Tensor:
    """Return the weighted sum of those entries that have the elected sign, that of the sum; 0 counts as plus.

    Entries that are 0 have no sign: they do not take part, and their weight is not divided by.
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
    """Return a sum of weights to divide by; weights that cancel each other are taken as they are."""
    return 1.0 if abs(total) < NO_WEIGHT else total
