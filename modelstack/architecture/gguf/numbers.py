"""The number types of GGUF files: which there are, which tensors take them, and the way there and back.

Blocks of 32 or 256 numbers share a scale, so rows must be multiples of that. The types of 32 and the plain ones
are made by PyPI `gguf`'s numpy code; those of 256 (K-quants) need a search that only llama.cpp has: see
`llama_quantize`. Layouts: ggml-quants.c.
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
    """What the matrices of a file are written as."""

    name: str
    file_type: int
    """`general.file_type`: `enum llama_ftype` of llama.h."""
    ggml_type: int
    """`enum ggml_type` of ggml.h."""
    block: int = 1
    """Numbers that share a scale."""
    by_llama_cpp: bool = False
    """Made by llama.cpp, which gives some tensors of a mixture more bits."""


F32, F16, BF16, I32 = 0, 1, 30, 26
"""`enum ggml_type`."""
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
    """Return a type by name.

    Raises:
        UserError: There is none.
    """
    if name.lower() not in NUMBER_TYPES:
        raise UserError(f"number type {name!r} is not known; known are {', '.join(NUMBER_TYPES)}")
    return NUMBER_TYPES[name.lower()]


def plan(rule: Rule, shape: tuple[int, ...], is_integer: bool, wanted: NumberType) -> list[PlannedTensor]:
    """Return what a tensor of ours will be in the file."""
    planned = []
    for name, stored_shape in zip(rule.stored, rule.stored_shapes(shape), strict=True):
        in_full = rule.in_full or len(stored_shape) == 1 or name.endswith(".bias")
        kind = I32 if is_integer else F32 if in_full else wanted.ggml_type
        planned.append(PlannedTensor(name, stored_shape, kind))
    return planned


def refuse_broken_blocks(planned: Iterable[PlannedTensor], wanted: NumberType) -> None:
    """Refuse rows that blocks do not fill.

    Raises:
        UserError: There are such rows; the message names them and a type that fits.
    """
    broken = [t for t in planned if t.ggml_type == wanted.ggml_type and t.shape[-1] % wanted.block]
    if not broken:
        return
    fits = [t.name for t in NUMBER_TYPES.values() if not any(b.shape[-1] % t.block for b in broken)]
    example = broken[0]
    raise UserError(
        f"number type {wanted.name} takes rows of multiples of {wanted.block}; {len(broken)} tensors have others, "
        f"{example.name} {example.shape[-1]} for one. Types that fit: {', '.join(fits)}; or choose widths "
        f"that are multiples of {wanted.block}"
    )


def encode(array: Array, planned: PlannedTensor) -> NDArray[np.generic]:
    """Return an array as its file's bytes, or as F32, F16 and I32 arrays.

    Raises:
        UserError: A number is infinite or none, or beyond the type's largest.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    if planned.ggml_type == I32:
        return np.ascontiguousarray(array, dtype=np.int32)
    largest = max(float(array.max()), -float(array.min()))  # NaN is both
    if not largest < np.inf:
        raise UserError(f"{planned.name} holds {largest}: the model has broken down in training, take a sound one")
    if planned.ggml_type == F16 and largest > MAX_F16:
        raise UserError(f"{planned.name} holds {largest}, beyond F16's {MAX_F16}: take bf16 or f32")
    return quantize(np.ascontiguousarray(array, dtype=np.float32), GGMLQuantizationType(planned.ggml_type))


def decode(raw: NDArray[np.uint8], ggml_type: int, shape: tuple[int, ...]) -> Array:
    """Return the numbers of a tensor as float32, or int64 where they are integers.

    Raises:
        UserError: The type has no place in a language model's weights.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    if ggml_type == I32:
        return raw.view(np.int32).astype(np.int64).reshape(shape)
    kind = GGMLQuantizationType(ggml_type)
    rows = raw.reshape(-1, raw.size // (np.prod(shape[:-1], dtype=np.int64) or 1))
    try:
        with np.errstate(all="ignore"):  # a damaged file's scales may be infinite
            return dequantize(rows, kind).astype(np.float32, copy=False).reshape(shape)
    except NotImplementedError as error:
        raise UserError(f"GGUF number type {kind.name} cannot be read: {error}") from error


def names_in_full(rules: Iterable[Rule]) -> Iterator[str]:
    """Return the stored tensors that every number type leaves in F32, beside vectors."""
    for rule in rules:
        if rule.in_full:
            yield from rule.stored
