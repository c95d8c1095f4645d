"""Spherical interpolation of two models: along the arc between their weights instead of the chord.

Shoemake, "Animating rotation with quaternion curves" (SIGGRAPH 1985), on weights. With the angle W between a and b
the result is a sin((1 - t) W) / sin W + b sin(t W) / sin W: directions are interpolated at an even speed, and
lengths are kept, where a mean of two directions is shorter than both. The angle is that of the two whole tensors,
as in mergekit; or each output row has its own, which keeps the lengths of rows.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

STRAIGHT = 0.9995
"""|cosine| above which a straight line is taken: sin W is too small to divide by, and arc and chord agree."""
_NO_LENGTH = 1e-8
"""What is this short has no direction, and so no angle: mergekit takes 90 degrees there, we a straight line."""
Arcs = Literal["tensor", "row"]


def slerp(a: Tensor, b: Tensor, t: float, *, over: Arcs = "tensor") -> Tensor:
    """Return what lies between two tensors, `a` itself at t = 0 and `b` at t = 1.

    Args:
        a: [O, ...].
        b: As `a`.
        t: From 0 to 1.
        over: One angle for the tensor, or one for each of the O rows.
    """
    if t in (0, 1):
        return (b if t else a).clone()
    shape = (len(a), -1) if over == "row" and a.ndim else (1, -1)
    x, y = a.reshape(shape), b.reshape(shape)
    length_x, length_y = (torch.linalg.vector_norm(each, dim=1, keepdim=True) for each in (x, y))
    short = (length_x <= _NO_LENGTH) | (length_y <= _NO_LENGTH)
    # Divided before they are multiplied: a product of two lengths may leave the range of numbers.
    cosine = ((x / length_x.clamp(min=_NO_LENGTH)) * (y / length_y.clamp(min=_NO_LENGTH))).sum(1, keepdim=True)
    cosine.clamp_(-1, 1)
    straight = short | (cosine.abs() > STRAIGHT)
    angle = torch.acos(cosine.masked_fill(straight, 0))
    of_a = torch.where(straight, 1 - t, torch.sin((1 - t) * angle) / torch.sin(angle))
    of_b = torch.where(straight, t, torch.sin(t * angle) / torch.sin(angle))
    return (of_a * x).addcmul_(of_b, y).reshape(a.shape)
