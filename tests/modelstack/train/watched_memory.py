"""Peak memory of a process while a block runs: what tests of a rank's share measure."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 2**20
on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc/self/status")


def _status(key: str) -> int:
    """Return a line of this process's memory, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(key)


@contextmanager
def watched() -> Iterator[list[int]]:
    """Give the most memory that came to this process in the block: files that are mapped are left out."""
    gc.collect()
    before, peak, done = _status("RssAnon"), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], _status("RssAnon") - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        peak[0] = max(peak[0], _status("RssAnon") - before)
