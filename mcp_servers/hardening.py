"""Opening an SQLite file that may be hostile: what is looked at before, and the connection's settings.

https://sqlite.org/security.html; https://sqlite.org/fileformat2.html#the_rollback_journal.
"""

from __future__ import annotations

import os
import sqlite3
import stat

JOURNAL = "-journal"
# The end of a rollback journal that names a super-journal, the file of a transaction over several databases.
_SUPER_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")


def reason_not_to_open(path: str) -> str | None:
    """Return why SQLite is not to open a file whose path had no links in it when the server started; or None.

    A file swapped for a link would be another database, and to open a pipe takes until somebody writes into it. A
    journal left by a crash is rolled back by whoever opens the file for writing; then SQLite deletes the
    super-journal that it names, whatever file that is.
    """
    if os.path.realpath(path) != path:
        return "it has been replaced by a link"
    for ending in ("", JOURNAL, "-wal", "-shm"):
        try:
            is_file = stat.S_ISREG(os.lstat(path + ending).st_mode)
        except OSError:  # most often there is none
            continue
        if not is_file:
            return f"the file {os.path.basename(path) + ending!r} is no regular file"
    if _names_super_journal(path + JOURNAL):
        return (
            "its journal is of a transaction over several databases, and names another file that SQLite would "
            "delete. Open it once with `sqlite3` to complete the transaction"
        )
    return None


def _names_super_journal(journal: str) -> bool:
    try:
        with open(journal, "rb") as file:
            file.seek(-len(_SUPER_JOURNAL_MAGIC), os.SEEK_END)
            return file.read() == _SUPER_JOURNAL_MAGIC
    except OSError:  # there is none, or it is shorter
        return False


def harden(connection: sqlite3.Connection, *, heap_bytes: int, cache_kib: int, write: bool) -> None:
    """Bound memory, trust nothing that the schema says, and read text that is no UTF-8 all the same.

    Args:
        connection: Fresh.
        heap_bytes: Of all connections of this process: SQLite's limit is the process's.
        cache_kib: Of pages.
        write: Whether anything may be changed.
    """
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    for pragma in (
        f"hard_heap_limit = {heap_bytes}",
        f"cache_size = -{cache_kib}",
        "mmap_size = 0",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        "foreign_keys = ON",
        f"query_only = {'OFF' if write else 'ON'}",
    ):
        connection.execute(f"PRAGMA {pragma}")
