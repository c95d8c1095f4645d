"""Storage for torch.distributed.checkpoint (DCP): safetensors per rank and one JSON index, without pickle.

DCP plans which rank writes which part, and which parts a rank reads for another layout. DCP's own storage pickles
the plan into `.metadata` and each tensor by torch.save. Here each rank writes and hashes `rank-00003.safetensors`;
rank 0 writes the index and the manifest and then renames the folder. DCP calls `finish` only when all ranks have
written, and informs all ranks if one has failed.

The index is `sharded.json`: the step, the number of ranks, for each tensor its type, shape and chunks (offsets,
shape, file), each rank's own plain values, and the rest of the state.

A plan is valid as long as all tensors keep their layout, so all saves of a run can share it. DCP would plan each
save again, which takes a third of the processor time of a checkpoint of 120 MB in memory. Later saves reuse the
first plan.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from torch.distributed.tensor import DTensor
from torch.futures import Future

from modelstack.errors import UserError
from modelstack.files import put_in_place
from modelstack.stability.agreement import Ranks
from modelstack.stability.checkpoint_folders import (
    INDEX,
    Checksum,
    file_facts,
    remove_old,
    write_manifest,
    write_tensors,
)
from modelstack.stability.named_state import NamedState, Stored

PARTIAL = ".partial"
"""Suffix of a folder in progress; the next save removes one left by a killed run."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a tensor, in one file."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: str


@dataclass(frozen=True, slots=True)
class Index:
    """Content of `sharded.json`."""

    step: int
    world: int
    tensors: dict[str, Stored]
    chunks: dict[str, list[Chunk]]
    owns: list[dict[str, Any]]
    """`NamedState.own` of each rank."""
    rest: Any


def read_index(path: Path, step: int) -> Index:
    """Return a checkpoint's index.

    Raises:
        UserError: The index cannot be read, or the checkpoint belongs to another step.
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
        raise UserError(f"{path.name} belongs to step {index.step}; it was renamed")
    return index


class NamedSavePlanner(DefaultSavePlanner):
    """DCP's planner, which also sends each rank's own plain values to rank 0."""

    def __init__(self, own: Mapping[str, Any]) -> None:
        """Store this rank's own values."""
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._own = own

    def create_local_plan(self) -> SavePlan:
        """Return this rank's plan."""
        return replace(super().create_local_plan(), planner_data=self._own)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Return all ranks' plans, without duplicate writes."""
        plans, metadata = super().create_global_plan(all_plans)
        return plans, replace(metadata, planner_data=[plan.planner_data for plan in all_plans])


class SafetensorsWriter(StorageWriter):
    """Writer of one checkpoint."""

    def __init__(
        self, path: Path, step: int, rank: int, state: NamedState, keep: int, checksum: Checksum = "sha256"
    ) -> None:
        """Store the target path, the number of checkpoints to keep and the checksum."""
        self._path = path
        self._step = step
        self._rank = rank
        self._rest = state.rest
        self._keep = keep
        self._checksum: Checksum = checksum
        self.partial = path.with_name(f".{path.name}{PARTIAL}")
        """Temporary folder."""
        self.described: dict[str, list[Any]] = {}
        """Index entries of the tensors; set on rank 0, at the end."""

    def reset(self, checkpoint_id: Any = None) -> None:
        """Do nothing: a writer writes one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the ranks are known."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan unchanged."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Create the folder on rank 0, before any other rank writes to it."""
        self.make_folder()
        return plans

    def make_folder(self) -> None:
        """Create the temporary folder, empty."""
        if self.partial.exists():
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's file; the result of each tensor contains the file's name and facts."""
        file = self.write_file(plan, planner)
        # DCP's size of a tensor is not used.
        return _done([WriteResult(item.index, 0, file) for item in plan.items])

    def write_file(self, plan: SavePlan, planner: SavePlanner) -> dict[str, Any]:
        """Write the tensors of this rank's plan to its file; return its name and facts, {} without tensors."""
        tensors: dict[str, Tensor] = {}
        memory: set[int] = set()
        for item in plan.items:
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor)  # all other values are in the index
            tensors[_key(item.index)] = _own_copy(tensor, memory)
        if not tensors:
            return {}
        name = f"rank-{self._rank:05d}.safetensors"
        write_tensors(self.partial / name, tensors)
        return {"file": name} | file_facts(self.partial / name, self._checksum)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Complete the checkpoint, on rank 0."""
        file_of = {result.index: result.storage_data for of_rank in results for result in of_rank}
        described = {name: _stored(name, one, file_of) for name, one in metadata.state_dict_metadata.items()}
        files = [of_rank[0].storage_data for of_rank in results if of_rank]
        self.complete(described, metadata.planner_data, files)

    def complete(
        self, described: dict[str, list[Any]], owns: Sequence[Any], files: Iterable[Mapping[str, Any]]
    ) -> None:
        """Write index and manifest, rename the folder to its final path and remove old checkpoints.

        Args:
            described: Index entries of the tensors.
            owns: Own values of each rank.
            files: Results of `write_file` from the ranks with a file.
        """
        self.described = described
        stored = {
            "step": self._step,
            "world": len(owns),
            "tensors": described,
            "owns": owns,
            "rest": self._rest,
        }
        (self.partial / INDEX).write_text(json.dumps(stored), encoding="utf-8")
        manifest = {file["file"]: {key: file[key] for key in file if key != "file"} for file in files}
        write_manifest(self.partial, manifest | {INDEX: file_facts(self.partial / INDEX, self._checksum)})
        put_in_place(self.partial, self._path)
        remove_old(self._path.parent, self._keep)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Return False: the writer is passed as an object, not found by path."""
        return False


class SafetensorsReader(StorageReader):
    """Reader of one verified checkpoint."""

    def __init__(self, path: Path, index: Index) -> None:
        """Store the path and the index."""
        self._path = path
        self._index = index

    def reset(self, checkpoint_id: Any = None) -> None:
        """Do nothing: a reader reads one checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the metadata for DCP's planning."""
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
        """Return the plan unchanged."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans unchanged."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy this rank's parts into its tensors, file by file."""
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
        """Return False: the reader is passed as an object, not found by path."""
        return False


def write_alone(writer: SafetensorsWriter, planner: SavePlanner, tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint without a process group: DCP's steps in sequence."""
    planner.set_up_planner(tensors, is_coordinator=True)
    plans, metadata = planner.create_global_plan([planner.create_local_plan()])
    [plan] = writer.prepare_global_plan(plans)
    writer.finish(metadata, [writer.write_data(planner.finish_plan(plan), planner).wait()])


@dataclass(frozen=True, slots=True)
class Planned:
    """An executed plan, for later saves of tensors with the same layout."""

    layout: tuple[Any, ...]
    """Result of `layout_of` for the tensors."""
    plan: SavePlan
    """Plan of this rank."""
    described: dict[str, list[Any]]
    """Index entries of the tensors; on rank 0."""


def layout_of(tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """Return all properties that a plan depends on."""
    return tuple(
        (name, one.dtype, one.shape, (one.device_mesh, one.placements) if isinstance(one, DTensor) else None)
        for name, one in tensors.items()
    )


def write_as_planned(writer: SafetensorsWriter, state: NamedState, planned: Planned, ranks: Ranks) -> None:
    """Write a checkpoint by an earlier plan; every rank must call this.

    Raises:
        OSError: A disk is full or fails on any rank.
        RuntimeError: A rank failed for another reason.
    """
    is_first = ranks.rank == 0
    _on_all(ranks, writer.make_folder if is_first else _nothing)  # all ranks wait until the folder exists
    planner = NamedSavePlanner(state.own)
    planner.set_up_planner(state.tensors, is_coordinator=is_first)

    def write() -> dict[str, Any]:
        return {"own": state.own, "file": writer.write_file(planned.plan, planner)}

    parts = _on_all(ranks, write)
    owns, files = [part["own"] for part in parts], [part["file"] for part in parts if part["file"]]
    _on_all(ranks, (lambda: writer.complete(planned.described, owns, files)) if is_first else _nothing)


def _on_all(ranks: Ranks, act: Callable[[], Any]) -> list[Any]:
    """Run `act` on each rank and return all results, plain JSON; if one rank fails, all raise."""
    report: dict[str, Any] = {}
    try:
        report["result"] = act()
    except Exception as error:  # the other ranks wait for this rank's report after any error
        report = {"error": str(error) or repr(error), "is_disk": isinstance(error, OSError)}
    reports = [json.loads(text) for text in ranks.texts(json.dumps(report))]
    failed = {rank: report for rank, report in enumerate(reports) if "error" in report}
    if failed:
        failures = "; ".join(f"rank {rank}: {report['error']}" for rank, report in failed.items())
        raise OSError(failures) if all(report["is_disk"] for report in failed.values()) else RuntimeError(failures)
    return [report["result"] for report in reports]


def _nothing() -> None:
    """Do nothing."""


def whole_tensors(path: Path, index: Index, names: Iterable[str]) -> dict[str, Tensor]:
    """Return tensors of a verified checkpoint, assembled from their chunks, without a process group."""
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
    """Return a chunk's name in a file, which may contain two chunks of one tensor."""
    return f"{index.fqn}@{','.join(map(str, index.offset or ()))}"


def _own_copy(tensor: Tensor, memory: set[int]) -> Tensor:
    """Return a contiguous tensor on the CPU that shares no memory (tied weights do), as safetensors requires."""
    tensor = tensor.detach().cpu().contiguous()
    storage = tensor.untyped_storage()
    if storage.nbytes() != tensor.nbytes or storage.data_ptr() in memory:
        tensor = tensor.clone()
    memory.add(tensor.untyped_storage().data_ptr())
    return tensor


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is not a tensor type")
    return dtype


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
