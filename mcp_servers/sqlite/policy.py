"""Permissions of a statement and limits of its result: pure rules without I/O or MCP.

SQL is never judged by its text. SQLite's own compiler reports each action of a statement to an authorizer
(https://sqlite.org/c3ref/set_authorizer.html); actions not on the list below are denied. It is an allow-list, so a
new statement kind in a later SQLite is denied at first. In addition, a read-only server opens the file with
`mode=ro`, which holds even if this list is wrong.

Advice followed for untrusted SQL and untrusted files: https://sqlite.org/security.html.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Cell = int | float | str | None
Row = list[Cell]


@dataclass(frozen=True)
class Limits:
    """Limits of one call."""

    timeout_s: float = 5.0
    """Seconds that a statement may run; agentkit waits 30 s for a call."""
    max_rows: int = 100
    """Rows in one answer."""
    max_columns: int = 100
    """Columns in one answer: bounds a fetched row to `max_columns * max_value_bytes`."""
    max_cell_chars: int = 1_000
    """Characters shown of one value."""
    max_answer_bytes: int = 32 * 1024
    """Bytes of the rows in one answer as JSON: about 8,000 tokens, a small model's context."""
    max_value_bytes: int = 1024 * 1024
    """Bytes of the longest text or blob that SQLite creates or reads (SQLITE_LIMIT_LENGTH)."""
    max_tables: int = 200
    """Tables in one listing."""
    max_plan_steps: int = 200
    """Lines of one query plan."""
    export_timeout_s: float = 60.0
    """Seconds that an export may run."""
    export_max_rows: int = 1_000_000
    """Rows of one export; about the maximum of a spreadsheet."""
    export_max_bytes: int = 256 * 1024 * 1024
    """Size of one export's file."""
    heap_bytes: int = 128 * 1024 * 1024
    """SQLite's memory (PRAGMA hard_heap_limit); the child's address space is limited separately."""


_READS = {
    sqlite3.SQLITE_SELECT: "SELECT",
    sqlite3.SQLITE_READ: "reading a table",
    sqlite3.SQLITE_RECURSIVE: "a recursive query",
}
_WRITES = {
    sqlite3.SQLITE_INSERT: "INSERT",
    sqlite3.SQLITE_UPDATE: "UPDATE",
    sqlite3.SQLITE_DELETE: "DELETE",
    sqlite3.SQLITE_CREATE_TABLE: "CREATE TABLE",
    sqlite3.SQLITE_CREATE_INDEX: "CREATE INDEX",
    sqlite3.SQLITE_CREATE_VIEW: "CREATE VIEW",
    sqlite3.SQLITE_CREATE_TRIGGER: "CREATE TRIGGER",
    sqlite3.SQLITE_DROP_TABLE: "DROP TABLE",
    sqlite3.SQLITE_DROP_INDEX: "DROP INDEX",
    sqlite3.SQLITE_DROP_VIEW: "DROP VIEW",
    sqlite3.SQLITE_DROP_TRIGGER: "DROP TRIGGER",
    sqlite3.SQLITE_ALTER_TABLE: "ALTER TABLE",
    sqlite3.SQLITE_REINDEX: "REINDEX",
    sqlite3.SQLITE_ANALYZE: "ANALYZE",
}
_VIRTUAL_TABLES = {
    sqlite3.SQLITE_CREATE_VTABLE: "CREATE VIRTUAL TABLE",
    sqlite3.SQLITE_DROP_VTABLE: "DROP VIRTUAL TABLE",
}
_NEVER = {
    sqlite3.SQLITE_ATTACH: "ATTACH, or VACUUM",
    sqlite3.SQLITE_DETACH: "DETACH",
    sqlite3.SQLITE_TRANSACTION: "BEGIN, COMMIT or ROLLBACK",
    sqlite3.SQLITE_SAVEPOINT: "SAVEPOINT",
    sqlite3.SQLITE_CREATE_TEMP_TABLE: "CREATE TEMP TABLE",
    sqlite3.SQLITE_CREATE_TEMP_INDEX: "an index on a temporary table",
    sqlite3.SQLITE_CREATE_TEMP_VIEW: "CREATE TEMP VIEW",
    sqlite3.SQLITE_CREATE_TEMP_TRIGGER: "CREATE TEMP TRIGGER",
}
ACTION_NAMES = _READS | _WRITES | _VIRTUAL_TABLES | _NEVER

# Virtual table modules without access to files or memory outside the database.
ALLOWED_MODULES = frozenset({"fts5", "rtree"})
# load_extension runs native code; fts3_tokenizer returns and accepts native pointers; sqlite_log writes outside.
DENIED_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "sqlite_log"})
# Raw database pages: reading them shows deleted data, writing them corrupts the file.
DENIED_TABLES = frozenset({"sqlite_dbpage"})
# Pragmas that only report, whatever their argument. database_list is missing because it reveals the file's path.
REPORTING_PRAGMAS = frozenset(
    [
        "collation_list",
        "compile_options",
        "foreign_key_check",
        "foreign_key_list",
        "function_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "module_list",
        "pragma_list",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
    ]
)
# Pragmas that report without an argument and change a setting with one.
VALUE_PRAGMAS = frozenset(
    [
        "application_id",
        "data_version",
        "encoding",
        "foreign_keys",
        "freelist_count",
        "journal_mode",
        "page_count",
        "page_size",
        "schema_version",
        "user_version",
    ]
)


def is_allowed(action: int, first: str | None, second: str | None, schema: str | None, *, write: bool) -> bool:
    """Return whether a statement may perform `action`; the arguments are those of SQLite's authorizer."""
    if action == sqlite3.SQLITE_FUNCTION:
        return (second or "").lower() not in DENIED_FUNCTIONS
    if action == sqlite3.SQLITE_PRAGMA:
        name = (first or "").lower()
        return name in REPORTING_PRAGMAS or (name in VALUE_PRAGMAS and second is None)
    if (first or "").lower() in DENIED_TABLES:
        return False
    if action in _READS:
        return True
    if not write or schema == "temp":
        return False
    if action in _VIRTUAL_TABLES:
        return (second or "").lower() in ALLOWED_MODULES
    return action in _WRITES


def describe_denial(action: int, first: str | None, second: str | None, schema: str | None, *, write: bool) -> str:
    """Return the explanation of a denied action for the model."""
    if action == sqlite3.SQLITE_FUNCTION:
        return f"The function {second}() is not allowed."
    if action == sqlite3.SQLITE_PRAGMA:
        return f"PRAGMA {first} is not allowed. Use list_tables and describe_table for the schema."
    if (first or "").lower() in DENIED_TABLES:
        return f"The table {first} is not allowed."
    if schema == "temp":
        return "Temporary tables, views and triggers are not allowed. Use WITH for a step in between."
    name = ACTION_NAMES.get(action, f"action {action}")
    if first == "sqlite_master":  # the first action of every CREATE and DROP
        name = "Changing the schema"
    if not write and action in _WRITES:
        return f"{name} is not allowed: only reading is possible here. Write a SELECT statement."
    return f"{name} is not allowed."


def quoted_name(name: str) -> str:
    """Return `name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def render_cell(value: object, max_chars: int) -> Cell:
    """Return a value for JSON and the model: long text cut, blobs described, infinities as text."""
    if isinstance(value, bytes):
        head = value[:8].hex()
        return f"<blob of {len(value)} bytes: {head}{'...' if len(value) > 8 else ''}>"
    if isinstance(value, str):
        return value if len(value) <= max_chars else f"{value[:max_chars]}... ({len(value)} characters)"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, int | float):
        return value
    raise TypeError(f"SQLite has no type {type(value).__name__}")


def fit_rows(rows: Iterable[Sequence[object]], limits: Limits) -> tuple[list[Row], bool]:
    """Take rows until a limit is reached; return them and whether rows were left out."""
    fitting: list[Row] = []
    size = 0
    for row in rows:
        if len(fitting) == limits.max_rows:
            return fitting, True
        cells = [render_cell(value, limits.max_cell_chars) for value in row]
        size += len(json.dumps(cells, ensure_ascii=False).encode())
        if size > limits.max_answer_bytes:
            return fitting, True
        fitting.append(cells)
    return fitting, False
