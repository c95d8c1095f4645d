"""Limits on a program's use of the machine, separate from their enforcement, which exists only on Linux.

Tuples, because every launcher starts a bare interpreter, where importing dataclasses would take a third of its
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


class CommandLimits(NamedTuple):
    """Limits of one command with everything that it starts: seconds, bytes and counts."""

    wall_s: float = 60.0
    cpu_s: int = 120
    """CPU seconds of all processes together."""
    memory_bytes: int = 1 << 30
    """Memory of all processes together, measured 20 times a second; one process may not ask for more at once."""
    scratch_bytes: int = 256 << 20
    """Bytes of the private /tmp, which is in memory and gone after the command."""
    file_bytes: int = 256 << 20
    """Bytes of one file."""
    disk_bytes: int = 1 << 30
    """Bytes that the command may add to the writable folder."""
    disk_files: int = 50_000
    """Files that the command may add to the writable folder."""
    output_bytes: int = 256 << 10
    """Bytes kept of each of the two outputs: the first and the last half; the middle is dropped."""
    processes: int = 128
    """Processes and threads at once."""
    open_files: int = 256
