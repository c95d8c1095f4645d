"""Setting of malloc that keeps memory freed by a training step for the next step.

A step repeatedly allocates and frees the same tensors. By default glibc's malloc maps each large block anew and
trims the top of its heap, so the kernel must clear every page in each step: about 59,000 page faults and a tenth
of the processor time in a step of a 7-million-parameter model (2,048 tokens, fp32). With this setting there are
200, at the same peak memory. Names and numbers are those of mallopt(3). Other C libraries are not changed.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1
"""Threshold in bytes that is never reached: the largest value of mallopt's int."""
_GROW_BY = 2**26


def keep_freed_memory() -> bool:
    """Set malloc for a training process; return whether this C library accepted the settings."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has no mallopt
        return False
    wanted = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROW_BY))
    results = [mallopt(name, value) for name, value in wanted]
    return results == [1, 1, 1]
