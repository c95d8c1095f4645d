"""What a statement may do and how much it may return: pure rules, no I/O, no MCP.

SQL is never judged by its text. SQLite's own compiler reports each thing that a statement would do to an
authorizer (https://sqlite.org/c3ref/set_authorizer.html); what is not on the list below is denied. The list
says what is allowed, so a statement kind that a later SQLite adds starts out denied. Underneath, a read-only
server opens the file with `mode=ro`, which holds even if this list is wrong.

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
    """Caps of one call."""

    timeout_s: float = 5.0
    """Time a statement may run; agentkit waits 30 s for a call."""
    max_rows: int = 100
    """Rows in one answer."""
    max_columns: int = 100
    """Columns in one answer: bounds a fetched row to `max_columns * max_value_bytes`."""
    max_cell_chars: int = 1_000
    """Part of one value that is shown."""
    max_answer_bytes: int = 32 * 1024
    """Rows in one answer as JSON: about 8,000 tokens, a small model's context."""
    max_value_bytes: int = 1024 * 1024
    """Longest text or blob that SQLite makes or reads (SQLITE_LIMIT_LENGTH)."""
    max_tables: int = 200
    """Tables in one listing."""
    max_plan_steps: int = 200
    """Lines of one query plan."""
    export_timeout_s: float = 60.0
    """Time an export may run."""
    export_max_rows: int = 1_000_000
    """Rows of one export; about what a spreadsheet takes."""
    export_max_bytes: int = 256 * 1024 * 1024
    """Size of one export's file."""
    heap_bytes: int = 128 * 1024 * 1024
    """SQLite's memory (PRAGMA hard_heap_limit); the child's address space is limited as well."""


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
# load_extension runs native code; fts3_tokenizer returns and takes native pointers; sqlite_log writes outside.
DENIED_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "sqlite_log"})
# Raw database pages: deleted data on reading, a corrupt file on writing.
DENIED_TABLES = frozenset({"sqlite_dbpage"})
# Pragmas that only report, whatever their argument is. database_list is not here: it tells the file's path.
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
# Pragmas that report without an argument and change something with one.
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
    """Return whether a statement may do `action`; the arguments are those of SQLite's authorizer."""
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
    """Return the text for the model that asked for a denied action."""
    if action == sqlite3.SQLITE_FUNCTION:
        return f"The function {second}() is not allowed."
    if action == sqlite3.SQLITE_PRAGMA:
        return f"PRAGMA {first} is not allowed. Use list_tables and describe_table for the schema."
    if (first or "").lower() in DENIED_TABLES:
        return f"The table {first} is not allowed."
    if schema == "temp":
        return "Temporary tables, views and triggers are not allowed. Use WITH for a step in between."
    name = ACTION_NAMES.get(action, f"action {action}")
    if first == "sqlite_master":  # the first thing that every CREATE and DROP does
        name = "Changing the schema"
    if not write and action in _WRITES:
        return f"{name} is not allowed: only reading is possible here. Write a SELECT statement."
    return f"{name} is not allowed."


def quoted_name(name: str) -> str:
    """Return `name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def render_cell(value: object, max_chars: int) -> Cell:
    """Return a value that JSON and a model can hold: long text cut, blobs in words, no infinities."""
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
