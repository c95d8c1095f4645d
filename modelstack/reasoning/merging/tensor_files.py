"""Reads and writes a model's tensors one at a time, so that models larger than memory can be merged.

Output format: huggingface/safetensors, section "Format" of its README: eight bytes with the length, a JSON
header with dtype, shape and offsets of each tensor, then the data. The header is known in advance, so a file is
written front to back. Names are those of released checkpoints (`checkpoint_names`), whatever the parents' files
use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from modelstack.architecture.checkpoint import MAX_JSON_BYTES, MAX_SHARD_BYTES, load_config
from modelstack.architecture.checkpoint_names import PARTS, file_name, place_of
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.load import load_gguf
from modelstack.errors import UserError
from modelstack.files import read_json_object

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
}
"""Dtypes by safetensors' names."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_ALIGNMENT = 8
"""Alignment of the data in bytes, for readers that map the file into memory."""


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """Shape and dtype of a tensor that has not been read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def n_bytes(self) -> int:
        """Size in a file, in bytes."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class ModelTensors:
    """Lazy tensors of a model by their released names; each is read on demand."""

    config: ModelConfig
    facts: Mapping[str, TensorFacts]
    readers: Mapping[str, Callable[[], Tensor]]

    def read(self, name: str) -> Tensor:
        """Return a tensor in its stored dtype."""
        return self.readers[name]()


@contextmanager
def open_tensors(path: Path) -> Iterator[ModelTensors]:
    """Open a checkpoint folder, or a GGUF file, which is loaded into memory and dequantised to fp32.

    Raises:
        UserError: A file is missing or damaged, or has an unsupported number type, or a GGUF file has packed
            experts.
    """
    if path.is_file():
        yield _of_gguf(path)
        return
    from safetensors import SafetensorError, safe_open

    config = load_config(path)
    facts: dict[str, TensorFacts] = {}
    readers: dict[str, Callable[[], Tensor]] = {}
    with ExitStack() as files:
        for file in _weight_files(path):
            try:
                opened = files.enter_context(safe_open(file, framework="pt"))
                for stored in opened.keys():  # noqa: SIM118 (no mapping)
                    name = _released(stored, config)
                    if name is None or (name == "lm_head.weight" and config.tie_word_embeddings):
                        continue
                    part = opened.get_slice(stored)
                    facts[name] = TensorFacts(tuple(part.get_shape()), _dtype(part.get_dtype(), stored, file))
                    readers[name] = partial(opened.get_tensor, stored)
            except SafetensorError as error:
                raise UserError(f"{file} is not a valid safetensors file: {error}") from error
        yield ModelTensors(config, facts, readers)


def write_tensors(
    folder: Path,
    planned: Mapping[str, TensorFacts],
    tensors: Callable[[str], Tensor],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write tensors into a checkpoint folder, one in memory at a time; equal plans give equal files.

    Args:
        folder: Empty folder.
        planned: Shape and dtype of each tensor.
        tensors: Makes the tensor of a name; called once per tensor, in file order.
        max_shard_bytes: Maximum size of a file in bytes.
    """
    shards: list[list[str]] = [[]]
    size = 0
    # Wide dtypes first: every offset is then a multiple of the item size, without gaps, which the format
    # forbids.
    for name in sorted(planned, key=lambda name: (-planned[name].dtype.itemsize, name)):
        if size and size + planned[name].n_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += planned[name].n_bytes
    n = len(shards)
    files = [_SINGLE] if n == 1 else [f"model-{k:05d}-of-{n:05d}.safetensors" for k in range(1, n + 1)]
    for file, names in zip(files, shards, strict=True):
        with (folder / file).open("wb") as out:
            _write_file(out, {name: planned[name] for name in names}, map(tensors, names))
    if n > 1:
        total = sum(facts.n_bytes for facts in planned.values())
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / _INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_file(out: BinaryIO, planned: Mapping[str, TensorFacts], tensors: Iterable[Tensor]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, facts in planned.items():
        start, end = end, end + facts.n_bytes
        header[name] = {"dtype": _NAMES[facts.dtype], "shape": facts.shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // _ALIGNMENT) * _ALIGNMENT)
    out.write(len(text).to_bytes(8, "little") + text)
    for facts, tensor in zip(planned.values(), tensors, strict=True):
        assert (tuple(tensor.shape), tensor.dtype) == (facts.shape, facts.dtype)
        out.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def _of_gguf(path: Path) -> ModelTensors:
    loaded = load_gguf(path)
    config = loaded.config
    state = dict(loaded.state_dict)
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    if any(".experts." in name for name in state):
        raise UserError(
            f"{path} has experts, which GGUF packs in other shapes than checkpoints: convert it first "
            f"(`modelstack import gguf {path.name} FOLDER`) and name the folder"
        )
    tensors = {file_name(name, config): tensor for name, tensor in state.items()}
    facts = {name: TensorFacts(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    return ModelTensors(config, facts, {name: partial(_given, tensor) for name, tensor in tensors.items()})


def _given(tensor: Tensor) -> Tensor:
    return tensor


def _released(name: str, config: ModelConfig) -> str | None:
    """Return the released name of a stored tensor; None for a copy of another tensor."""
    place = place_of(name, config)
    if place.name is None:
        return None
    if place.expert is None:
        return file_name(place.name, config)
    packed = place.name.rpartition(".")[2]
    part = next(part for part, of, half in PARTS if (of, half) == (packed, place.half))
    return file_name(place.name, config, part, place.expert)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if not (folder / _INDEX).is_file():
        raise UserError(f"{folder} holds neither {_SINGLE} nor {_INDEX}; only safetensors weights can be read")
    weight_map = read_json_object(folder / _INDEX, MAX_JSON_BYTES).get("weight_map")
    names = sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{folder / _INDEX} names {name!r}, which is not a file of this folder")
    return [folder / name for name in names]


def _dtype(name: str, tensor: str, file: Path) -> torch.dtype:
    if name not in DTYPES:
        raise UserError(f"{file}: {tensor} has number type {name}; supported are {', '.join(DTYPES)}")
    return DTYPES[name]
