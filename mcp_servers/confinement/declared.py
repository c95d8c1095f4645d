"""A server's confinement as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Confinement:
    """Reach of a server's process and of every process that it starts.

    A folder stands for itself and everything below it. A path that does not exist when the confinement is applied
    grants nothing. Python, the system's libraries and a few devices may be read besides (`surroundings.py`). No
    port may be bound: the HTTP port of a server is bound before.
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
    """Whether temporary files are needed; they go to a folder that only this user can open."""
    moves_between_folders: bool = False
    """Whether files change their folder. Landlock's first version cannot allow that, so it is not used then."""
