"""Descriptions of tables: names, columns, keys, and a few rows, read under the authorizer like any query."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from mcp_servers.failures import ToolFailure, listed, suggestion
from mcp_servers.sqlite.policy import Limits, fit_rows, quoted_name

SAMPLE_VALUE_BYTES = 10_000
# Maximum number of table or column names listed in an error.
MAX_NAMES_TOLD = 30

Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]


def list_tables(
    connection: sqlite3.Connection, guard: Authorizer, request: dict[str, Any], limits: Limits
) -> dict[str, Any]:
    """List tables and views with the names of their columns."""
    connection.set_authorizer(guard)
    tables = known_tables(connection)
    listed = [
        {"name": name, "kind": kind, "columns": [column[1] for column in columns_of(connection, name)]}
        for name, kind in list(tables.items())[: limits.max_tables]
    ]
    return {"tables": listed, "truncated": len(tables) > limits.max_tables}


def describe_table(
    connection: sqlite3.Connection, guard: Authorizer, request: dict[str, Any], limits: Limits
) -> dict[str, Any]:
    """Describe a table's columns, keys and indexes, with a few of its rows."""
    connection.set_authorizer(guard)
    wanted = request["table"]
    tables = known_tables(connection)
    name = next((table for table in tables if table.lower() == wanted.lower()), None)
    if name is None:
        raise ToolFailure(no_table(wanted, list(tables)))
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
        for column in columns_of(connection, name)
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
    """Return a few rows; SQL replaces values that are too large before SQLite loads them."""
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


def known_tables(connection: sqlite3.Connection) -> dict[str, str]:
    """Return tables and views by name, without SQLite's own and without shadow tables of full-text tables."""
    return {
        row[1]: row[2]
        for row in sorted(connection.execute("PRAGMA main.table_list"))
        if row[2] != "shadow" and not row[1].startswith("sqlite_")
    }


def columns_of(connection: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    """Return `table_xinfo` rows of the columns that a `SELECT *` shows (hidden is not 1)."""
    try:
        return [row for row in _pragma(connection, "table_xinfo", table) if row[6] != 1]
    except sqlite3.DatabaseError as error:
        if str(error) == "interrupted":
            raise
        return []  # a view of a missing table, or an unusable one: the others are listed anyway


def _unique_columns(connection: sqlite3.Connection, table: str) -> list[list[str]]:
    return [
        [column[2] or "(expression)" for column in _pragma(connection, "index_info", index[1])]
        for index in _pragma(connection, "index_list", table)
        if index[2]
    ]


def _pragma(connection: sqlite3.Connection, pragma: str, name: str) -> list[tuple[Any, ...]]:
    return connection.execute(f"PRAGMA main.{pragma}({quoted_name(name)})").fetchall()


def no_table(name: str, known: list[str]) -> str:
    """Return the text for a model that named a missing table."""
    hint = (
        suggestion(name, known)
        or listed(" The tables are ", map(repr, known), most=MAX_NAMES_TOLD)
        or " Use list_tables."
    )
    return f"There is no table {name!r}.{hint}"
