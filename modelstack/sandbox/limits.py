"""Limits on a program's use of the machine, separate from their enforcement, which exists only on Linux.

A tuple, because every launcher starts a bare interpreter, where importing dataclasses would take a third of its
time.
"""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Limits of one program: seconds, bytes, and number of open files."""

    cpu_s: int = 10
    wall_s: float = 30.0
    memory_bytes: int = 512 << 20
    """Address space of the process; the interpreter takes 30 MB of it."""
    file_bytes: int = 8 << 20
    """Bytes of one file; all files together may take twice as much, in memory."""
    output_bytes: int = 1 << 20
    open_files: int = 64
