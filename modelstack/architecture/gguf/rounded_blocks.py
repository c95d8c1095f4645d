"""Quantised weights as blocks of GGUF files, without rounding them again.

Integers with one scale per 32 columns are exactly the numbers of llama.cpp's types Q4_0, Q5_0 and Q8_0, if the
scales are fp16. Layouts: ggml-common.h.

Letters: N rows, K columns, G = K / 32 blocks of a row.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from modelstack.architecture.gguf.numbers import NUMBER_TYPES, NumberType, PlannedTensor
from modelstack.architecture.gguf.rules import Array, Rule
from modelstack.architecture.rounded_weight import NumberFormat, RoundedWeight
from modelstack.errors import UserError

BLOCK_COLUMNS = 32
_TYPE_BY_BITS = {4: "q4_0", 5: "q5_0", 8: "q8_0"}


def type_of(number_format: NumberFormat) -> NumberType:
    """Return the number type that holds a format.

    Raises:
        UserError: None does.
    """
    is_blocks = number_format.strategy == "group" and number_format.group_size == BLOCK_COLUMNS
    if number_format.kind != "int" or not is_blocks or number_format.bits not in _TYPE_BY_BITS:
        raise UserError(
            f"{number_format.bits}-bit {number_format.kind} numbers with one scale per {number_format.strategy} "
            f"have no type in GGUF files, which hold integers of 4, 5 or 8 bits in groups of {BLOCK_COLUMNS}; "
            f"write a folder instead"
        )
    return NUMBER_TYPES[_TYPE_BY_BITS[number_format.bits]]


def planned_blocks(rule: Rule, rounded: RoundedWeight) -> list[PlannedTensor]:
    """Return the tensors in the file for a quantised weight."""
    shapes = rule.stored_shapes(tuple(rounded.values.shape))
    ggml_type = type_of(rounded.format).ggml_type
    return [PlannedTensor(name, shape, ggml_type) for name, shape in zip(rule.stored, shapes, strict=True)]


def blocks(rule: Rule, rounded: RoundedWeight) -> list[NDArray[np.uint8]]:
    """Return the bytes of each tensor in the file for a quantised weight.

    Raises:
        UserError: The scales are not exact in fp16, or the file stores columns in another order.
    """
    scale = rounded.scale.to(torch.float16)
    if not torch.equal(scale.float(), rounded.scale.float()):
        raise UserError(
            f"{rule.name}: scales of {rounded.scale.dtype} are not exact in fp16, the type of GGUF's scales"
        )
    parts = rule.split(rounded.values.numpy()), rule.split(scale.numpy())
    return [
        _encoded(values, scales, rounded.format.bits, rule.name) for values, scales in zip(*parts, strict=True)
    ]


def _encoded(values: Array, scales: Array, bits: int, name: str) -> NDArray[np.uint8]:
    """Return values [..., N, K] and scales [..., N, G] as rows of blocks, [..., N, bytes of a row]."""
    if values.shape[:-1] != scales.shape[:-1] or values.shape[-1] != scales.shape[-1] * BLOCK_COLUMNS:
        raise UserError(f"{name}: GGUF files store its columns in another order; it cannot be quantised by groups")
    grouped = values.reshape(*scales.shape, BLOCK_COLUMNS)
    pieces: list[Array] = [np.ascontiguousarray(scales)[..., None].view(np.uint8)]
    if bits == 8:
        pieces.append(grouped.view(np.uint8))
    else:
        unsigned = (grouped + np.int8(2 ** (bits - 1))).view(np.uint8)
        if bits == 5:
            pieces.append(np.packbits(unsigned >> 4, axis=-1, bitorder="little"))
        low, high = unsigned[..., : BLOCK_COLUMNS // 2] & 15, unsigned[..., BLOCK_COLUMNS // 2 :] & 15
        pieces.append(low | (high << 4))
    return np.concatenate(pieces, axis=-1).reshape(*scales.shape[:-1], -1)
