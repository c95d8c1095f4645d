"""Quantised weights in checkpoint folders, in the format compressed-tensors, which vLLM and transformers read.

Three of its layouts are written and read. `pack-quantized`: integers of up to 8 bits, packed into int32 along a
row, lowest bits first, each stored as q + 2^(bits - 1); the scale of each group; the shape. `int-quantized`: int8
with one scale per row. `float-quantized`: E4M3 with the scale of the tensor, of each row or of each block of 128 x
128. The last two also say how activations are rounded: int8 or E4M3, per token (or per 128 channels of a token).
Layouts: compressed-tensors 0.20 (Apache-2.0), which the tests compare with.

Letters: N outputs, K inputs, b bits, p = 32 / b numbers per int32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import StringConstraints, TypeAdapter, ValidationError
from pydantic_core import SchemaError
from torch import Tensor

from modelstack.architecture.rounded_weight import BLOCK, E4M3, NumberFormat, RoundedWeight
from modelstack.errors import UserError

QUANT_METHOD = "compressed-tensors"
PACKED_BITS = (4, 8)
"""Widths of integers that vLLM's kernels read from packed rows."""


def pack(values: Tensor, bits: int) -> Tensor:
    """Return int8 numbers [..., K] as int32 [..., ceil(K / p)]."""
    per_word = 32 // bits
    unsigned = values.to(torch.int64) + 2 ** (bits - 1)
    padded = torch.nn.functional.pad(unsigned, (0, -values.shape[-1] % per_word))
    shifts = torch.arange(0, 32, bits)[:per_word]
    words = (padded.unflatten(-1, (-1, per_word)) << shifts).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack(words: Tensor, bits: int, n_columns: int) -> Tensor:
    """Return the int8 numbers [..., K] of packed rows."""
    shifts = torch.arange(0, 32, bits)[: 32 // bits]
    unsigned = (words.to(torch.int64)[..., None] >> shifts) & (2**bits - 1)
    return (unsigned.flatten(-2)[..., :n_columns] - 2 ** (bits - 1)).to(torch.int8)


def layout_of(number_format: NumberFormat) -> str:
    """Return the name of the layout that holds a format."""
    if number_format.kind == "float":
        return "float-quantized"
    return "pack-quantized" if number_format.strategy == "group" else "int-quantized"


def check_can_store(number_format: NumberFormat) -> None:
    """Check that a format has a layout.

    Raises:
        UserError: It has none that other programs read.
    """
    bits = {"pack-quantized": PACKED_BITS}.get(layout_of(number_format), (8,))
    if number_format.bits not in bits:
        raise UserError(
            f"integers of {number_format.bits} bits with one scale per {number_format.strategy} have no layout in "
            f"checkpoint folders, which hold {' or '.join(map(str, bits))} bits; write a GGUF file instead"
        )


def tensors_of(name: str, rounded: RoundedWeight) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a file for a rounded weight [N, K], with their names."""
    stem = name.removesuffix("weight")
    if layout_of(rounded.format) == "pack-quantized":
        yield f"{stem}weight_packed", pack(rounded.values, rounded.format.bits)
        yield f"{stem}weight_shape", torch.tensor(rounded.values.shape)
    else:
        yield name, rounded.values.contiguous()
    yield f"{stem}weight_scale", rounded.scale.reshape(_stored_scale_shape(rounded)).contiguous()


def _stored_scale_shape(rounded: RoundedWeight) -> tuple[int, ...]:
    return (1,) if rounded.format.strategy == "tensor" else tuple(rounded.scale.shape)


def quantization_config(formats: Mapping[str, NumberFormat], not_rounded: Iterable[str]) -> dict[str, Any]:
    """Return the entry `quantization_config` of config.json.

    Args:
        formats: Format of each rounded layer, by its name in the files.
        not_rounded: Names of the linear layers that are not rounded.
    """
    by_format: dict[NumberFormat, list[str]] = {}
    for layer, number_format in formats.items():
        by_format.setdefault(number_format, []).append(layer)
    groups = {
        f"group_{n}": {
            "targets": ["Linear"] if len(by_format) == 1 else sorted(layers),
            "weights": _weights_entry(number_format),
            "input_activations": _activations_entry(number_format),
            "output_activations": None,
            "format": layout_of(number_format),
        }
        for n, (number_format, layers) in enumerate(by_format.items())
    }
    layouts = {layout_of(number_format) for number_format in by_format}
    return {
        "quant_method": QUANT_METHOD,
        "format": layouts.pop() if len(layouts) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "ignore": sorted(not_rounded),
        "config_groups": groups,
        "kv_cache_scheme": None,
    }


def _weights_entry(number_format: NumberFormat) -> dict[str, Any]:
    is_block = number_format.strategy == "block"
    return {
        "num_bits": number_format.bits,
        "type": number_format.kind,
        "strategy": number_format.strategy,
        "group_size": number_format.group_size,
        "block_structure": [BLOCK, BLOCK] if is_block else None,
        "symmetric": True,
        "dynamic": False,
        "actorder": None,
    }


def _activations_entry(number_format: NumberFormat) -> dict[str, Any] | None:
    if layout_of(number_format) == "pack-quantized":
        return None
    is_block = number_format.strategy == "block"
    return {
        "num_bits": number_format.bits,
        "type": number_format.kind,
        "strategy": "group" if is_block else "token",
        "group_size": BLOCK if is_block else None,
        "symmetric": True,
        "dynamic": True,
    }


@dataclass(frozen=True, slots=True)
class _Group:
    names: frozenset[str]
    """Names of layers, and the class "Linear" of all."""
    patterns: tuple[TypeAdapter[str], ...]
    """Regular expressions of names."""
    format: NumberFormat

    def covers(self, layer: str) -> bool:
        """Return whether the group contains a layer."""
        return not self.names.isdisjoint((layer, "Linear")) or any(_matches(each, layer) for each in self.patterns)


class CompressedTensors:
    """Formats of the quantised layers of a folder, from `quantization_config` of its config.json."""

    def __init__(self, entry: Mapping[str, Any], source: str) -> None:
        """Read the entry; `source` is named in errors.

        Raises:
            UserError: The weights have another quantisation, or a format that is not supported.
        """
        method = entry.get("quant_method", "an unknown method") if isinstance(entry, Mapping) else repr(entry)
        if method != QUANT_METHOD:
            raise UserError(
                f"{source}: weights are quantised ({method}); plain safetensors and {QUANT_METHOD} can be read; "
                f"dequantise first"
            )
        self._source = source
        try:
            self._groups = [_group(group) for group in entry["config_groups"].values()]
        except (KeyError, TypeError, AttributeError, ValueError, SchemaError) as error:
            raise UserError(f"{source}: quantization_config is damaged or not supported: {error!r}") from error

    def read(self, layer: str, tensors: Mapping[str, Tensor]) -> RoundedWeight:
        """Return a layer's rounded weight.

        Args:
            layer: Name of the layer.
            tensors: Its tensors by the last part of their names.

        Raises:
            UserError: A tensor is missing or has another shape or type than the format says.
        """
        number_format = next((group.format for group in self._groups if group.covers(layer)), None)
        if number_format is None:
            raise UserError(f"{self._source}: {layer} is quantised, but no group of quantization_config covers it")
        scale = tensors.get("weight_scale")
        is_packed = layout_of(number_format) == "pack-quantized"
        stored = tensors.get("weight_packed" if is_packed else "weight")
        if scale is None or stored is None or (is_packed and "weight_shape" not in tensors):
            raise UserError(
                f"{self._source}: {layer} has only {', '.join(sorted(tensors))}; its scale or weight is missing"
            )
        unread = tensors.keys() - {"weight", "weight_packed", "weight_scale", "weight_shape"}
        if unread:
            raise UserError(f"{self._source}: {layer} has {', '.join(sorted(unread))}, which cannot be read")
        wanted = torch.int32 if is_packed else torch.int8 if number_format.kind == "int" else E4M3
        if stored.dtype != wanted or not scale.is_floating_point():
            raise UserError(
                f"{self._source}: {layer} has numbers of type {stored.dtype} and scales of type {scale.dtype}; "
                f"the numbers must be {wanted}, the scales floating-point"
            )
        values = stored
        if is_packed:
            shape = tensors["weight_shape"].tolist()
            per_word = 32 // number_format.bits
            if len(shape) != 2 or tuple(stored.shape) != (shape[0], -(-shape[1] // per_word)):
                raise UserError(
                    f"{self._source}: {layer} is packed as {list(stored.shape)}, but its shape is {shape}"
                )
            values = unpack(stored, number_format.bits, shape[1])
        shape = tuple(values.shape)
        if (
            len(shape) != 2
            or not number_format.fits(shape)
            or scale.numel() != math.prod(number_format.scale_shape(shape))
        ):
            raise UserError(f"{self._source}: {layer} has scales {list(scale.shape)} for a weight {list(shape)}")
        return RoundedWeight(number_format, values, scale.reshape(number_format.scale_shape(shape)))


def _group(entry: Mapping[str, Any]) -> _Group:
    """Return a group of `config_groups`. A folder is untrusted, so its patterns are matched in linear time."""
    targets = {target: target.startswith("re:") for target in entry["targets"]}
    patterns = [target.removeprefix("re:") for target, is_pattern in targets.items() if is_pattern]
    return _Group(
        frozenset(target for target, is_pattern in targets.items() if not is_pattern),
        tuple(TypeAdapter(Annotated[str, StringConstraints(pattern=f"^(?:{each})")]) for each in patterns),
        _number_format(entry["weights"]),
    )


def _matches(pattern: TypeAdapter[str], name: str) -> bool:
    try:
        pattern.validate_python(name)
    except ValidationError:
        return False
    return True


def _number_format(entry: Mapping[str, Any]) -> NumberFormat:
    if not entry.get("symmetric", True):
        raise ValueError("asymmetric weights (symmetric is false)")
    if entry.get("block_structure") not in (None, [BLOCK, BLOCK]):
        raise ValueError(f"blocks of {entry['block_structure']}")
    kind, bits, strategy = entry["type"], entry["num_bits"], entry["strategy"]
    known = {
        "float": {"tensor": (8,), "channel": (8,), "block": (8,)},
        "int": {"channel": (8,), "group": PACKED_BITS},
    }
    if bits not in known.get(kind, {}).get(strategy, ()):
        raise ValueError(f"{bits}-bit {kind} with strategy {strategy!r}")
    group_size = entry.get("group_size") if strategy == "group" else None
    if strategy == "group" and not (isinstance(group_size, int) and group_size > 0):
        raise ValueError(f"groups of {group_size!r} columns")
    return NumberFormat(kind, bits, strategy, group_size)
