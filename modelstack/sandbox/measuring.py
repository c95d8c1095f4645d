"""Memory, CPU time and disk of a command, measured from outside while it runs.

A limit of the kernel (`setrlimit`) holds for each process, and control groups need rights that an ordinary user
does not have. So the launcher adds up the processes below the sandbox's first process in the host's /proc; one
whose parent ends becomes a child of the first process, so none is missed.

A bare interpreter (`-I -S`) imports this file: standard library only.
"""

from __future__ import annotations

import os
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` and `collections` would take 5 ms of each start
    from collections.abc import Iterator

MAX_DEPTH = 128
"""Levels of folders that are measured; a deeper tree counts as too large."""
MAX_MEASURING_S = 2.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def processes_below(process_files: int, first: int) -> list[int]:
    """Return the ids of a process and all its descendants, from a handle of /proc."""
    found = [first]
    for process in found:
        try:
            handle, threads = _opened(process_files, f"{process}/task")
            os.close(handle)
            for thread in threads:
                found += map(int, _read(process_files, f"{process}/task/{thread}/children").split())
        except OSError:  # it has ended
            continue
    return found


def usage_of(process_files: int, processes: list[int]) -> tuple[int, float]:
    """Return the bytes of memory and seconds of CPU of processes, with those of children that have ended.

    A page that two processes share counts twice if it may be private to each; `shared_memory_bytes` is exact.
    """
    n_kib = n_ticks = 0
    for process in processes:
        try:
            status = _read(process_files, f"{process}/status")
            times = _read(process_files, f"{process}/stat").rpartition(b")")[2].split()
        except OSError:
            continue
        n_kib += _kib(status, b"RssAnon:") + _kib(status, b"RssShmem:")
        n_ticks += sum(map(int, times[11:15]))
    return n_kib << 10, n_ticks / _TICKS_PER_S


def shared_memory_bytes(process_files: int, processes: list[int]) -> int:
    """Return the memory of processes where each page counts once; slower than `usage_of`."""
    n_kib = 0
    for process in processes:
        try:
            rollup = _read(process_files, f"{process}/smaps_rollup")
        except OSError:
            continue
        n_kib += _kib(rollup, b"Pss_Anon:") + _kib(rollup, b"Pss_Shmem:")
    return n_kib << 10


class Disk:
    """Growth of a folder: watched through the free space of its file system, then measured file by file."""

    def __init__(self, folder: int, max_bytes: int, max_files: int) -> None:
        """Note the free space now."""
        self._folder, self._max_bytes, self._max_files = folder, max_bytes, max_files
        self._started_s = time.time() - 1  # file systems note a change with a coarser clock
        self._free = self._first = self._now()

    def is_over(self) -> bool:
        """Whether the folder has grown by more than its limits since the start."""
        n_bytes, n_files = self._now()
        if self._free[0] - n_bytes <= self._max_bytes // 2 and self._free[1] - n_files <= self._max_files // 2:
            return False
        self._free = n_bytes, n_files  # measured again after as much growth
        added_bytes, added_files = self._changed()
        if added_bytes > self._max_bytes or added_files > self._max_files:
            return True
        # Files that were removed while they are open have no name by which they are measured.
        lost_bytes, lost_files = self._first[0] - n_bytes, self._first[1] - n_files
        return lost_bytes > 2 * self._max_bytes or lost_files > 2 * self._max_files

    def _now(self) -> tuple[int, int]:
        free = os.fstatvfs(self._folder)
        return free.f_bfree * free.f_frsize, free.f_ffree

    def _changed(self) -> tuple[int, int]:
        """Return the size and number of the files that were changed since the start."""
        n_bytes = n_files = 0
        deadline = time.monotonic() + MAX_MEASURING_S
        waiting = [_opened(self._folder, ".")]
        while waiting:
            folder, names = waiting[-1]
            name = next(names, None)
            if name is None or time.monotonic() > deadline:
                os.close(waiting.pop()[0])
                continue
            try:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if found.st_ctime >= self._started_s:
                    n_bytes += found.st_blocks * 512
                    n_files += 1
                if stat.S_ISDIR(found.st_mode):
                    if len(waiting) == MAX_DEPTH:
                        n_files = self._max_files + 1
                        continue
                    waiting.append(_opened(folder, name))
            except OSError:  # removed since, or of another owner
                continue
        return n_bytes, n_files


def _read(process_files: int, name: str) -> bytes:
    handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=process_files)
    try:
        return os.read(handle, 1 << 16)
    finally:
        os.close(handle)


def _opened(parent: int, name: str) -> tuple[int, Iterator[str]]:
    """Open a folder; return its handle and the names in it."""
    handle = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
    try:
        return handle, iter(os.listdir(handle))
    except OSError:
        os.close(handle)
        raise


def _kib(text: bytes, name: bytes) -> int:
    """Return the number after a name in a file such as /proc/PID/status; 0 if it is missing."""
    rest = text.partition(name)[2].split(None, 1)
    return int(rest[0]) if rest else 0
