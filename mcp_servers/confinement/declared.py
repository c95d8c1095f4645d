"""A server's confinement as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Confinement:
    """Reach of a server's process and of every process that it starts.

    A folder includes everything below it. A path that does not exist when the confinement is applied grants
    nothing. Python, the system's libraries and a few devices are always readable (`surroundings.py`). No port may
    be bound, since a server's HTTP port is bound before.
    """

    reads: tuple[str, ...] = ()
    """Files and folders that may be read."""
    writes: tuple[str, ...] = ()
    """Files and folders that may be read, changed, created and removed."""
    executes: tuple[str, ...] = ()
    """Programs that may be started; their ELF interpreters are added."""
    connects: frozenset[int] = frozenset()
    """TCP ports that may be connected to, at any address."""
    has_temporary_folder: bool = False
    """True if the server needs temporary files; they go to a folder that only this user can open."""
    moves_between_folders: bool = False
    """True if files change their folder. Landlock's first version always denies that and is then not used."""
