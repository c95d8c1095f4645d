"""Checkpoints of a run over several processes: each writes its share; any number of processes can load them.

torch.distributed.checkpoint (DCP) plans and transfers; `sharded_storage` defines the files and `named_state` the
names. A checkpoint is valid when all ranks have written, hashed and synced their files and rank 0 has renamed the
folder. If one rank fails, the checkpoint fails on all ranks, and older ones are unchanged. All ranks load the same
checkpoint: each verifies a share of the files, and one broken file rejects it for all. All ranks must be able to
access the folder. Hashes are verified before anything is read; nothing is unpickled.

In the background mode, `save` copies the state (to the CPU) and returns; a thread writes, using a separate process
group. DCP's `async_save` does the same but creates a new thread each time; here one function writes in both modes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from modelstack.errors import UserError
from modelstack.stability.agreement import Ranks
from modelstack.stability.checkpoint_folders import (
    INDEX,
    Checksum,
    check_keep,
    checkpoint_path,
    checkpoints,
    kind_of,
    none_is_whole,
    read_manifest,
    verify_files,
    wrong_kind,
)
from modelstack.stability.named_state import NamedState, joined, left_over, named, wanted
from modelstack.stability.run_checkpoints import Loaded
from modelstack.stability.sharded_storage import (
    Index,
    NamedSavePlanner,
    Planned,
    SafetensorsReader,
    SafetensorsWriter,
    layout_of,
    read_index,
    whole_tensors,
    write_alone,
    write_as_planned,
)

_SHOWN = 3
"""Maximum number of names in a message."""
_COPIES = StagingOptions(
    use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
)


class ShardedStore:
    """A `CheckpointStore` of all ranks; without torch.distributed, of a single process."""

    def __init__(
        self,
        folder: str | Path,
        keep: int = 3,
        *,
        in_background: bool = False,
        checksum: Checksum = "sha256",
    ) -> None:
        """Create the store; every rank must do so at the same point of the program, because a group is created.

        Args:
            folder: A folder that all ranks can access.
            keep: Number of checkpoints to keep, at least 1.
            in_background: Whether `save` returns once the state is copied, and writing continues during training.
            checksum: Checksum of the files.

        Raises:
            UserError: `keep` is not positive.
        """
        check_keep(keep)
        self._folder = Path(folder)
        self._keep = keep
        self._checksum: Checksum = checksum
        self._planned: Planned | None = None
        self._ranks = Ranks.of_run()
        self._writer = ThreadPoolExecutor(1, "checkpoint") if in_background else None
        self._writing: Future[None] | None = None

    @property
    def folder(self) -> Path:
        """Folder of the checkpoints."""
        return self._folder

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, or copy the state and start to write; waits for the previous one.

        Raises:
            UserError: The state contains a value that cannot be stored.
            OSError: A disk is full or fails on any rank, or writing the previous checkpoint failed in the
                background without a `wait` since; in the second case nothing is started.
        """
        self.wait()
        described = named(state, self._ranks.rank)
        if self._writer is None:
            self._write(step, described)
            return
        copied = DefaultStager(_COPIES).stage(described.tensors)
        assert isinstance(copied, dict)  # without asynchronous staging the result is not a future
        self._writing = self._writer.submit(self._write, step, NamedState(copied, described.own, described.rest))

    def wait(self) -> None:
        """Wait until a started checkpoint is written.

        Raises:
            OSError: Writing failed.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def load(self, like: Mapping[str, Any], *, before: int | None = None) -> Loaded | None:
        """Return the newest checkpoint that is complete for all ranks, sharded as `like`; None if there is none.

        A checkpoint in progress is waited for; the next `wait` or `save` reports its failure.

        Raises:
            UserError: There are checkpoints but none is complete, or they belong to a `LocalStore` or another
                model.
        """
        if self._writing is not None:
            self._writing.exception()
        rejected: list[str] = []
        for step, path in self._candidates(before):
            complaint, index = self._verified(path, step)
            if not complaint:
                assert index is not None
                tensors = self._tensors_for(like, path, index)
                if isinstance(tensors, dict):
                    state = joined(like, tensors, index.owns, index.rest, self._ranks.rank)
                    return Loaded(step, state, tuple(rejected))
                complaint = tensors
            rejected.append(complaint)
        if rejected:
            raise none_is_whole(self._folder, rejected)
        return None

    def _write(self, step: int, state: NamedState) -> None:
        path = checkpoint_path(self._folder, step)
        writer = SafetensorsWriter(path, step, self._ranks.rank, state, self._keep, self._checksum)
        try:
            if self._ranks.group is None:
                write_alone(writer, NamedSavePlanner(state.own), state.tensors)
            else:
                self._write_together(writer, state)
        except CheckpointException as error:
            raise _as_error(path.name, error) from None
        except OSError as error:
            raise OSError(f"{path.name}: {error}") from error
        finally:
            if self._ranks.rank == 0:  # all ranks' results are gathered, including errors, so no rank still writes
                shutil.rmtree(writer.partial, ignore_errors=True)

    def _write_together(self, writer: SafetensorsWriter, state: NamedState) -> None:
        """Plan and write; reuse the previous plan if all ranks' tensors have the same layout as before."""
        layout, planned = layout_of(state.tensors), self._planned
        is_as_planned = planned is not None and planned.layout == layout
        if self._ranks.worst(int(not is_as_planned)) == 0:
            assert planned is not None
            write_as_planned(writer, state, planned, self._ranks)
            return
        self._planned = None
        planner = NamedSavePlanner(state.own)
        dcp_save(state.tensors, storage_writer=writer, planner=planner, process_group=self._ranks.group)
        self._planned = Planned(layout, planner.plan, writer.described)

    def _candidates(self, before: int | None) -> list[tuple[int, Path]]:
        """Return the checkpoints that rank 0 sees, newest first."""
        seen = [(step, kind_of(path)) for step, path in checkpoints(self._folder)]
        [agreed, *_] = self._ranks.texts(json.dumps(seen))
        found = []
        for step, kind in json.loads(agreed):
            if before is not None and step >= before:
                continue
            path = checkpoint_path(self._folder, step)
            if kind == "local":
                raise wrong_kind(path, kind)
            found.append((step, path))
        return found

    def _verified(self, path: Path, step: int) -> tuple[str, Index | None]:
        """Return the error of a checkpoint, found by any rank ("" if none), and its index."""
        own, index = "", None
        try:
            manifest = read_manifest(path)
            if INDEX not in manifest:
                raise UserError(f"{path.name}: its manifest does not list {INDEX}")
            others = sorted(manifest.keys() - {INDEX})
            # Each rank verifies the index, because it reads it; the large files are divided among the ranks.
            verify_files(path, manifest, [INDEX, *others[self._ranks.rank :: self._ranks.world]])
            index = read_index(path, step)
            missing = {chunk.file for chunks in index.chunks.values() for chunk in chunks} - manifest.keys()
            if missing:
                raise UserError(f"{path.name}: its manifest lacks {sorted(missing)[0]}")
        except UserError as error:
            own = str(error)
        return self._first_complaint(own), index

    def _tensors_for(self, like: Mapping[str, Any], path: Path, index: Index) -> dict[str, Tensor] | str:
        """Return this rank's tensors, or the reason why they could not be read.

        Raises:
            UserError: For some rank, the checkpoint belongs to another model or optimizer.
        """
        wants = wanted(like, index.tensors, self._ranks.rank, index.world == self._ranks.world)
        complaint = self._first_complaint("; ".join(wants.complaints[:_SHOWN]))
        asked = {name for text in self._ranks.texts(json.dumps(list(wants.tensors))) for name in json.loads(text)}
        if not complaint and (unasked := left_over(index.tensors, asked)):
            complaint = (
                f"it has {', '.join(unasked[:_SHOWN])}, which the run does not have ({len(unasked)} in all)"
            )
        if complaint:
            raise UserError(
                f"{path} belongs to another model or optimizer: {complaint}. Use the configuration that the run "
                f"began with, or another folder"
            )
        if self._ranks.group is None:
            return whole_tensors(path, index, wants.tensors)
        try:
            dcp_load(
                wants.tensors,
                storage_reader=SafetensorsReader(path, index),
                planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                process_group=self._ranks.group,
            )
        except CheckpointException as error:
            return f"{path.name} cannot be read: {_summary(error)}"
        return wants.tensors

    def _first_complaint(self, own: str) -> str:
        """Return the first complaint of any rank; each rank examines a different share of the files."""
        return next(filter(None, self._ranks.texts(own)), "")


def model_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the whole weights of a sharded checkpoint, without a process group: for `save_checkpoint`.

    Args:
        path: Folder of the checkpoint (`step-00001200`).

    Returns:
        A state dict of the model, for a model of the same configuration.

    Raises:
        UserError: The checkpoint is broken or not sharded.
    """
    path = Path(path)
    if kind_of(path) != "sharded":
        raise UserError(f"{path} has no {INDEX}: it is not a sharded checkpoint (step-...) or lost that file")
    manifest = read_manifest(path)
    verify_files(path, manifest, manifest)
    index = read_index(path, int(path.name.rpartition("-")[2]))
    names = [name for name in index.tensors if name.startswith("model/")]
    tensors = whole_tensors(path, index, names)
    return {name.removeprefix("model/"): tensor for name, tensor in tensors.items()}


def _as_error(name: str, error: CheckpointException) -> Exception:
    """Return the error for the ranks' failures: OSError if all are disk errors, else RuntimeError."""
    if all(isinstance(failure, OSError) for failure, _ in error.failures.values()):
        return OSError(f"{name}: {_summary(error)}")
    return RuntimeError(f"{name} was not written: {error}")


def _summary(error: CheckpointException) -> str:
    return "; ".join(f"rank {rank}: {failure}" for rank, (failure, _) in sorted(error.failures.items()))
