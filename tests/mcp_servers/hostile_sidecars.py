"""What an attacker puts beside an SQLite file so that opening it reads, writes or deletes another one."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

VICTIM = b"precious\0"


def super_journal(database: Path, victim: Path) -> bytes:
    """A rollback journal as a crash leaves it, which says that `victim` is the journal of a larger transaction."""
    magic, name = bytes.fromhex("d9d505f920a163d7"), str(victim).encode()
    n_pages = database.stat().st_size // 4096
    header = (magic + struct.pack(">5I", 0, 0, n_pages, 512, 4096)).ljust(512, b"\0")
    record = struct.pack(">I", 0x40000000 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name))
    return header + record + magic


def _link_beside(ending: str) -> Callable[[Path, Path], object]:
    return lambda database, victim: os.symlink(victim, f"{database}{ending}")


BESIDE: dict[str, Callable[[Path, Path], object]] = {
    "a journal that is a link": _link_beside("-journal"),
    "a log that is a link": _link_beside("-wal"),
    "an index of a log that is a link": _link_beside("-shm"),
    "a link to nothing": lambda database, victim: os.symlink(f"{victim}.new", f"{database}-journal"),
    "a journal that is a pipe": lambda database, victim: os.mkfifo(f"{database}-journal"),
    "a journal that is a folder": lambda database, victim: os.mkdir(f"{database}-journal"),
    "a journal that names a file": lambda database, victim: Path(f"{database}-journal").write_bytes(
        super_journal(database, victim)
    ),
}
"""Each takes the database and a file that must stay as it is."""


def victim_of(folder: Path) -> Path:
    """Make a file that must stay as it is."""
    victim = folder / "victim"
    victim.write_bytes(VICTIM)
    return victim


def assert_untouched(victim: Path) -> None:
    """Fail if the file was changed, or one was made where a link pointed to nothing."""
    assert victim.read_bytes() == VICTIM
    assert not Path(f"{victim}.new").exists()


def take_away(database: Path) -> None:
    """Remove what lies beside a database."""
    for ending in ("-journal", "-wal", "-shm"):
        beside = Path(f"{database}{ending}")
        if beside.is_dir() and not beside.is_symlink():
            shutil.rmtree(beside)
        else:
            beside.unlink(missing_ok=True)


def _by_a_link(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(other)


def _by_a_folder_that_is_a_link(path: Path, other: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to(other.parent)


def _by_a_pipe(path: Path, other: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SWAPS = [_by_a_link, _by_a_folder_that_is_a_link, _by_a_pipe]
"""Each puts something else in place of a database; the other one has its name and lies in another folder."""


def without_sidecars(path: Path) -> None:
    """Write a database's log into it, so that a test can put something in the log's place."""
    with sqlite3.connect(path) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    take_away(path)
