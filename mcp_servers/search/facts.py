"""Single values that the index stores by name."""

from __future__ import annotations

import sqlite3


def fact(connection: sqlite3.Connection, name: str) -> str:
    """Return the value stored under `name`, or an empty string."""
    row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return row[0] if row else ""


def set_fact(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Store a value under `name`."""
    connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
