"""Rounding to the nearest number, with scales that are searched for the smallest weighted error.

The search tries scales from the one that covers the largest weight down to a clipped one, with both signs, and
refines the best one by least squares. Errors are weighted by the mean square of each input, as llama.cpp does
with an importance matrix: the diagonal of the matrix X^T X / n of the inputs X.

Letters: N outputs, K inputs, G groups along a row, g columns of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelstack.architecture.rounded_weight import BLOCK, NumberFormat, RoundedWeight, stored

CLIPPING = tuple(1.15 - 0.05 * n for n in range(11))
"""Factors of the scale at which the largest weight becomes the smallest integer."""
REFINEMENTS = 2
"""Rounds of least squares and rounding after the search."""
SMALLEST_SCALE = 2.0**-24
"""Scale of groups of zeros: fp16's smallest number, so that it is no zero in any type of scales."""
AT_ONCE = 2**17
"""Weights that are searched at once; 512 KiB in fp32, which stay in a core's cache."""


def round_weight(
    weight: Tensor,
    number_format: NumberFormat,
    importance_K: Tensor | None,
    scale_type: torch.dtype,
) -> RoundedWeight:
    """Return a weight [..., N, K] rounded to the nearest numbers of a format.

    Args:
        weight: Weights in any floating-point type.
        number_format: Numbers to round to; `NumberFormat.fits` must hold.
        importance_K: Weight of each input's error; None: all equal.
        scale_type: Type that stores the scales, to which they are rounded before the weights are.
    """
    weight = weight.float()
    scale = find_scale(weight, number_format, importance_K, scale_type)
    scaled = weight / number_format.expanded(scale.float(), tuple(weight.shape))
    return RoundedWeight(number_format, stored(number_format.nearest(scaled), number_format), scale)


def find_scale(
    weight: Tensor,
    number_format: NumberFormat,
    importance_K: Tensor | None,
    scale_type: torch.dtype,
) -> Tensor:
    """Return the scales of a weight [..., N, K], of the shape `NumberFormat.scale_shape`."""
    if number_format.strategy in ("tensor", "block"):
        return _covering(weight, number_format).to(scale_type)
    *experts, n, k = weight.shape
    n_groups = number_format.scale_shape(tuple(weight.shape))[-1]
    groups = weight.reshape(-1, n_groups, k // n_groups)
    if number_format.kind == "float":
        scale = _not_zero(groups.abs().amax(-1) / number_format.largest).to(scale_type)
        return scale.view(*experts, n, n_groups)
    importance = groups.new_ones(k) if importance_K is None else importance_K.float()
    importance = importance.reshape(n_groups, -1)
    parts = groups.split(max(1, AT_ONCE // k))
    scale = torch.cat([_searched(part, number_format, importance, scale_type) for part in parts])
    return scale.view(*experts, n, n_groups)


def _covering(weight: Tensor, number_format: NumberFormat) -> Tensor:
    """Return the scales of a tensor or of its blocks that map the largest weight to the largest number."""
    magnitudes = weight.abs()
    if number_format.strategy == "tensor":
        return _not_zero(magnitudes.amax((-2, -1), keepdim=True) / number_format.largest)
    n, k = weight.shape[-2:]
    padded = torch.nn.functional.pad(magnitudes, (0, -k % BLOCK, 0, -n % BLOCK))
    tiles = padded.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK))
    return _not_zero(tiles.amax((-3, -1)) / number_format.largest)


def _searched(
    groups_NGg: Tensor, number_format: NumberFormat, importance_Gg: Tensor, scale_type: torch.dtype
) -> Tensor:
    """Return the scale of least weighted error of each group, [N, G]."""
    low, high = groups_NGg.aminmax(dim=-1)
    # The number of largest magnitude becomes the smallest integer, so its scale has the opposite sign.
    base = torch.where(high > -low, high, low) / number_format.smallest
    best_scale = _not_zero(base).to(scale_type).float()
    best_error = torch.full_like(base, torch.inf)

    def offer(candidate: Tensor) -> None:
        nonlocal best_scale, best_error
        scale = _not_zero(candidate).to(scale_type).float()
        rest = number_format.nearest(groups_NGg / scale[..., None]).mul_(scale[..., None]).sub_(groups_NGg)
        error = rest.square_().mul_(importance_Gg).sum(-1)
        better = error < best_error
        best_scale = torch.where(better, scale, best_scale)
        best_error = torch.where(better, error, best_error)

    offer(groups_NGg.abs().amax(-1) / number_format.largest)
    for factor in CLIPPING:
        offer(base * factor)
        offer(base * -factor)
    for _ in range(REFINEMENTS):
        values = number_format.nearest(groups_NGg / best_scale[..., None])
        weighted = values * importance_Gg
        fitted = (weighted * groups_NGg).sum(-1) / (weighted * values).sum(-1)
        offer(torch.where(fitted.isfinite(), fitted, best_scale))
    return best_scale.to(scale_type)


def _not_zero(scale: Tensor) -> Tensor:
    return torch.where(scale.abs() < SMALLEST_SCALE, SMALLEST_SCALE, scale)
