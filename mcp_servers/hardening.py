"""Settings of a SQLite connection to a file that may be hostile (https://sqlite.org/security.html)."""

from __future__ import annotations

import sqlite3


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
