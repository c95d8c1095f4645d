"""Rotation of the last channels of each row, used by DeepSeek-V4 on queries, keys, compressed entries and outputs.

A head is [plain | rotated]; pairs are interleaved. One vector is both key and value, so the values are rotated
too. Rotating the output back by the query's own angle makes the contribution of each value depend only on its
distance (report "DeepSeek-V4", arXiv 2606.19348, section 2.3).

Letters: B batch, T tokens, H heads, d head channels, r rotated channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelstack.architecture.rope import Rotation, rotate_interleaved


def rotate_trailing(x_BTHd: Tensor, rotation: Rotation) -> Tensor:
    """Return x with its last r channels rotated by the angles of its tokens, computed in fp32."""
    r = 2 * rotation[0].shape[-1]
    plain, tail = x_BTHd[..., :-r], x_BTHd[..., -r:]
    turned = rotate_interleaved(tail.transpose(1, 2).float(), rotation).transpose(1, 2)
    return torch.cat((plain, turned.to(x_BTHd.dtype)), dim=-1)


def rotate_trailing_back(x_BTHd: Tensor, rotation: Rotation) -> Tensor:
    """Return x with the rotation of `rotate_trailing` reversed."""
    cos, sin = rotation
    return rotate_trailing(x_BTHd, (cos, -sin))
