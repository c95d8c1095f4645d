"""Checkpoints in memory, between those on the disk: a process that dies costs few steps, not all since a save.

Most deaths of a run are of a process and not of its machine, and memory that the kernel keeps (a folder of tmpfs)
outlives a process: a checkpoint there costs a copy and no disk, so it can be taken every few steps (Gemini, Wang
et al., SOSP 2023, keeps them in the memory of other machines too; here they are the machine's own). They come on
top: what is on the disk stays what a run goes back to where the machine was lost or memory was full.

A folder in memory belongs to one folder on the disk, which names it by a random number: where that is removed,
so that a run begins anew, the old one in memory is not found any more.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.stability.agreement import Ranks
from modelstack.stability.checkpoint_folders import Checksum, checkpoints
from modelstack.stability.run_checkpoints import CheckpointStore, Loaded

MEMORY = Path("/dev/shm")
"""Where Linux mounts a tmpfs for everybody."""
KEEP = 2
"""Of the newest: memory is dear, and one is always whole while the next is written."""
CHECKSUM: Checksum = "crc32"
"""Memory does not rot as disks do, and the processor is the training's."""
_NAME_FILE = "memory-folder"


def open_memory(
    checkpoint_folder: Path,
    every: int | None,
    ranks: Ranks,
    store_in: Callable[[Path], CheckpointStore],
    on_event: Callable[[str], None],
) -> MemoryCheckpoints | None:
    """Return a run's checkpoints in memory, or None where it wants none; every rank calls this.

    Args:
        checkpoint_folder: On the disk.
        every: Steps between two; None: none.
        ranks: Of the run.
        store_in: Makes the store in a folder, which keeps `KEEP`.
        on_event: Is told in a sentence of everything that is not ordinary.

    Raises:
        UserError: The machine has no memory that files can be kept in.
    """
    if every is None:
        return None
    return MemoryCheckpoints(store_in(memory_folder(checkpoint_folder, ranks)), every, on_event)


def memory_folder(checkpoint_folder: Path, ranks: Ranks, memory: Path = MEMORY) -> Path:
    """Return the folder in memory of a folder on the disk; every rank of one machine calls this.

    Args:
        checkpoint_folder: On the disk.
        ranks: Of the run.
        memory: A folder of tmpfs.

    Raises:
        UserError: There is no such memory.
    """
    if not memory.is_dir():
        raise UserError(f"{memory}, memory for checkpoints, is not there: leave checkpoints.memory_every out")
    if len(machines := set(ranks.texts(socket.gethostname()))) > 1:
        raise UserError(
            f"the run is on {len(machines)} machines, and each has a memory of its own: leave "
            f"checkpoints.memory_every out"
        )
    file, name = checkpoint_folder / _NAME_FILE, ""
    if ranks.rank == 0:
        if not file.is_file():
            checkpoint_folder.mkdir(parents=True, exist_ok=True)
            with replacing(file) as temporary:
                temporary.write_text(f"modelstack-{secrets.token_hex(8)}\n", encoding="utf-8")
        name = file.read_text(encoding="utf-8").strip()
    name = ranks.texts(name)[0]
    if not name.startswith("modelstack-") or os.sep in name:
        raise UserError(f"{file} names {name[:60]!r}, which is no folder of ours: remove it")
    return memory / name


class MemoryCheckpoints:
    """A run's checkpoints in memory."""

    def __init__(self, store: CheckpointStore, every: int, on_event: Callable[[str], None]) -> None:
        """Begin.

        Args:
            store: In a `memory_folder`.
            every: Steps between two.
            on_event: Is told in a sentence of everything that is not ordinary.
        """
        self.store, self.every, self._on_event = store, every, on_event

    def save(self, step: int, state: Mapping[str, Any]) -> bool:
        """Write one, or begin to; memory that is full costs the checkpoint, not the run."""
        try:
            self.store.save(step, state)
        except OSError as error:
            self._on_event(f"the checkpoint of step {step} in memory was not written: {error}")
            return False
        return True

    def load(self, like: Mapping[str, Any], disk: CheckpointStore, *, before: int | None) -> Loaded | None:
        """Return the newest that is whole, of memory or disk; None where there is none.

        Args:
            like: See `CheckpointStore.load`.
            disk: What is not looked at where memory has nothing older than it.
            before: Only of fewer steps.

        Raises:
            UserError: Neither has one that is whole, and the disk has some.
        """
        try:
            own = self.store.load(like, before=before)
        except UserError as error:
            self._on_event(f"no checkpoint in memory can be used: {error}")
            own = None
        steps = [step for step, _ in checkpoints(disk.folder) if before is None or step < before]
        if own is not None and own.step >= max(steps, default=0):
            return own
        try:
            other = disk.load(like, before=before)
        except UserError as error:
            if own is None:
                raise
            self._on_event(str(error))
            return own
        return other if own is None or (other is not None and other.step > own.step) else own

    def discard(self) -> None:
        """Give the memory back; what is on the disk is as new."""
        try:
            self.store.wait()
        except OSError as error:
            self._on_event(f"a checkpoint in memory was not written: {error}")
        shutil.rmtree(self.store.folder, ignore_errors=True)  # another rank may be at it
