"""Newton-Schulz iteration: the orthogonal matrix nearest to a given one, from matrix products alone.

X <- a X + b (X X^T) X + c (X X^T)^2 X maps each singular value, s <- a s + b s^3 + c s^5, and moves those in (0,
1] towards 1. Coefficients: Keller Jordan's Muon (2024) for five steps, whose results are near 1. DeepSeek-V4
(arXiv 2606.19348) uses eight of them and then two of (2, -1.5, 0.5), whose fixed point is exactly 1.

Letters: N matrices of one shape, n rows, m columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Coefficients = tuple[float, float, float]

STEEP: Coefficients = (3.4445, -4.7750, 2.0315)
"""Coefficients whose slope of 3.4445 at 0 raises small singular values fast; large ones stay within about 0.7 to
1.2.
"""
SETTLING: Coefficients = (2.0, -1.5, 0.5)
"""Coefficients with value 1 and slope 0 at 1."""

SCHEDULES: dict[str, tuple[Coefficients, ...]] = {
    "quintic_5": (STEEP,) * 5,
    "deepseek_v4_10": (STEEP,) * 8 + (SETTLING,) * 2,
}
NORM_FLOOR = 1e-7
"""Lower limit of the norm, so that a gradient of zeros stays zero."""


def orthogonalised(x_Nnm: Tensor, schedule: Sequence[Coefficients], dtype: torch.dtype) -> Tensor:
    """Return each matrix with its singular values moved to 1, [N, n, m], in `dtype`.

    Args:
        x_Nnm: Matrices of any floating type; the Frobenius norm is computed in at least fp32.
        schedule: The coefficients of each step.
        dtype: Type of the products.
    """
    is_tall = x_Nnm.shape[-2] > x_Nnm.shape[-1]
    x = x_Nnm.mT if is_tall else x_Nnm  # X X^T is then the smaller of the two products
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    x = (exact / torch.linalg.matrix_norm(exact, keepdim=True).clamp(min=NORM_FLOOR)).to(dtype)
    for a, b, c in schedule:
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
