"""What malloc does with a training step's memory, in page faults: they can be counted, times cannot."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_COUNT = """
import resource, sys, torch
from modelstack.train.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def step():
    blocks = [torch.ones(n) for n in (10_000_000, 3_000_000, 1_000_000)]
    del blocks
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    """Return the page faults of five steps in a fresh process."""
    done = subprocess.run([sys.executable, "-c", _COUNT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_of_a_step_is_not_mapped_anew_in_the_next() -> None:
    usual, kept = page_faults("usual"), page_faults("kept")

    assert usual > 10_000  # 56 MB in pages of 4 KB, five times
    assert kept < usual / 20
