"""Child process that opens the database: one connection, one statement, one answer per request.

All code that reads the file runs here, including reads of the schema, because a hostile file is untrusted input
like a hostile statement. Three clocks stop a statement: the progress handler (with a rollback), the parent (by
killing), the kernel (CPU limit). SQLite's heap limit is process-wide, which requires a separate process.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import quote

from mcp_servers.child import answer_requests
from mcp_servers.failures import ToolFailure, listed, suggestion
from mcp_servers.hardening import harden, reason_not_to_open
from mcp_servers.hidden import on_one_line
from mcp_servers.sqlite.plans import access_of, plan_steps, without_explain
from mcp_servers.sqlite.policy import Limits, describe_denial, fit_rows, is_allowed
from mcp_servers.sqlite.tables import (
    MAX_NAMES_TOLD,
    columns_of,
    describe_table,
    known_tables,
    list_tables,
    no_table,
)

_MOST_TABLES_NAMED = 5
"""Maximum number of tables named for a column that a statement cannot reach."""

# Virtual machine steps between checks of the deadline: about 0.1 ms of work each.
STEPS_PER_CHECK = 1_000
# Seconds to wait for another process's lock on the file.
BUSY_TIMEOUT_S = 1.0
CACHE_KIB = 8 * 1024

# https://sqlite.org/limits.html; each value is far above what a model writes and far below what does harm.
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
    """Authorizer of one connection; keeps its first denial for the error message."""

    def __init__(self, write: bool) -> None:
        """Allow reads, and writes if `write`."""
        self._write = write
        self.denial: str | None = None

    def __call__(
        self, action: int, first: str | None, second: str | None, schema: str | None, source: str | None
    ) -> int:
        """Answer SQLite's request; `source` (the trigger or view behind it) makes no difference."""
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
        "explain": explain,
    }[request["do"]]
    write = request["do"] == "execute"
    # A server with write access may plan changes; the file is opened read-only for that.
    guard = Guard(write or request.get("may_write", False))
    with open_database(request["database"], write, limits) as connection:
        try:
            return action(connection, guard, request, limits)
        except sqlite3.Error as error:
            raise ToolFailure(explain_error(error, guard, connection, limits)) from error
        except OverflowError as error:
            raise ToolFailure("A parameter is outside SQLite's 64-bit integers. Pass it as text.") from error


@contextmanager
def open_database(path: str, write: bool, limits: Limits) -> Iterator[sqlite3.Connection]:
    """Yield a hardened connection without an authorizer, closed on exit."""
    if (reason := reason_not_to_open(path)) is not None:
        raise ToolFailure(f"The database is not opened: {reason}.")
    uri = f"file:{quote(path)}?mode={'rw' if write else 'ro'}"
    connection = None
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        _harden(connection, write, limits)
        yield connection
    except sqlite3.Error as error:
        raise ToolFailure(f"The database cannot be opened: {on_one_line(str(error))}.") from error
    finally:
        if connection is not None:
            connection.close()


def _harden(connection: sqlite3.Connection, write: bool, limits: Limits) -> None:
    harden(connection, heap_bytes=limits.heap_bytes, cache_kib=CACHE_KIB, write=write)
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
    """Run one changing statement in its own transaction: completely or not at all."""
    connection.execute("BEGIN IMMEDIATE")
    before = connection.total_changes
    connection.set_authorizer(guard)
    answer = _run(connection, request, limits)
    connection.set_authorizer(None)
    changed = connection.execute("SELECT changes()").fetchone()[0] if connection.total_changes > before else 0
    connection.execute("COMMIT")
    return {**answer, "changed_rows": changed}


def explain(
    connection: sqlite3.Connection, guard: Guard, request: dict[str, Any], limits: Limits
) -> dict[str, Any]:
    """Return the plan of one statement, which is compiled under the same rules and not run."""
    connection.set_authorizer(guard)
    sql = without_explain(request["sql"])
    _check_not_empty(sql)
    cursor = connection.execute(f"EXPLAIN QUERY PLAN {sql}", request["parameters"])
    rows = cursor.fetchmany(limits.max_plan_steps + 1)
    cursor.close()
    steps = plan_steps(rows[: limits.max_plan_steps])
    shown = [asdict(replace(step, detail=step.detail[: limits.max_cell_chars])) for step in steps]
    return {"steps": shown, **asdict(access_of(steps)), "truncated": len(rows) > len(steps)}


def begin_statement(
    connection: sqlite3.Connection, request: dict[str, Any], limits: Limits
) -> tuple[sqlite3.Cursor, list[str]]:
    """Start one statement; return its cursor and the names of its columns.

    Raises:
        ToolFailure: It is empty, or has too many columns.
    """
    _check_not_empty(request["sql"])
    cursor = connection.execute(request["sql"], request["parameters"])
    columns = [column[0] for column in cursor.description or ()]
    if len(columns) > limits.max_columns:
        raise ToolFailure(f"The result has {len(columns)} columns. Name at most {limits.max_columns} of them.")
    return cursor, columns


def _run(connection: sqlite3.Connection, request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    cursor, columns = begin_statement(connection, request, limits)
    rows, truncated = fit_rows(cursor, limits)
    cursor.close()
    return {"columns": columns, "rows": rows, "truncated": truncated}


def _check_not_empty(sql: str) -> None:
    if not sql.strip():
        raise ToolFailure("The sql is empty. Write one statement, like SELECT * FROM a_table LIMIT 5.")


def explain_error(error: sqlite3.Error, guard: Guard, connection: sqlite3.Connection, limits: Limits) -> str:
    """Turn SQLite's message into one with a hint for the model."""
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
        return no_table(match[1], list(known_tables(connection)))
    if match := re.match(r"no such column: (.*)", text):
        return _no_column(match[1], connection)
    if match := re.match(r"table (.*) has no column named (.*)", text):
        columns = [column[1] for column in columns_of(connection, match[1])]
        hint = _columns_told(columns) or " Use describe_table."
        return f"The table {match[1]!r} has no column {match[2]!r}.{hint}"
    return f"SQLite: {on_one_line(text).rstrip('.')}."


def _no_column(name: str, connection: sqlite3.Connection) -> str:
    """Return which tables have a column that the statement does not reach, or similar names."""
    tables = {table: [column[1] for column in columns_of(connection, table)] for table in known_tables(connection)}
    wanted = name.split(".")[-1]
    holders = [table for table, columns in tables.items() if wanted in columns][:_MOST_TABLES_NAMED]
    if holders:
        of_others = f"The column is of {' and '.join(map(repr, holders))}"
        return f"There is no column {name!r} in the tables that the statement reads. {of_others}: join it."
    near = suggestion(wanted, sorted({column for columns in tables.values() for column in columns}))
    of_tables = (f"{table}.{column}" for table, columns in tables.items() for column in columns)
    return f"There is no column {name!r}.{near or _columns_told(of_tables) or ' Use describe_table.'}"


def _columns_told(names: Iterable[str]) -> str:
    return listed(" The columns are ", map(on_one_line, names), most=MAX_NAMES_TOLD)


def main() -> None:
    """Answer the parent's requests."""
    answer_requests(handle)
