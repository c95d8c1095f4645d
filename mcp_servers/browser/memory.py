"""Memory limit of Chromium's processes: excessive allocation ends the page, not the machine.

Neither of the kernel's own limits suffices: a cgroup may be made only where its tree was delegated, and a limit of
a process's data counts what V8 has reserved and never touched (600 MB in an empty page), process by process. So a
thread watches the processes, because the event loop may be busy with an answer of the page. A page that allocates
as fast as it can adds some 100 MB in 50 ms; above half of the limit the thread looks more often, and the limit
leaves room for what is added meanwhile. On a busy machine the thread may come late, so a process of pages that has
begun to grow may add no more than the limit by the kernel's rule either. It is not set earlier, because a renderer
reserves some gigabytes for a moment while it starts.

What ends depends on what holds the memory. Processes that draw or store for pages are restarted by Chromium when
needed, so a page survives their end. The main process keeps what pages stored through it (a database of 700 MB was
measured) after they are gone: only its own end releases that.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

LOOK_EVERY_S, LOOK_SOON_S = 0.05, 0.01
"""Seconds between two checks, below and above half of the limit."""
_PATIENCE_S = 1.0
"""Seconds for the pages' processes to release their memory; then Chromium itself is ended."""
_STARTED_BYTES = 64_000_000
"""Memory above which a process has surely started; an empty page holds half of it."""
_RENDERER = "--type=renderer"
_OF_PAGES = (_RENDERER, "--type=gpu-process", "--type=utility")
"""Processes that hold pages' memory. The second draws WebGL, in software; the third holds databases."""
_PROC = Path("/proc")


class MemoryGuard:
    """Watches Chromium's main process and its descendants, until it is closed or they have ended."""

    def __init__(self, browser_pid: int, max_bytes: int, on_ended: Callable[[], None]) -> None:
        """Start watching.

        Args:
            browser_pid: Chromium's main process.
            max_bytes: Memory limit of all processes together.
            on_ended: Called, in another thread, before pages are killed.
        """
        self._browser_pid = browser_pid
        self._max_bytes = max_bytes
        self._on_ended = on_ended
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory of Chromium", daemon=True)
        self._thread.start()

    def is_main_full(self) -> bool:
        """Return whether the main process alone holds over half of the limit, which no page's end releases."""
        return used_bytes(self._browser_pid) > self._max_bytes / 2

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        tree = ProcessTree(self._browser_pid)
        growing: set[int] = set()
        wait_s, over_since = LOOK_EVERY_S, None
        while not self._closed.wait(wait_s):
            processes = tree.members()
            used_by = {pid: used_bytes(pid) for pid in processes}
            used = sum(used_by.values())
            for pid in {pid for pid, held in used_by.items() if held > _STARTED_BYTES} - growing:
                growing.add(pid)
                if _kind(pid):
                    limit_growth(pid, self._max_bytes)
            wait_s = LOOK_SOON_S if used > self._max_bytes / 2 else LOOK_EVERY_S
            if used <= self._max_bytes:
                over_since = None
                continue
            over_since = over_since or time.monotonic()
            if self.is_main_full() or time.monotonic() - over_since > _PATIENCE_S:
                self._on_ended()
                _kill([self._browser_pid])
            else:
                self._end_the_fullest(processes)

    def _end_the_fullest(self, processes: Iterable[int]) -> None:
        """Kill the kind of process that holds most of the pages' memory."""
        by_kind: dict[str, list[int]] = {kind: [] for kind in _OF_PAGES}
        for pid in processes:
            if kind := _kind(pid):
                by_kind[kind].append(pid)
        fullest = max(_OF_PAGES, key=lambda kind: sum(map(used_bytes, by_kind[kind])))
        if fullest == _RENDERER:
            self._on_ended()
        _kill(by_kind[fullest])


class ProcessTree:
    """A process and its descendants. Each process's parent is read once, so a check lists `/proc` only."""

    def __init__(self, root: int) -> None:
        """Follow `root`."""
        self._root = root
        self._parents: dict[int, int] = {}

    def members(self) -> list[int]:
        """Return the root and its running descendants."""
        running = {int(entry) for entry in os.listdir(_PROC) if entry.isdecimal()}
        known = self._parents
        # A process has a new parent if its old one has ended.
        self._parents = {pid: known[pid] if known.get(pid) in running else _parent(pid) for pid in running}
        members = level = {self._root}
        while level:
            level = {pid for pid, parent in self._parents.items() if parent in level}
            members |= level
        return sorted(members)


def used_bytes(pid: int) -> int:
    """Return a process's memory without file-backed pages: private and shared; 0 if it has ended."""
    return _status_bytes(pid, "RssAnon:", "RssShmem:")


def limit_growth(pid: int, max_bytes: int) -> None:
    """Have the kernel refuse a process more than `max_bytes` of private memory beyond what it has reserved now.

    Shared memory is not counted. A process that has ended, or may not be limited, is left as it is.
    """
    most = _status_bytes(pid, "VmData:") + max_bytes
    with suppress(OSError):
        resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))


def _status_bytes(pid: int, *names: str) -> int:
    """Return the sum of a process's figures of these names; 0 if it has ended."""
    kilobytes = 0
    with suppress(OSError):
        for line in (_PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(names):
                kilobytes += int(line.split()[1])
    return kilobytes * 1024


def _parent(pid: int) -> int:
    with suppress(OSError):
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        return int(stat.rpartition(")")[2].split()[1])
    return 0


def _kind(pid: int) -> str:
    """Return which of `_OF_PAGES` a process is; empty if none."""
    with suppress(OSError):
        arguments = (_PROC / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace")
        return next((kind for kind in _OF_PAGES if kind in arguments), "")
    return ""


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
