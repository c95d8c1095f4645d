"""Export of a model to a GGUF file: all checks come first, then tensors are converted and written one by one.

The file is written under a temporary name in the same folder, synced and renamed, so a partial file is never
visible. At most one tensor at a time is in full precision.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.expected import expected_shapes
from modelstack.architecture.gguf.family import Family, metadata
from modelstack.architecture.gguf.fields import Value
from modelstack.architecture.gguf.llama_quantize import quantize_in_child
from modelstack.architecture.gguf.numbers import (
    NUMBER_TYPES,
    NumberType,
    PlannedTensor,
    encode,
    names_in_full,
    number_type,
    plan,
    refuse_broken_blocks,
)
from modelstack.architecture.gguf.registry import family_of
from modelstack.architecture.gguf.rounded_blocks import blocks, planned_blocks, type_of
from modelstack.architecture.gguf.rules import Array, Rule
from modelstack.architecture.gguf.tokenizer_fields import checked_tokenizer_fields
from modelstack.architecture.rounded_weight import RoundedWeight
from modelstack.errors import UserError
from modelstack.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
QUANTIZATION_VERSION = 2
"""`GGML_QNT_VERSION` of ggml.h."""


@dataclass(frozen=True, slots=True)
class Exported:
    """Result of an export."""

    path: Path
    n_bytes: int
    notes: tuple[str, ...]
    """Sentences on tensors that the file lacks and on operations that llama.cpp computes differently."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """The complete content of a file, with all shapes, without the tensors' values."""

    family: Family
    metadata: dict[str, Value]
    tensors: list[tuple[Rule, list[PlannedTensor]]]
    bands: Array | None
    notes: tuple[str, ...]


def export_gguf(
    config: ModelConfig,
    state_dict: Mapping[str, Tensor],
    tokenizer: Mapping[str, Value],
    path: str | os.PathLike[str],
    *,
    type_name: str = "f16",
    rounded: Mapping[str, RoundedWeight] | None = None,
    name: str | None = None,
) -> Exported:
    """Write a model as a GGUF file.

    Args:
        config: The model's config.
        state_dict: The model's tensors under Hugging Face's names, of any float type.
        tokenizer: Metadata `tokenizer.*`.
        path: Target file; an existing file is replaced on success only.
        type_name: A name in `numbers.NUMBER_TYPES`, for matrices; vectors, routers and similar tensors stay F32.
        rounded: Quantised weights by name, which are stored as they are, whatever the type of the rest. Their
            formats must have a number type (`rounded_blocks.type_of`).
        name: Value of `general.name`.

    Raises:
        UserError: llama.cpp cannot compute this model, or not with this number type; nothing has been written.
    """
    wanted = made = number_type(type_name)
    rounded = rounded or {}
    if rounded and wanted.by_llama_cpp:
        raise UserError(f"quantised weights cannot be stored beside {wanted.name}, which llama.cpp encodes itself")
    planned = _plan(config, state_dict, wanted, rounded)
    if wanted.by_llama_cpp:
        made = NUMBER_TYPES["f32"]
        planned = _plan(config, state_dict, made, rounded)
    main_type = made if not rounded else min((type_of(each.format) for each in rounded.values()), key=_bits)
    fields = _general_fields(planned.family.arch, main_type, name) | planned.metadata
    fields |= checked_tokenizer_fields(tokenizer, config.vocab_size)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as target:
        if wanted.by_llama_cpp:
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
                in_full = Path(folder) / "f32.gguf"
                _write(in_full, planned, fields, state_dict, rounded)
                rules = (rule for rule, _ in planned.tensors)
                quantize_in_child(in_full, target, wanted.file_type, list(names_in_full(rules)))
        else:
            _write(target, planned, fields, state_dict, rounded)
    return Exported(path, path.stat().st_size, planned.notes)


def _plan(
    config: ModelConfig,
    state_dict: Mapping[str, Tensor],
    wanted: NumberType,
    rounded: Mapping[str, RoundedWeight],
) -> _Plan:
    family = family_of(config.model_type)
    written = metadata(family, config)
    expected = expected_shapes(config)
    _refuse_other_shapes(expected, state_dict)
    rules = list(family.rules(config))
    notes = list(family.notes(config))
    if left_out := expected.keys() - {rule.name for rule in rules}:
        notes.append(f"{len(left_out)} tensors of modules for multi-token prediction are not exported")
    tensors = [
        (rule, plan(rule, expected[rule.name], not state_dict[rule.name].is_floating_point(), wanted))
        for rule in rules
        if rule.name not in rounded
    ]
    refuse_broken_blocks((tensor for _, parts in tensors for tensor in parts), wanted)
    tensors += [(rule, planned_blocks(rule, rounded[rule.name])) for rule in rules if rule.name in rounded]
    return _Plan(family, written, tensors, family.bands(config), tuple(notes))


def _refuse_other_shapes(expected: Mapping[str, tuple[int, ...]], state_dict: Mapping[str, Tensor]) -> None:
    if missing := sorted(expected.keys() - state_dict.keys()):
        raise UserError(f"the state dict has no {', '.join(missing[:5])}, which the config requires")
    if foreign := sorted(state_dict.keys() - expected.keys() - {HEAD}):
        raise UserError(f"the state dict has {', '.join(foreign[:5])}, which this config's model does not contain")
    if HEAD not in expected and HEAD in state_dict and not _same(state_dict[HEAD], state_dict[EMBEDDING]):
        raise UserError(f"tie_word_embeddings is true, but {HEAD} differs from {EMBEDDING}; set it to false")
    for name, shape in expected.items():
        if tuple(state_dict[name].shape) != shape:
            raise UserError(f"{name} has shape {tuple(state_dict[name].shape)}, but the config requires {shape}")


def _bits(number_type: NumberType) -> float:
    """Return the bits per number of a type."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(number_type.ggml_type)]
    return 8 * block_bytes / block


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() or a.equal(b)


def _general_fields(arch: str, made: NumberType, name: str | None) -> dict[str, Value]:
    fields: dict[str, Value] = {"general.architecture": arch, "general.type": "model"}
    fields["general.file_type"] = made.file_type
    fields["general.quantization_version"] = QUANTIZATION_VERSION
    return fields | ({"general.name": name} if name else {})


def _write(
    path: Path,
    planned: _Plan,
    fields: Mapping[str, Value],
    state_dict: Mapping[str, Tensor],
    rounded: Mapping[str, RoundedWeight],
) -> None:
    """Write metadata and the list of tensors, then stream the tensors in the same order."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.gguf_writer import GGUFWriter

    with closing(GGUFWriter(path, planned.family.arch)) as writer:
        for key, value in fields.items():
            if key != "general.architecture":  # the writer has already added it
                _add(writer, key, value)
        if planned.bands is not None:
            writer.add_tensor_info(
                "rope_freqs.weight", planned.bands.shape, planned.bands.dtype, planned.bands.nbytes
            )
        for tensor in (tensor for _, parts in planned.tensors for tensor in parts):
            kind = GGMLQuantizationType(tensor.ggml_type)
            block, block_bytes = GGML_QUANT_SIZES[kind]
            n_bytes = prod(tensor.shape) // block * block_bytes
            # Any dtype but uint8: for uint8 the writer expects the shape in bytes.
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), n_bytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if planned.bands is not None:
            writer.write_tensor_data(planned.bands)
        for rule, parts in planned.tensors:
            if (weight := rounded.get(rule.name)) is not None:
                for encoded in blocks(rule, weight):
                    writer.write_tensor_data(encoded)
                continue
            array = state_dict[rule.name].detach().cpu()
            array = (array.float() if array.is_floating_point() else array).numpy()
            for tensor, part in zip(parts, rule.split(array), strict=True):
                writer.write_tensor_data(encode(part, tensor))


def _add(writer: Any, key: str, value: Value) -> None:
    from gguf.constants import GGUFValueType as Type

    kinds = {bool: Type.BOOL, int: Type.UINT32, float: Type.FLOAT32, str: Type.STRING}
    items = {bool: Type.BOOL, int: Type.INT32, float: Type.FLOAT32, str: Type.STRING}
    if isinstance(value, list):
        writer.add_key_value(key, value, Type.ARRAY, sub_type=items[type(value[0])])
    else:
        writer.add_key_value(key, value, kinds[type(value)])
