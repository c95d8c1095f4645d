"""Number types of GGUF files: the list of types, the type of each tensor, encoding and decoding.

Blocks of 32 or 256 numbers share a scale, so row lengths must be multiples of the block. Types with blocks of 32
and unquantised types are encoded by the numpy code of PyPI's `gguf`. Types with blocks of 256 (K-quants) need a
search that only llama.cpp implements: see `llama_quantize`. Layouts: ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelstack.architecture.gguf.rules import Array, Rule
from modelstack.errors import UserError


@dataclass(frozen=True, slots=True)
class NumberType:
    """The number type of a file's matrices."""

    name: str
    file_type: int
    """Value of `general.file_type`: `enum llama_ftype` of llama.h."""
    ggml_type: int
    """Value of `enum ggml_type` of ggml.h."""
    block: int = 1
    """Numbers per block, which share a scale."""
    by_llama_cpp: bool = False
    """Whether llama.cpp encodes it, which gives some tensors of a mixture more bits."""


F32, F16, BF16, I32 = 0, 1, 30, 26
"""Values of `enum ggml_type`."""
MAX_F16 = 65504.0
NUMBER_TYPES = {
    number_type.name: number_type
    for number_type in (
        NumberType("f32", 0, F32),
        NumberType("f16", 1, F16),
        NumberType("bf16", 32, BF16),
        NumberType("q8_0", 7, 8, 32),
        NumberType("q5_1", 9, 7, 32),
        NumberType("q5_0", 8, 6, 32),
        NumberType("q4_1", 3, 3, 32),
        NumberType("q4_0", 2, 2, 32),
        NumberType("q6_k", 18, 14, 256, by_llama_cpp=True),
        NumberType("q5_k", 17, 13, 256, by_llama_cpp=True),  # the mixtures _M of llama.cpp
        NumberType("q4_k", 15, 12, 256, by_llama_cpp=True),
        NumberType("q3_k", 12, 11, 256, by_llama_cpp=True),
        NumberType("q2_k", 10, 10, 256, by_llama_cpp=True),
    )
}


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor of the file to be written."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int


def number_type(name: str) -> NumberType:
    """Return a number type by name.

    Raises:
        UserError: The name is unknown.
    """
    if name.lower() not in NUMBER_TYPES:
        raise UserError(f"number type {name!r} is not known; known: {', '.join(NUMBER_TYPES)}")
    return NUMBER_TYPES[name.lower()]


def plan(rule: Rule, shape: tuple[int, ...], is_integer: bool, wanted: NumberType) -> list[PlannedTensor]:
    """Return the tensors in the file for one tensor of ours."""
    planned = []
    for name, stored_shape in zip(rule.stored, rule.stored_shapes(shape), strict=True):
        in_full = rule.in_full or len(stored_shape) == 1 or name.endswith(".bias")
        kind = I32 if is_integer else F32 if in_full else wanted.ggml_type
        planned.append(PlannedTensor(name, stored_shape, kind))
    return planned


def refuse_broken_blocks(planned: Iterable[PlannedTensor], wanted: NumberType) -> None:
    """Raise if the row length of a tensor is not a multiple of the block.

    Raises:
        UserError: A tensor has such rows; the message names one and lists the types that fit.
    """
    broken = [t for t in planned if t.ggml_type == wanted.ggml_type and t.shape[-1] % wanted.block]
    if not broken:
        return
    fits = [t.name for t in NUMBER_TYPES.values() if not any(b.shape[-1] % t.block for b in broken)]
    example = broken[0]
    raise UserError(
        f"number type {wanted.name} requires row lengths in multiples of {wanted.block}; {len(broken)} tensors "
        f"have others, for example {example.name} {example.shape[-1]}. Types that fit: {', '.join(fits)}; "
        f"or use widths that are multiples of {wanted.block}"
    )


def encode(array: Array, planned: PlannedTensor) -> NDArray[np.generic]:
    """Return an array as the bytes of its file, or as an F32, F16 or I32 array.

    Raises:
        UserError: A number is infinite, NaN, or beyond the type's largest.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    if planned.ggml_type == I32:
        return np.ascontiguousarray(array, dtype=np.int32)
    largest = max(float(array.max()), -float(array.min()))  # NaN if any number is NaN
    if not largest < np.inf:
        raise UserError(
            f"{planned.name} contains {largest}; weights must be finite. Use a checkpoint before the divergence"
        )
    if planned.ggml_type == F16 and largest > MAX_F16:
        raise UserError(f"{planned.name} contains {largest}, beyond F16's maximum {MAX_F16}; use bf16 or f32")
    return quantize(np.ascontiguousarray(array, dtype=np.float32), GGMLQuantizationType(planned.ggml_type))


def decode(raw: NDArray[np.uint8], ggml_type: int, shape: tuple[int, ...]) -> Array:
    """Return the numbers of a tensor as float32, or as int64 if they are integers.

    Raises:
        UserError: The type is not supported.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    if ggml_type == I32:
        return raw.view(np.int32).astype(np.int64).reshape(shape)
    kind = GGMLQuantizationType(ggml_type)
    rows = raw.reshape(-1, raw.size // (np.prod(shape[:-1], dtype=np.int64) or 1))
    try:
        with np.errstate(all="ignore"):  # scales of a damaged file may be infinite
            return dequantize(rows, kind).astype(np.float32, copy=False).reshape(shape)
    except NotImplementedError as error:
        raise UserError(f"GGUF number type {kind.name} cannot be read: {error}") from error


def names_in_full(rules: Iterable[Rule]) -> Iterator[str]:
    """Yield the names of stored tensors that stay F32 with every number type, in addition to vectors."""
    for rule in rules:
        if rule.in_full:
            yield from rule.stored
