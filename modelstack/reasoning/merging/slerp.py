"""Spherical interpolation of two models: along the arc between their weights instead of the chord.

Source: Shoemake, "Animating rotation with quaternion curves" (SIGGRAPH 1985), applied to weights. With the angle
W between a and b the result is a sin((1 - t) W) / sin W + b sin(t W) / sin W. It turns at an even speed and
keeps the length, whereas the mean of two vectors is shorter than both. The angle is that between the two whole
tensors, as in mergekit, or one per output row, which keeps the lengths of rows.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

STRAIGHT = 0.9995
"""|cosine| above which interpolation is linear: sin W is too small to divide by, and arc and chord agree."""
_NO_LENGTH = 1e-8
"""Length below which a vector has no direction. Interpolation is then linear; mergekit assumes 90 degrees."""
Arcs = Literal["tensor", "row"]


def slerp(a: Tensor, b: Tensor, t: float, *, over: Arcs = "tensor") -> Tensor:
    """Return the point at t between two tensors: `a` at t = 0, `b` at t = 1.

    Args:
        a: First tensor, [O, ...].
        b: Second tensor, in the shape of `a`.
        t: Position from 0 to 1.
        over: One angle for the tensor, or one for each of the O rows.
    """
    if t in (0, 1):
        return (b if t else a).clone()
    shape = (len(a), -1) if over == "row" and a.ndim else (1, -1)
    x, y = a.reshape(shape), b.reshape(shape)
    length_x, length_y = (torch.linalg.vector_norm(each, dim=1, keepdim=True) for each in (x, y))
    short = (length_x <= _NO_LENGTH) | (length_y <= _NO_LENGTH)
    # Normalised before the product: a product of two lengths may overflow or underflow.
    cosine = ((x / length_x.clamp(min=_NO_LENGTH)) * (y / length_y.clamp(min=_NO_LENGTH))).sum(1, keepdim=True)
    cosine.clamp_(-1, 1)
    straight = short | (cosine.abs() > STRAIGHT)
    angle = torch.acos(cosine.masked_fill(straight, 0))
    of_a = torch.where(straight, 1 - t, torch.sin((1 - t) * angle) / torch.sin(angle))
    of_b = torch.where(straight, t, torch.sin(t * angle) / torch.sin(angle))
    return (of_a * x).addcmul_(of_b, y).reshape(a.shape)
