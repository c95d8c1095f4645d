"""GPTQ: rounding column by column, with the rest of the row adapted to the error that was made.

Frantar et al., arXiv 2210.17323. With H = 2 X^T X / n of the inputs and U the upper Cholesky factor of its
inverse, rounding column j with the error e = (w_j - q_j) / U_jj is best followed by w_k -= e U_jk for the columns
k > j. Columns are visited from the most important one (the largest H_jj) to the least, but keep the group of
their place, so that no permutation has to be stored (llm-compressor's order "static").

Letters: N outputs, K inputs, b columns of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelstack.architecture.rounded_weight import NumberFormat, RoundedWeight, stored
from modelstack.inference.quantise.rounding import find_scale

DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it; the paper's value."""
BLOCK_COLUMNS = 128
"""Columns after which the rest of the matrix is adapted at once; the paper's value. It changes no result."""


def round_by_gptq(
    weight: Tensor,
    number_format: NumberFormat,
    second_moment_KK: Tensor,
    scale_type: torch.dtype,
    *,
    damping: float = DAMPING,
) -> RoundedWeight:
    """Return a weight [N, K] rounded so that its outputs on the calibration inputs change least.

    Args:
        weight: Weights in any floating-point type.
        number_format: Numbers to round to.
        second_moment_KK: Mean of x^T x over the calibration inputs x, fp32.
        scale_type: Type that stores the scales.
        damping: Share of the mean of the diagonal that is added to it.

    Raises:
        torch.linalg.LinAlgError: The matrix is not positive definite in spite of the damping: inputs contained
            infinite numbers or NaN.
    """
    w = weight.float().clone()
    hessian = second_moment_KK.double().clone()
    diagonal = hessian.diagonal()
    is_dead = diagonal == 0  # an input that is always zero: its weights have no effect
    diagonal[is_dead] = 1
    w[:, is_dead] = 0
    scale = find_scale(w, number_format, diagonal.float(), scale_type)
    scale_NK = number_format.expanded(scale.float(), tuple(w.shape)).expand_as(w)
    order = diagonal.argsort(descending=True)
    diagonal += damping * diagonal.mean()
    # One matrix after the other, in double precision: 640 MB each at 8,960 inputs.
    hessian = hessian[order][:, order]
    hessian = torch.linalg.cholesky(hessian)
    hessian = torch.cholesky_inverse(hessian)
    upper = torch.linalg.cholesky(hessian, upper=True).float()
    del hessian
    w, scale_NK = w[:, order].contiguous(), scale_NK[:, order]
    values = torch.empty_like(w)
    for start in range(0, w.shape[1], BLOCK_COLUMNS):
        end = min(start + BLOCK_COLUMNS, w.shape[1])
        errors = torch.empty_like(w[:, start:end])
        # Columns are rows here: each step reads and writes whole rows of memory.
        block, scales, u = (
            w[:, start:end].t().contiguous(),
            scale_NK[:, start:end].t(),
            upper[start:end, start:end],
        )
        for j in range(end - start):
            values[:, start + j] = number_format.nearest(block[j] / scales[j])
            error = (block[j] - values[:, start + j] * scales[j]) / u[j, j]
            block[j + 1 :] -= u[j, j + 1 :, None] * error
            errors[:, j] = error
        w[:, end:] -= errors @ upper[start:end, end:]
    original = torch.empty_like(values)
    original[:, order] = values
    return RoundedWeight(number_format, stored(original, number_format), scale)
