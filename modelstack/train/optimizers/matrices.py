"""Separation of the matrices that one parameter holds.

Muon orthogonalises logically independent matrices separately (DeepSeek-V4's report): every expert of a packed
tensor, gate and up, queries and keys. A parameter's `Fusion` describes how one of its last two axes is divided:
pieces of the given sizes follow each other, `repeat` times over. The halves of gate_up_proj are (I, I) once;
gpt-oss's alternating columns are (1, 1) I times; the heads of DeepSeek-V3's kv_b_proj are (n, v) H times.

Letters: N stacked matrices (experts), n rows, m columns, I inner width, H heads.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Fusion(NamedTuple):
    """Layout of several matrices fused into one."""

    axis: Literal[-2, -1]
    """Divided axis: rows (-2) or columns (-1)."""
    sizes: tuple[int, ...]
    """Rows (columns) of each matrix in one period."""
    repeat: int = 1
    """Number of periods."""


def split(x_Nnm: Tensor, fusion: Fusion | None) -> list[Tensor]:
    """Return the separate matrices, each [N, n_i, m_i]."""
    if fusion is None:
        return [x_Nnm]
    axis, sizes, repeat = fusion
    by_period = x_Nnm.unflatten(axis, (repeat, sum(sizes)))
    return [piece.flatten(axis - 1, axis) for piece in by_period.split(sizes, dim=axis)]


def join(pieces: list[Tensor], fusion: Fusion | None) -> Tensor:
    """Return the tensor of separated matrices, [N, n, m]; the inverse of `split`."""
    if fusion is None:
        return pieces[0]
    axis, sizes, repeat = fusion
    periods = [piece.unflatten(axis, (repeat, size)) for piece, size in zip(pieces, sizes, strict=True)]
    return torch.cat(periods, dim=axis).flatten(axis - 1, axis)
