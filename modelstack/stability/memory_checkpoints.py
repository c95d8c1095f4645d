"""Checkpoints in memory between those on disk, so that a dead process costs only few steps.

Most failures of a run concern a process and not its machine, and memory kept by the kernel (a tmpfs folder)
outlives the process. A checkpoint there costs a copy and no disk access, so it can be taken every few steps
(Gemini, Wang et al., SOSP 2023, also keeps copies in other machines' memory; here only the machine's own is used).
They are additional: if the machine is lost or memory is full, the run uses the checkpoints on disk.

A folder in memory belongs to one checkpoint folder on disk, which stores its random name. If the folder on disk is
removed to restart the run, the old folder in memory is not found any more.
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
"""Folder where Linux mounts a world-writable tmpfs."""
KEEP = 2
"""Number of newest checkpoints kept: memory is scarce, and one is complete while the next is written."""
CHECKSUM: Checksum = "crc32"
"""Checksum for checkpoints in memory, which is more reliable than disks, to save processor time."""
_NAME_FILE = "memory-folder"


def open_memory(
    checkpoint_folder: Path,
    every: int | None,
    ranks: Ranks,
    store_in: Callable[[Path], CheckpointStore],
    on_event: Callable[[str], None],
) -> MemoryCheckpoints | None:
    """Return the checkpoints in memory of a run, or None if disabled; every rank must call this.

    Args:
        checkpoint_folder: The checkpoint folder on disk.
        every: Steps between two checkpoints; None: disabled.
        ranks: The ranks of the run.
        store_in: Creates the store in a folder; it must keep `KEEP` checkpoints.
        on_event: Receives messages on unusual events.

    Raises:
        UserError: The machine has no tmpfs for the files.
    """
    if every is None:
        return None
    return MemoryCheckpoints(store_in(memory_folder(checkpoint_folder, ranks)), every, on_event)


def memory_folder(checkpoint_folder: Path, ranks: Ranks, memory: Path = MEMORY) -> Path:
    """Return the folder in memory for a folder on disk; every rank of the machine must call this.

    Args:
        checkpoint_folder: The checkpoint folder on disk.
        ranks: The ranks of the run.
        memory: A tmpfs folder.

    Raises:
        UserError: The tmpfs does not exist, or the run uses several machines.
    """
    if not memory.is_dir():
        raise UserError(f"{memory}, memory for checkpoints, does not exist; omit checkpoints.memory_every")
    if len(machines := set(ranks.texts(socket.gethostname()))) > 1:
        raise UserError(
            f"the run uses {len(machines)} machines, which do not share memory; omit checkpoints.memory_every"
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
        raise UserError(f"{file} names {name[:60]!r}, which is not a valid folder name; remove the file")
    return memory / name


class MemoryCheckpoints:
    """The checkpoints in memory of a run."""

    def __init__(self, store: CheckpointStore, every: int, on_event: Callable[[str], None]) -> None:
        """Store the settings.

        Args:
            store: Store in a `memory_folder`.
            every: Steps between two checkpoints.
            on_event: Receives messages on unusual events.
        """
        self.store, self.every, self._on_event = store, every, on_event

    def save(self, step: int, state: Mapping[str, Any]) -> bool:
        """Write a checkpoint, or start to; return False if memory is full. The run continues in any case."""
        try:
            self.store.save(step, state)
        except OSError as error:
            self._on_event(f"the checkpoint of step {step} in memory was not written: {error}")
            return False
        return True

    def load(self, like: Mapping[str, Any], disk: CheckpointStore, *, before: int | None) -> Loaded | None:
        """Return the newest complete checkpoint in memory or on disk; None if there is none.

        Args:
            like: See `CheckpointStore.load`.
            disk: The store on disk; it is not read if memory has a checkpoint at least as new.
            before: Only checkpoints of fewer steps.

        Raises:
            UserError: There are checkpoints on disk, but no complete one in either place.
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
        """Free the memory; the disk has an equally new checkpoint."""
        try:
            self.store.wait()
        except OSError as error:
            self._on_event(f"a checkpoint in memory was not written: {error}")
        shutil.rmtree(self.store.folder, ignore_errors=True)  # another rank may remove it at the same time
