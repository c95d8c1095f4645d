"""Weights rounded to few numbers: integers or FP8, with one scale per group of inputs, row, block or tensor.

A weight w of a group with scale s is stored as q = round(w / s), and read as q * s. Integers use the whole range
-2^(b-1) .. 2^(b-1) - 1, and scales may be negative: the sign of the number with the largest magnitude decides,
because the range has one more negative number (as in llama.cpp's Q4_0).

Letters: N outputs (rows), K inputs (columns), G groups along a row. Experts add an axis before N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
BLOCK = 128
"""Rows and columns of an FP8 block (DeepSeek-V3, arXiv 2412.19437, section 3.3)."""
Strategy = Literal["tensor", "channel", "group", "block"]


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """Numbers that weights are rounded to."""

    kind: Literal["int", "float"]
    """Integers, or floating-point numbers in E4M3."""
    bits: int
    strategy: Strategy
    """Weights that share a scale: all, a row, a group of columns in a row, or a block."""
    group_size: int | None = None
    """Columns per scale with the strategy "group"."""

    @property
    def smallest(self) -> int:
        """Smallest integer."""
        return -(2 ** (self.bits - 1))

    @property
    def largest(self) -> float:
        """Largest number before scaling."""
        return E4M3_MAX if self.kind == "float" else 2.0 ** (self.bits - 1) - 1

    def bits_per_weight(self, shape: tuple[int, ...], scale_bits: int = 16) -> float:
        """Return the average bits of a weight of this shape, scales included."""
        rows, columns = self.scale_shape(shape)[-2:]
        return self.bits + scale_bits * rows * columns / (shape[-2] * shape[-1])

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the scales of a weight of this shape."""
        *experts, n, k = shape
        match self.strategy:
            case "tensor":
                return (*experts, 1, 1)
            case "channel":
                return (*experts, n, 1)
            case "block":
                return (*experts, -(-n // BLOCK), -(-k // BLOCK))
            case "group":
                return (*experts, n, k // self._group_size)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether the rows of a weight of this shape can be divided into groups."""
        return self.strategy != "group" or shape[-1] % self._group_size == 0

    def expanded(self, scale: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the scale of each weight, as a tensor that broadcasts to [..., N, K]."""
        match self.strategy:
            case "group":
                return scale.repeat_interleave(self._group_size, -1)
            case "block":
                rows = scale.repeat_interleave(BLOCK, -2)[..., : shape[-2], :]
                return rows.repeat_interleave(BLOCK, -1)[..., : shape[-1]]
            case _:
                return scale

    def nearest(self, scaled: Tensor) -> Tensor:
        """Return the nearest numbers of this format to weights divided by their scales, in fp32."""
        if self.kind == "float":
            return scaled.clamp(-E4M3_MAX, E4M3_MAX).to(E4M3).float()
        return scaled.round().clamp_(self.smallest, self.largest)

    @property
    def _group_size(self) -> int:
        assert self.group_size is not None, "the strategy is group"
        return self.group_size


@dataclass(frozen=True, slots=True)
class RoundedWeight:
    """A rounded weight."""

    format: NumberFormat
    values: Tensor
    """Numbers before scaling, [..., N, K], in int8 or E4M3."""
    scale: Tensor
    """Scales in a floating-point type, of the shape `NumberFormat.scale_shape`."""

    def dequantised(self) -> Tensor:
        """Return the weights that the numbers stand for, in fp32; the product of integer and scale is exact."""
        return self.values.float() * self.format.expanded(self.scale.float(), tuple(self.values.shape))


def stored(values: Tensor, number_format: NumberFormat) -> Tensor:
    """Return numbers of a format in the type that stores them: int8 or E4M3."""
    return values.to(E4M3 if number_format.kind == "float" else torch.int8)
