"""How much of the machine a program may use; apart from how that is enforced, which only Linux knows.

A tuple, because every launcher starts a bare interpreter, where importing dataclasses would cost a third of it.
"""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """How much of the machine one program may use."""

    cpu_s: int = 10
    wall_s: float = 30.0
    memory_bytes: int = 512 << 20
    """Address space of the process; the interpreter takes 30 MB of it."""
    file_bytes: int = 8 << 20
    """Of one file; all files together may take twice that, in memory."""
    output_bytes: int = 1 << 20
    open_files: int = 64
