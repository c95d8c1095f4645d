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
faults = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


def page_faults(how: str) -> int:
    """Return the fewest page faults of a step, of twenty steps in a fresh process.

    The fewest: a kernel that reclaims pages which were not touched for a while (DAMON) adds faults to some steps,
    malloc's own come in every step.
    """
    done = subprocess.run([sys.executable, "-c", _COUNT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_of_a_step_is_not_mapped_anew_in_the_next() -> None:
    usual, kept = page_faults("usual"), page_faults("kept")

    assert usual > 5_000  # 56 MB are 13,700 pages of 4 KB; malloc keeps some of them by itself
    assert kept < usual / 20
