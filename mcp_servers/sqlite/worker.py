"""The child that opens the database: one connection, one statement, one answer per request.

Everything that reads the file is here, the schema too, because a hostile file is input like a hostile statement.
Three clocks stop a statement: the progress handler (politely, with a rollback), the parent (by killing), the
kernel (CPU limit). SQLite's heap limit is process-wide, which is why it lives in a process of its own.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from mcp_servers.child import answer_requests
from mcp_servers.failures import ToolFailure, suggestion
from mcp_servers.sqlite.policy import Limits, describe_denial, fit_rows, is_allowed, quoted_name

# Virtual machine steps between looks at the clock: about 0.1 ms of work each.
STEPS_PER_CHECK = 1_000
# How long to wait for another process's lock on the file.
BUSY_TIMEOUT_S = 1.0
CACHE_KIB = 8 * 1024
SAMPLE_VALUE_BYTES = 10_000

# https://sqlite.org/limits.html; each value is far above what a model writes and far below what hurts.
SQLITE_LIMITS = {
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,  # LIKE is quadratic in the pattern
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 1_000,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 10,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}


class Guard:
    """The authorizer of one connection; remembers what it denied, for the message."""

    def __init__(self, write: bool) -> None:
        """Allow reads, and writes if `write`."""
        self._write = write
        self.denial: str | None = None

    def __call__(
        self, action: int, first: str | None, second: str | None, schema: str | None, source: str | None
    ) -> int:
        """Answer SQLite's question; `source` (the trigger or view that asks) makes no difference."""
        if is_allowed(action, first, second, schema, write=self._write):
            return sqlite3.SQLITE_OK
        self.denial = self.denial or describe_denial(action, first, second, schema, write=self._write)
        return sqlite3.SQLITE_DENY


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request: `{"do": name, "database": path, "limits": {...}, ...}`.

    Raises:
        ToolFailure: The statement is wrong, denied, too slow or too large.
    """
    limits = Limits(**request["limits"])
    action = {
        "list_tables": list_tables,
        "describe_table": describe_table,
        "query": query,
        "execute": execute,
    }[request["do"]]
    write = request["do"] == "execute"
    guard = Guard(write)
    with open_database(request["database"], write, limits) as connection:
        try:
            return action(connection, guard, request, limits)
        except sqlite3.Error as error:
            raise ToolFailure(_explain(error, guard, connection, limits)) from error
        except OverflowError as error:
            raise ToolFailure("A parameter is outside SQLite's 64-bit integers. Pass it as text.") from error


@contextmanager
def open_database(path: str, write: bool, limits: Limits) -> Iterator[sqlite3.Connection]:
    """Yield a hardened connection without an authorizer, closed on exit."""
    uri = f"file:{quote(path)}?mode={'rw' if write else 'ro'}"
    connection = None
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        _harden(connection, write, limits)
        yield connection
    except sqlite3.Error as error:
        raise ToolFailure(f"The database cannot be opened: {error}.") from error
    finally:
        if connection is not None:
            connection.close()


def _harden(connection: sqlite3.Connection, write: bool, limits: Limits) -> None:
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    for pragma in (
        f"hard_heap_limit = {limits.heap_bytes}",
        f"cache_size = -{CACHE_KIB}",
        "mmap_size = 0",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        "foreign_keys = ON",
        f"query_only = {'OFF' if write else 'ON'}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    for limit, value in SQLITE_LIMITS.items():
        connection.setlimit(limit, value)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits.max_value_bytes)
    deadline = time.monotonic() + limits.timeout_s
    connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_PER_CHECK)


def query(connection: sqlite3.Connection, guard: Guard, request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Run one reading statement."""
    connection.set_authorizer(guard)
    return _run(connection, request, limits)


def execute(
    connection: sqlite3.Connection, guard: Guard, request: dict[str, Any], limits: Limits
) -> dict[str, Any]:
    """Run one changing statement in a transaction of its own: all of it, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    before = connection.total_changes
    connection.set_authorizer(guard)
    answer = _run(connection, request, limits)
    connection.set_authorizer(None)
    changed = connection.execute("SELECT changes()").fetchone()[0] if connection.total_changes > before else 0
    connection.execute("COMMIT")
    return {**answer, "changed_rows": changed}


def _run(connection: sqlite3.Connection, request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    if not request["sql"].strip():
        raise ToolFailure("The sql is empty. Write one statement, like SELECT * FROM a_table LIMIT 5.")
    cursor = connection.execute(request["sql"], request["parameters"])
    columns = [column[0] for column in cursor.description or ()]
    if len(columns) > limits.max_columns:
        raise ToolFailure(f"The result has {len(columns)} columns. Name at most {limits.max_columns} of them.")
    rows, truncated = fit_rows(cursor, limits)
    cursor.close()
    return {"columns": columns, "rows": rows, "truncated": truncated}


def list_tables(
    connection: sqlite3.Connection, guard: Guard, request: dict[str, Any], limits: Limits
) -> dict[str, Any]:
    """List tables and views with the names of their columns."""
    connection.set_authorizer(guard)
    tables = _tables(connection)
    listed = [
        {"name": name, "kind": kind, "columns": [column[1] for column in _columns(connection, name)]}
        for name, kind in list(tables.items())[: limits.max_tables]
    ]
    return {"tables": listed, "truncated": len(tables) > limits.max_tables}


def describe_table(
    connection: sqlite3.Connection, guard: Guard, request: dict[str, Any], limits: Limits
) -> dict[str, Any]:
    """Describe a table's columns, keys and indexes, with a few of its rows."""
    connection.set_authorizer(guard)
    wanted = request["table"]
    tables = _tables(connection)
    name = next((table for table in tables if table.lower() == wanted.lower()), None)
    if name is None:
        raise ToolFailure(_no_table(wanted, list(tables)))
    references = {
        row[3]: f"{row[2]}.{row[4]}" if row[4] else row[2] for row in _pragma(connection, "foreign_key_list", name)
    }
    columns = [
        {
            "name": column[1],
            "type": column[2],
            "not_null": bool(column[3]),
            "primary_key": bool(column[5]),
            "references": references.get(column[1]),
        }
        for column in _columns(connection, name)
    ]
    rows, truncated = _sample(connection, name, [column["name"] for column in columns], request["rows"], limits)
    return {
        "name": name,
        "kind": tables[name],
        "columns": columns,
        "unique": _unique_columns(connection, name),
        "sample_rows": rows,
        "truncated": truncated,
    }


def _sample(
    connection: sqlite3.Connection, table: str, columns: list[str], count: int, limits: Limits
) -> tuple[list[list[Any]], bool]:
    """Return a few rows; a value too large to read is replaced by words before SQLite loads it."""
    if not count or not columns:
        return [], False
    shown = columns[: limits.max_columns]
    cells = ", ".join(
        f"CASE WHEN length({name}) > {SAMPLE_VALUE_BYTES} THEN '<large value>' ELSE {name} END"
        for name in map(quoted_name, shown)
    )
    rows, truncated = fit_rows(
        connection.execute(f"SELECT {cells} FROM {quoted_name(table)} LIMIT {count}"), limits
    )
    return rows, truncated or len(shown) < len(columns)


def _tables(connection: sqlite3.Connection) -> dict[str, str]:
    """Return tables and views by name, without SQLite's own and without the insides of full-text tables."""
    return {
        row[1]: row[2]
        for row in sorted(connection.execute("PRAGMA main.table_list"))
        if row[2] != "shadow" and not row[1].startswith("sqlite_")
    }


def _columns(connection: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    """Return `table_xinfo` rows of the columns that a `SELECT *` shows (hidden is not 1)."""
    try:
        return [row for row in _pragma(connection, "table_xinfo", table) if row[6] != 1]
    except sqlite3.OperationalError as error:
        if "no such" in str(error):  # a view of a table that is gone: it has no columns to show
            return []
        raise


def _unique_columns(connection: sqlite3.Connection, table: str) -> list[list[str]]:
    return [
        [column[2] or "(expression)" for column in _pragma(connection, "index_info", index[1])]
        for index in _pragma(connection, "index_list", table)
        if index[2]
    ]


def _pragma(connection: sqlite3.Connection, pragma: str, name: str) -> list[tuple[Any, ...]]:
    return connection.execute(f"PRAGMA main.{pragma}({quoted_name(name)})").fetchall()


def _explain(error: sqlite3.Error, guard: Guard, connection: sqlite3.Connection, limits: Limits) -> str:
    """Turn SQLite's message into one that says what to do."""
    text = str(error)
    if guard.denial:
        return guard.denial
    if text == "interrupted":
        return (
            f"The statement ran longer than {limits.timeout_s:g} s and was stopped; nothing was changed. "
            "Add a WHERE clause or a LIMIT."
        )
    if text == "string or blob too big":
        return (
            f"A value is larger than {limits.max_value_bytes} bytes. "
            "Leave that column out, or select length(column)."
        )
    if "one statement at a time" in text:
        return "There is more than one statement. Send one statement, without text after the semicolon."
    connection.set_authorizer(None)
    if match := re.match(r"no such table: (?:main\.)?(.*)", text):
        return _no_table(match[1], list(_tables(connection)))
    if match := re.match(r"no such column: (.*)", text):
        known = {column[1] for table in _tables(connection) for column in _columns(connection, table)}
        wanted = match[1].split(".")[-1]
        return f"There is no column {match[1]!r}.{suggestion(wanted, sorted(known)) or ' Use describe_table.'}"
    return f"SQLite: {text.rstrip('.')}."


def _no_table(name: str, known: list[str]) -> str:
    return f"There is no table {name!r}.{suggestion(name, known) or ' Use list_tables.'}"


def main() -> None:
    """Answer the parent's requests."""
    answer_requests(handle)
