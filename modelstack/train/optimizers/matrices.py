"""Which matrices lie in one parameter.

Muon orthogonalises logically independent matrices, each alone (DeepSeek-V4's report): every expert of a packed
tensor, gate and up apart, queries apart from keys. A parameter's `Fusion` says how its last two axes divide: along
one axis, `repeat` times over, pieces of the given sizes follow each other. So the halves of gate_up_proj are
(I, I) once, gpt-oss's turns are (1, 1) I times, the heads of DeepSeek-V3's kv_b_proj (n, v) H times.

Letters: N matrices in a row (experts), n rows, m columns, I inner width, H heads.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Fusion(NamedTuple):
    """How matrices are fused into one."""

    axis: Literal[-2, -1]
    """Rows or columns."""
    sizes: tuple[int, ...]
    """Rows (columns) of each matrix in one period."""
    repeat: int = 1
    """Periods."""


def split(x_Nnm: Tensor, fusion: Fusion | None) -> list[Tensor]:
    """Return the matrices, each [N, n_i, m_i]."""
    if fusion is None:
        return [x_Nnm]
    axis, sizes, repeat = fusion
    by_period = x_Nnm.unflatten(axis, (repeat, sum(sizes)))
    return [piece.flatten(axis - 1, axis) for piece in by_period.split(sizes, dim=axis)]


def join(pieces: list[Tensor], fusion: Fusion | None) -> Tensor:
    """Return the tensor that `split` took apart, [N, n, m]."""
    if fusion is None:
        return pieces[0]
    axis, sizes, repeat = fusion
    periods = [piece.unflatten(axis, (repeat, size)) for piece, size in zip(pieces, sizes, strict=True)]
    return torch.cat(periods, dim=axis).flatten(axis - 1, axis)
