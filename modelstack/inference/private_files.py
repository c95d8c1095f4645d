"""Private files: readable by their user only, and trusted only if no other user could have written them.

They contain data derived from a user's texts. A file that another user could have placed, directly or through a
link, is refused before its content is read. Windows has no such modes; there the user's profile folder is
protected.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: without the lock, two writers may remove each other's temporary file
    fcntl = None

LOCK_NAME = ".lock"
"""Name of the file whose lock serialises the writers of a folder."""
LOCK_WAIT_S = 5.0
"""Seconds that a writer waits for another one, which needs milliseconds."""
LOCK_POLL_S = 0.02
NEW_FOLDER_S = 60.0
"""Age below which the folder of a process may be one that it has not locked yet."""
SCRATCH_PREFIX = ".write-"
"""Prefix of the names of files that are being written."""
_NO_LINKS: int = getattr(os, "O_NOFOLLOW", 0)
_READ_FLAGS: int = os.O_RDONLY | _NO_LINKS | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Flags that refuse a link, and do not wait for the writer of a pipe."""
_HAS_MODES = os.name != "nt"


@contextmanager
def open_private(path: Path) -> Iterator[FileIO]:
    """Open a regular file that only its user can write, without buffering.

    Raises:
        OSError: the file is missing, a link or a device, belongs to another user, or can be written by others.
    """
    with open(os.open(path, _READ_FLAGS), "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if not (stat.S_ISREG(found.st_mode) and _is_private(found)):
            raise PermissionError(errno.EPERM, "not a file that only you can write", str(path))
        yield file


def folder_of_process(place: Path, prefix: str) -> Path:
    """Return a new folder for the lifetime of this process; deletes those that killed processes have left.

    A folder is locked as long as its process lives. The lock is kept open on purpose: it ends with the process.

    Args:
        place: Folder in which it is made.
        prefix: Beginning of the names of such folders, and of no other ones.
    """
    for left in place.glob(f"{prefix}*"):
        with suppress(OSError):  # another process has just deleted it
            is_new = time.time() - os.lstat(left).st_mtime < NEW_FOLDER_S
            if not is_new and is_private_folder(left) and (lock := _folder_lock(left)) is not None:
                shutil.rmtree(left)
                os.close(lock)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    _folder_lock(folder)
    return folder


def _folder_lock(folder: Path) -> int | None:
    """Return the open lock of a folder; None if another process has it."""
    if fcntl is None:
        return None
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return None
    return opened


def is_private_folder(folder: Path) -> bool:
    """Whether this is a folder, not a link to one, that only its user can write; False if it does not exist."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and _is_private(found)


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its user can read; an existing folder of the user is made private.

    Raises:
        OSError: it cannot be made, is a link, or belongs to another user.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = os.lstat(folder)
    if _HAS_MODES and stat.S_ISDIR(found.st_mode) and _is_own(found) and found.st_mode & 0o077:
        os.chmod(folder, 0o700)
    if not is_private_folder(folder):
        raise PermissionError(errno.EPERM, "not a folder that only you can write", str(folder))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder's writers; the kernel releases it when its holder ends.

    Raises:
        OSError: the folder cannot be written, its lock is a link, or another writer held it too long.
    """
    lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o600)
    try:
        _wait_for(lock)
        yield
    finally:
        os.close(lock)


def replace_private(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Replace `path` atomically by a file that only its user can read.

    The file is not synced: a reader must detect the damage of a power failure.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    descriptor, name = tempfile.mkstemp(prefix=SCRATCH_PREFIX, dir=path.parent)  # mode 0600
    try:
        with open(descriptor, "wb", buffering=0) as file:
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    left = left[file.write(left) :]
        os.replace(name, path)
    except BaseException:
        remove(Path(name))
        raise


def remove(path: Path) -> None:
    """Remove a file; failures are ignored."""
    with suppress(OSError):
        path.unlink()


def _is_private(found: os.stat_result) -> bool:
    return not _HAS_MODES or (_is_own(found) and not found.st_mode & 0o022)


def _is_own(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid()


def _wait_for(lock: int) -> None:
    """Take the lock of an open file.

    Raises:
        BlockingIOError: another writer held the lock too long.
    """
    if fcntl is None:
        return
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOCK_POLL_S)
