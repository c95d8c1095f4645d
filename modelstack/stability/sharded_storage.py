"""What torch.distributed.checkpoint writes and reads here: safetensors by rank and one JSON index, no pickle.

DCP plans (which rank writes which part, what a rank reads of which part in another layout); its own storage
pickles the plan into `.metadata` and each tensor by torch.save. This one writes `rank-00003.safetensors` by each
rank, hashed by the rank that wrote it, and by the first one the index and the manifest, and then puts the folder
in its place: DCP calls `finish` only when all ranks have written, and tells all of them when one has failed.

The index is `sharded.json`: the step, the number of ranks, for each tensor its type, shape and chunks (offsets,
shape, file), each rank's own plain values, and the rest of the state.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from modelstack.errors import UserError
from modelstack.files import put_in_place
from modelstack.stability.checkpoint_folders import INDEX, file_facts, remove_old, write_manifest, write_tensors
from modelstack.stability.named_state import NamedState, Stored

PARTIAL = ".partial"
"""Ends the name of a folder that is being written; what a killed run left of one is removed by the next save."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a tensor, in one file."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: str


@dataclass(frozen=True, slots=True)
class Index:
    """What `sharded.json` says."""

    step: int
    world: int
    tensors: dict[str, Stored]
    chunks: dict[str, list[Chunk]]
    owns: list[dict[str, Any]]
    """Each rank's `NamedState.own`."""
    rest: Any


def read_index(path: Path, step: int) -> Index:
    """Return a checkpoint's index.

    Raises:
        UserError: It cannot be read, or the checkpoint is of another step.
    """
    try:
        stored = json.loads((path / INDEX).read_text(encoding="utf-8"))
        tensors, chunks = {}, {}
        for name, (dtype, shape, of_name) in stored["tensors"].items():
            tensors[name] = Stored(_dtype(dtype), tuple(shape))
            chunks[name] = [Chunk(tuple(offsets), tuple(sizes), file) for offsets, sizes, file in of_name]
        index = Index(stored["step"], stored["world"], tensors, chunks, stored["owns"], stored["rest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path.name}: its {INDEX} cannot be read ({error!r})") from error
    if index.step != step:
        raise UserError(f"{path.name} is of step {index.step}: it was renamed")
    return index


class NamedSavePlanner(DefaultSavePlanner):
    """DCP's planner; each rank's own plain values travel to the first one with its plan."""

    def __init__(self, own: Mapping[str, Any]) -> None:
        """Take this rank's."""
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._own = own

    def create_local_plan(self) -> SavePlan:
        """Return this rank's plan."""
        return replace(super().create_local_plan(), planner_data=self._own)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Return all ranks' plans, nothing written twice."""
        plans, metadata = super().create_global_plan(all_plans)
        return plans, replace(metadata, planner_data=[plan.planner_data for plan in all_plans])


class SafetensorsWriter(StorageWriter):
    """Writes one checkpoint."""

    def __init__(self, path: Path, step: int, rank: int, state: NamedState, keep: int) -> None:
        """Take where it shall lie, and how many are kept."""
        self._path = path
        self._step = step
        self._rank = rank
        self._rest = state.rest
        self._keep = keep
        self.partial = path.with_name(f".{path.name}{PARTIAL}")
        """Where it is written."""

    def reset(self, checkpoint_id: Any = None) -> None:
        """Do nothing: a writer writes one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ranks are known."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Make the folder, on the first rank, before any other writes into it."""
        if self.partial.exists():
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True)
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's file; the result of each tensor carries the file's name and facts."""
        tensors: dict[str, Tensor] = {}
        memory: set[int] = set()
        for item in plan.items:
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor)  # all else is in the index
            tensors[_key(item.index)] = _alone(tensor, memory)
        results: list[WriteResult] = []
        if tensors:
            name = f"rank-{self._rank:05d}.safetensors"
            write_tensors(self.partial / name, tensors)
            facts = {"file": name} | file_facts(self.partial / name)
            sizes = [tensors[_key(item.index)].nbytes for item in plan.items]
            results = [WriteResult(item.index, n, facts) for item, n in zip(plan.items, sizes, strict=True)]
        return _done(results)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write index and manifest, put the folder in its place and remove what is too old: on the first rank."""
        file_of = {result.index: result.storage_data for of_rank in results for result in of_rank}
        files = {facts["file"]: {"bytes": facts["bytes"], "sha256": facts["sha256"]} for facts in file_of.values()}
        stored = {
            "step": self._step,
            "world": len(results),
            "tensors": {name: _stored(name, one, file_of) for name, one in metadata.state_dict_metadata.items()},
            "owns": metadata.planner_data,
            "rest": self._rest,
        }
        (self.partial / INDEX).write_text(json.dumps(stored), encoding="utf-8")
        write_manifest(self.partial, files | {INDEX: file_facts(self.partial / INDEX)})
        put_in_place(self.partial, self._path)
        remove_old(self._path.parent, self._keep)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Return False: the writer is given, not found by a path."""
        return False


class SafetensorsReader(StorageReader):
    """Reads one checkpoint that was verified."""

    def __init__(self, path: Path, index: Index) -> None:
        """Take it with its index."""
        self._path = path
        self._index = index

    def reset(self, checkpoint_id: Any = None) -> None:
        """Do nothing: a reader reads one checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return what DCP plans with."""
        found: dict[str, Any] = {}
        for name, one in self._index.tensors.items():
            chunks = [
                ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.shape))
                for chunk in self._index.chunks[name]
            ]
            found[name] = TensorStorageMetadata(TensorProperties(one.dtype), torch.Size(one.shape), chunks)
        return Metadata(found)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the index is known."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Return the plan."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy this rank's parts into place, file by file."""
        from safetensors import safe_open

        file_of = {
            MetadataIndex(name, chunk.offsets): chunk.file
            for name, chunks in self._index.chunks.items()
            for chunk in chunks
        }
        by_file: dict[str, list[Any]] = {}
        for item in plan.items:
            by_file.setdefault(file_of[item.storage_index], []).append(item)
        for file, items in by_file.items():
            with safe_open(self._path / file, framework="pt") as opened:
                for item in items:
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(_read(opened, _key(item.storage_index), item.storage_offsets, item.lengths))
                    planner.commit_tensor(item, target)
        return _done(None)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Return False: the reader is given, not found by a path."""
        return False


def write_alone(writer: SafetensorsWriter, planner: SavePlanner, tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint without a process group: DCP's steps, one after the other."""
    planner.set_up_planner(tensors, is_coordinator=True)
    plans, metadata = planner.create_global_plan([planner.create_local_plan()])
    [plan] = writer.prepare_global_plan(plans)
    writer.finish(metadata, [writer.write_data(planner.finish_plan(plan), planner).wait()])


def whole_tensors(path: Path, index: Index, names: Iterable[str]) -> dict[str, Tensor]:
    """Return tensors of a verified checkpoint, put together from their chunks, without a process group."""
    from safetensors import safe_open

    tensors = {name: torch.empty(index.tensors[name].shape, dtype=index.tensors[name].dtype) for name in names}
    by_file: dict[str, list[tuple[str, Chunk]]] = {}
    for name in tensors:
        for chunk in index.chunks[name]:
            by_file.setdefault(chunk.file, []).append((name, chunk))
    for file, parts in by_file.items():
        with safe_open(path / file, framework="pt") as opened:
            for name, chunk in parts:
                place = tuple(slice(o, o + n) for o, n in zip(chunk.offsets, chunk.shape, strict=True))
                tensors[name][place] = opened.get_tensor(_key(MetadataIndex(name, chunk.offsets)))
    return tensors


def _read(opened: Any, key: str, offsets: Iterable[int], lengths: Iterable[int]) -> Tensor:
    place = tuple(slice(offset, offset + length) for offset, length in zip(offsets, lengths, strict=True))
    return opened.get_slice(key)[place] if place else opened.get_tensor(key)


def _stored(name: str, one: Any, file_of: Mapping[MetadataIndex, Mapping[str, Any]]) -> list[Any]:
    chunks = [
        [list(chunk.offsets), list(chunk.sizes), file_of[MetadataIndex(name, chunk.offsets)]["file"]]
        for chunk in one.chunks
    ]
    return [str(one.properties.dtype).removeprefix("torch."), list(one.size), chunks]


def _key(index: MetadataIndex) -> str:
    """Return a chunk's name in a file: two chunks of a tensor may lie in one."""
    return f"{index.fqn}@{','.join(map(str, index.offset or ()))}"


def _alone(tensor: Tensor, memory: set[int]) -> Tensor:
    """Return a contiguous tensor on the CPU that shares no memory, as safetensors wants it: tied weights do."""
    tensor = tensor.detach().cpu().contiguous()
    storage = tensor.untyped_storage()
    if storage.nbytes() != tensor.nbytes or storage.data_ptr() in memory:
        tensor = tensor.clone()
    memory.add(tensor.untyped_storage().data_ptr())
    return tensor


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is no type of tensors")
    return dtype


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
