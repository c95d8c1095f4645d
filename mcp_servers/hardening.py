"""Safe opening of an SQLite file that may be hostile: checks before opening, and connection settings.

https://sqlite.org/security.html; https://sqlite.org/fileformat2.html#the_rollback_journal.
"""

from __future__ import annotations

import os
import sqlite3
import stat

JOURNAL = "-journal"
# Last bytes of a rollback journal that names a super-journal, the file of a transaction over several databases.
_SUPER_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")


def reason_not_to_open(path: str) -> str | None:
    """Return why SQLite must not open a file, or None; the path had no links when the server started.

    A file replaced by a link would be another database, and opening a pipe blocks until another process writes to
    it. A journal left by a crash is rolled back when the file is opened for writing; SQLite then deletes the
    super-journal that it names, whatever file that is.
    """
    if os.path.realpath(path) != path:
        return "it has been replaced by a link"
    for ending in ("", JOURNAL, "-wal", "-shm"):
        try:
            is_file = stat.S_ISREG(os.lstat(path + ending).st_mode)
        except OSError:  # usually the file does not exist
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
    except OSError:  # missing, or shorter than the magic
        return False


def harden(connection: sqlite3.Connection, *, heap_bytes: int, cache_kib: int, write: bool) -> None:
    """Bound memory, distrust the schema, and decode text that is not UTF-8 with replacement characters.

    Args:
        connection: A new connection.
        heap_bytes: Heap limit of all SQLite connections of this process; SQLite has no limit per connection.
        cache_kib: Size of the page cache.
        write: Whether the connection may change the database.
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
