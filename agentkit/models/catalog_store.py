"""Where model files lie on disk, and how one gets there whole or not at all.

A file is written under another name, synced, checked and renamed (the rules of `rename(2)`), so a process that is
killed at any moment leaves nothing under the final name. One process at a time fills a folder, by a lock that the
kernel drops with its holder; the next one finds the file there, or clears away what was left half done.
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

from agentkit.durable import sync_folder
from agentkit.errors import ModelError

try:
    import fcntl
except ImportError:  # Windows: without the lock two pulls do the work twice, and still end well
    fcntl = None

CACHE_VARIABLE = "AGENTKIT_CACHE_DIR"
GGUF_MAGIC = b"GGUF"
_CHUNK_BYTES = 1 << 20
_SCRATCH_PREFIX = ".pull-"

Progress = Callable[[int, int | None], None]
"""Told the bytes so far and the total, None while it is unknown."""


Tell = Callable[[str], None]
"""Told in one line what a pull does now: which source it tries, why it leaves one, whom it waits for."""


class ModelFileError(ModelError):
    """A model's file could not be fetched, or is not what it should be; the message says what to do."""


class StorageError(ModelFileError):
    """The disk is full or cannot be written, so that another source would not help."""


def cache_dir() -> Path:
    """Return the folder of everything that agentkit fetches: AGENTKIT_CACHE_DIR, or the user's cache."""
    import platformdirs

    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("agentkit"))


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one model file in the cache. Both names were checked to be plain path components."""

    folder: str
    file_name: str

    @property
    def directory(self) -> Path:
        """The folder, which holds this file and what is being made of it."""
        return cache_dir() / "models" / self.folder

    @property
    def path(self) -> Path:
        """The finished file."""
        return self.directory / self.file_name

    def part(self, sha256: str) -> Path:
        """Return the name under which a download that can be resumed grows."""
        return self.directory / f"{self.file_name}.{sha256[:16]}.part"

    @contextmanager
    def locked(self, tell: Tell | None = None) -> Generator[None]:
        """Hold the folder alone, waiting for whoever has it; leftovers of killed processes are removed.

        Raises:
            StorageError: the folder cannot be made or written.
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
        """Give a checked and synced file its final name; what was begun of another version is removed."""
        with disk_errors(self.directory):
            os.replace(checked, self.path)
            for left in self.directory.glob(f"{self.file_name}.*.part"):
                left.unlink(missing_ok=True)
            sync_folder(self.directory)
        return self.path

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Record where a file that is in no catalog came from, and its hash."""
        target = self._manifest
        with disk_errors(self.directory):
            temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(dict(manifest), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)

    def read_manifest(self) -> dict[str, Any]:
        """Return what was recorded; empty if nothing readable is there."""
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
        ModelFileError: the file is another one; it is not removed here.
    """
    found = file_sha256(path)
    if found != sha256:
        raise ModelFileError(
            f"{origin} has SHA-256 {found}, expected {sha256}: it was changed on its way, or at its source. "
            f"Nothing was installed; try again from another network or index, or correct the expected hash."
        )
    if not is_gguf(path):
        raise ModelFileError(f"{origin} is not a GGUF file.")


def is_gguf(path: Path) -> bool:
    """Say whether a file begins as GGUF files do."""
    with path.open("rb") as file:
        return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC


def check_room(directory: Path, n_bytes: int) -> None:
    """Refuse to begin what cannot fit.

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
    """Turn what the file system reports into an error that says what to do.

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
