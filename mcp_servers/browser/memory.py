"""A bound on the memory of Chromium's processes: what a page allocates ends the page, not the machine.

Neither of the kernel's own bounds fits: a cgroup may be made only where its tree was delegated, and a process
limit counts what V8 reserves and never touches. So the processes are watched, in a thread, as the event loop may
be busy with what the page made of an answer. A page that allocates as fast as it can adds some 100 MB between two
looks; the bound leaves room for that.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

LOOK_EVERY_S = 0.05
_PATIENCE_S = 1.0
"""How long the pages' processes may take to give back their memory; then Chromium itself is ended."""
_OF_PAGES = ("--type=renderer", "--type=gpu-process", "--type=utility")
"""Processes that hold what pages made; WebGL is drawn by the second, in software, and their databases and requests
lie in the third. Chromium begins them again when they are needed."""
_PROC = Path("/proc")


class MemoryGuard:
    """Watches Chromium's main process and all below it, until it is closed or they have ended."""

    def __init__(self, browser_pid: int, max_bytes: int, on_ended: Callable[[], None]) -> None:
        """Begin to watch.

        Args:
            browser_pid: Chromium's main process.
            max_bytes: What all processes together may use.
            on_ended: Is called, in another thread, before processes of pages are ended.
        """
        self._browser_pid = browser_pid
        self._max_bytes = max_bytes
        self._on_ended = on_ended
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory of Chromium", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End watching."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        tree = ProcessTree(self._browser_pid)
        looks_over = 0
        while not self._closed.wait(LOOK_EVERY_S):
            processes = tree.members()
            if sum(map(used_bytes, processes)) <= self._max_bytes:
                looks_over = 0
                continue
            if looks_over * LOOK_EVERY_S < _PATIENCE_S:
                self._on_ended()
                _kill(pid for pid in processes if _is_of_pages(pid))
            else:
                _kill([self._browser_pid])
            looks_over += 1


class ProcessTree:
    """A process and all below it. Who began a process is read once: a look costs a listing of `/proc`."""

    def __init__(self, root: int) -> None:
        """Follow `root`."""
        self._root = root
        self._parents: dict[int, int] = {}

    def members(self) -> list[int]:
        """Return the root and the processes below it that run now."""
        running = {int(entry) for entry in os.listdir(_PROC) if entry.isdecimal()}
        known = self._parents
        # Whose parent has ended has another now.
        self._parents = {pid: known[pid] if known.get(pid) in running else _parent(pid) for pid in running}
        members = level = {self._root}
        while level:
            level = {pid for pid, parent in self._parents.items() if parent in level}
            members |= level
        return sorted(members)


def used_bytes(pid: int) -> int:
    """Return the memory of a process that no file backs: its own, and what it shares; 0 where it has ended."""
    kilobytes = 0
    with suppress(OSError):
        for line in (_PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                kilobytes += int(line.split()[1])
    return kilobytes * 1024


def _parent(pid: int) -> int:
    with suppress(OSError):
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        return int(stat.rpartition(")")[2].split()[1])
    return 0


def _is_of_pages(pid: int) -> bool:
    with suppress(OSError):
        arguments = (_PROC / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace")
        return any(sign in arguments for sign in _OF_PAGES)
    return False


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
