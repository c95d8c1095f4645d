"""What every attack is held to: little CPU, a short answer, nothing hidden in it."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from mcp_servers.hidden import visible


@contextmanager
def cpu_at_most(seconds: float) -> Generator[None]:
    """Fail if this process uses more CPU inside; time on the clock says nothing on a busy machine."""
    began = time.process_time()
    yield
    used = time.process_time() - began
    assert used < seconds, f"{used:.1f} s of CPU"


def assert_plain(text: str, *, max_chars: int = 20_000) -> None:
    """Fail if a text is long, or holds what a model reads and a person does not see."""
    assert len(text) <= max_chars
    assert visible(text) == text, ascii(text[:500])
