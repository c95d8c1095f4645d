"""Checkpoints of a run over several processes: each writes its share, at any number of processes they load again.

torch.distributed.checkpoint plans and moves; what lies on the disk is `sharded_storage`'s, what its names are
`named_state`'s. A checkpoint counts when all ranks have written, hashed and synced their files and the first one
has put the folder in its place; where one of them fails, it fails on all, and the older ones are as they were.
All ranks take the same checkpoint: each verifies a share of the files, and one broken file rejects it for all.

The folder has to be one that all ranks see. Hashes are compared before anything is read; nothing is unpickled.

In the background: `save` copies the state (to the CPU) and returns; a thread writes, over a process group of its
own. DCP's `async_save` does the same by a thread that it makes anew each time; here one function writes in both
cases.
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
"""Names in a message about many."""
_COPIES = StagingOptions(
    use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
)


class ShardedStore:
    """A `CheckpointStore` of all ranks; with torch.distributed not started, of one."""

    def __init__(
        self,
        folder: str | Path,
        keep: int = 3,
        *,
        in_background: bool = False,
        checksum: Checksum = "sha256",
    ) -> None:
        """Begin; every rank makes its own, at the same place of the program, for a group is made.

        Args:
            folder: All ranks see it.
            keep: At least 1.
            in_background: `save` returns when the state is copied, and writing goes on beside the training.
            checksum: Of the files.

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
        """Of the checkpoints."""
        return self._folder

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, or copy the state and begin to; waits for the one before.

        Raises:
            UserError: The state holds something that cannot be stored.
            OSError: A disk is full or fails, on whichever rank; or writing the one before failed in the
                background and nobody asked (`wait`), and then nothing is begun.
        """
        self.wait()
        described = named(state, self._ranks.rank)
        if self._writer is None:
            self._write(step, described)
            return
        copied = DefaultStager(_COPIES).stage(described.tensors)
        assert isinstance(copied, dict)  # it was asked not to be a future
        self._writing = self._writer.submit(self._write, step, NamedState(copied, described.own, described.rest))

    def wait(self) -> None:
        """Return when what was begun is written.

        Raises:
            OSError: Writing failed.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def load(self, like: Mapping[str, Any], *, before: int | None = None) -> Loaded | None:
        """Return the newest checkpoint that is whole for all ranks, sharded as `like`; None where there is none.

        What is being written counts: it is waited for. That it failed is told by the next `wait` or `save`.

        Raises:
            UserError: There are checkpoints and none is whole; or they are a `LocalStore`'s, or of another model.
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
            if self._ranks.rank == 0:  # nobody writes any more: all ranks' results are gathered, errors among them
                shutil.rmtree(writer.partial, ignore_errors=True)

    def _write_together(self, writer: SafetensorsWriter, state: NamedState) -> None:
        """Plan and write, or write as the save before did if all ranks' tensors lie as they did."""
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
        """Return what the first rank sees, newest first."""
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
        """Return what is wrong with a checkpoint, by all ranks' findings, and its index."""
        own, index = "", None
        try:
            manifest = read_manifest(path)
            if INDEX not in manifest:
                raise UserError(f"{path.name}: its manifest names no {INDEX}")
            others = sorted(manifest.keys() - {INDEX})
            # Each rank reads the index, so each verifies it; the large files are shared out.
            verify_files(path, manifest, [INDEX, *others[self._ranks.rank :: self._ranks.world]])
            index = read_index(path, step)
            missing = {chunk.file for chunks in index.chunks.values() for chunk in chunks} - manifest.keys()
            if missing:
                raise UserError(f"{path.name}: its manifest lacks {sorted(missing)[0]}")
        except UserError as error:
            own = str(error)
        return self._first_complaint(own), index

    def _tensors_for(self, like: Mapping[str, Any], path: Path, index: Index) -> dict[str, Tensor] | str:
        """Return this rank's tensors, or why they could not be read.

        Raises:
            UserError: The checkpoint is of another model or optimizer, for whichever rank.
        """
        wants = wanted(like, index.tensors, self._ranks.rank, index.world == self._ranks.world)
        complaint = self._first_complaint("; ".join(wants.complaints[:_SHOWN]))
        asked = {name for text in self._ranks.texts(json.dumps(list(wants.tensors))) for name in json.loads(text)}
        if not complaint and (unasked := left_over(index.tensors, asked)):
            complaint = f"it has {', '.join(unasked[:_SHOWN])}, which the run has not ({len(unasked)} in all)"
        if complaint:
            raise UserError(
                f"{path} is of another model or optimizer: {complaint}. Go on with the configuration that the run "
                f"began with, or give this one another folder"
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
        """Return what any rank says; each rank's share of the files is another."""
        return next(filter(None, self._ranks.texts(own)), "")


def model_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the whole weights of a sharded checkpoint, without a process group: for `save_checkpoint`.

    Args:
        path: The checkpoint's own folder (`step-00001200`).

    Returns:
        A state dict of the model; load it into one of its configuration.

    Raises:
        UserError: It is broken, or no sharded checkpoint.
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
    """Return what the ranks' failures are: a disk's, or a mistake of the program."""
    if all(isinstance(failure, OSError) for failure, _ in error.failures.values()):
        return OSError(f"{name}: {_summary(error)}")
    return RuntimeError(f"{name} was not written: {error}")


def _summary(error: CheckpointException) -> str:
    return "; ".join(f"rank {rank}: {failure}" for rank, (failure, _) in sorted(error.failures.items()))
