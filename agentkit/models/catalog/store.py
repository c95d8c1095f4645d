"""Places of model files on disk, and their atomic installation.

A file is written under another name, synced, checked and renamed (the rules of `rename(2)`), so a process that is
killed at any moment leaves nothing under the final name. A lock, which the kernel releases with its holder, lets
one process at a time fill a folder; the next one finds the file, or removes the leftovers.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from agentkit.basics.durable import sync_folder
from agentkit.errors import ModelError
from modelstack.cache_folder import CACHE_VARIABLE, cache_dir

try:
    import fcntl
except ImportError:  # Windows: without the lock two pulls duplicate the work, and both still succeed
    fcntl = None

GGUF_MAGIC = b"GGUF"
_CHUNK_BYTES = 1 << 20
_SCRATCH_PREFIX = ".pull-"

Progress = Callable[[int, int | None], None]
"""Receives the bytes so far and the total; None while the total is unknown."""


Tell = Callable[[str], None]
"""Receives a line for each step of a pull: the source tried, why one was given up, the process waited for."""


class ModelFileError(ModelError):
    """A model's file could not be fetched, or is not the expected one; the message names the fix."""


class StorageError(ModelFileError):
    """The disk is full or cannot be written, so that another source would not help."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one model file in the cache. Both names were checked to be plain path components."""

    folder: str
    file_name: str

    @property
    def directory(self) -> Path:
        """Folder of this file, its partial downloads, manifest and lock."""
        return cache_dir() / "models" / self.folder

    @property
    def path(self) -> Path:
        """The finished file."""
        return self.directory / self.file_name

    def part(self, sha256: str) -> Path:
        """Return the path of the partial download, which can be resumed."""
        return self.directory / f"{self.file_name}.{sha256[:16]}.part"

    @contextmanager
    def locked(self, tell: Tell | None = None) -> Generator[None]:
        """Lock the folder, waiting for another holder; leftovers of killed processes are removed.

        Raises:
            StorageError: the folder cannot be created or written.
        """
        with disk_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if tell is not None:
                        tell(f"another process is fetching {self.file_name}; waiting for it")
                    fcntl.flock(lock, fcntl.LOCK_EX)
                for left in self.directory.glob(f"{_SCRATCH_PREFIX}*"):
                    shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            os.close(lock)

    @contextmanager
    def scratch(self) -> Generator[Path]:
        """Yield an empty folder on the same disk, removed afterwards."""
        with tempfile.TemporaryDirectory(
            prefix=_SCRATCH_PREFIX, dir=self.directory, ignore_cleanup_errors=True
        ) as folder:
            yield Path(folder)

    def publish(self, checked: Path) -> Path:
        """Give a checked and synced file its final name; remaining partial downloads are removed."""
        with disk_errors(self.directory):
            os.replace(checked, self.path)
            for left in self.directory.glob(f"{self.file_name}.*.part"):
                left.unlink(missing_ok=True)
            sync_folder(self.directory)
        return self.path

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Record the origin and hash of a file that is not in the catalog."""
        target = self._manifest
        with disk_errors(self.directory):
            temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(dict(manifest), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)

    def read_manifest(self) -> dict[str, Any]:
        """Return the recorded manifest; empty if none is readable."""
        try:
            value: Any = json.loads(self._manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return cast("dict[str, Any]", value) if isinstance(value, dict) else {}

    @property
    def _manifest(self) -> Path:
        return self.directory / f"{self.file_name}.json"


def file_sha256(path: Path, progress: Progress | None = None) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    total, done, digest = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    return digest.hexdigest()


def check_gguf(path: Path, sha256: str, origin: str) -> None:
    """Check hash and format.

    Raises:
        ModelFileError: the hash differs, or the file is not GGUF; it is not removed here.
    """
    check_hash(path, sha256, origin)
    if not is_gguf(path):
        raise ModelFileError(f"{origin} is not a GGUF file.")


def check_hash(path: Path, sha256: str, origin: str) -> None:
    """Check the hash of a fetched file.

    Raises:
        ModelFileError: the hash differs; the file is not removed here.
    """
    found = file_sha256(path)
    if found != sha256:
        raise ModelFileError(
            f"{origin} has SHA-256 {found}, expected {sha256}: it was changed on its way, or at its source. "
            f"Nothing was installed; try again from another network or index, or correct the expected hash."
        )


def is_gguf(path: Path) -> bool:
    """Return whether a file begins with the GGUF magic bytes."""
    with path.open("rb") as file:
        return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC


def check_room(directory: Path, n_bytes: int) -> None:
    """Check that `n_bytes` fit on the disk.

    Raises:
        StorageError: the disk has less than `n_bytes` free.
    """
    free = shutil.disk_usage(directory).free
    if free < n_bytes:
        raise StorageError(
            f"{str(directory)!r} has {free / 1e6:.0f} MB free and {n_bytes / 1e6:.0f} MB ({n_bytes} bytes) are "
            f"needed: make room, or name another folder with {CACHE_VARIABLE}."
        )


@contextmanager
def disk_errors(directory: Path) -> Generator[None]:
    """Turn an error of the file system into one that names the fix.

    Raises:
        StorageError: something could not be written.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            f"{'the disk is full' if full else f'cannot write ({error.strerror})'} at {str(directory)!r}: "
            f"{'make room' if full else 'correct the permissions'}, or name another folder with {CACHE_VARIABLE}."
        ) from error
