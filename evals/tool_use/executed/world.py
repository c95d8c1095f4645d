"""Folder and database as plain data: initial state, expected final state, and differences. Pure functions.

The expected final state is the initial state with the task's declared changes, so everything that a task does not
name must be unchanged. An agent that does the task but damages something else fails.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from evals.tool_use.executed.task import Cell, Row, RowChange, Task

ROUNDING_DIGITS = 6
"""Decimal digits of real numbers in rows; a sum in another order must compare as equal."""
MAX_ROWS = 10_000
"""Maximum rows read from one table; tasks have fewer than ten."""


@dataclass(frozen=True, slots=True)
class World:
    """Files by path (folders end in a slash and have the text ""), rows by table, and the schema."""

    tree: Mapping[str, str] = field(default_factory=dict[str, str])
    tables: Mapping[str, tuple[Row, ...]] = field(default_factory=dict[str, tuple[Row, ...]])
    schema: Mapping[str, str] = field(default_factory=dict[str, str])
    """SQL of each table, view, index and trigger by name."""
    problem: str | None = None
    """Reason why the database could not be read, or None."""


def start_world(task: Task) -> World:
    """Return the world before the run."""
    tables, schema = _database(task.start.sql)
    return World(_with_folders(task.start.files), tables, schema)


def expected_world(task: Task) -> World:
    """Return the world after a correct run.

    Raises:
        ValueError: the task removes a file or a row that does not exist.
    """
    start = start_world(task)
    tree = dict(start.tree)
    for path, text in task.end.files.items():
        if text is not None:
            tree |= _with_folders({path: text})
        elif tree.pop(path, None) is None:
            raise ValueError(f"task {task.id!r} removes {path!r}, which is not there")
    tables = dict(start.tables)
    for change in task.end.rows:
        tables[change.table] = _changed(task.id, tables[change.table], change)
    return World(tree, tables, start.schema)


def differences(expected: World, found: World, start: World) -> list[str]:
    """Return the differences between `found` and `expected`, one sentence each.

    A missing or additional final newline in a changed file is ignored.
    """
    sentences = [found.problem] if found.problem else []
    for path in sorted(expected.tree.keys() | found.tree.keys()):
        right, text = expected.tree.get(path), found.tree.get(path)
        if right is None or text is None:
            sentences.append(f"{path!r} {'should not be there' if right is None else 'is missing'}")
        elif text != right and (right == start.tree.get(path) or text.rstrip("\n") != right.rstrip("\n")):
            sentences.append(f"{path!r} {_first_difference(right, text)}")
    names = sorted(expected.schema.keys() | found.schema.keys())
    sentences += [
        f"the schema of {name!r} differs" for name in names if expected.schema.get(name) != found.schema.get(name)
    ]
    for table in sorted(expected.tables.keys() & found.tables.keys()):
        right, rows = _counted(expected.tables[table]), _counted(found.tables[table])
        sentences += [f"{table!r} lacks the row {list(row)!r}" for row in (right - rows).elements()]
        sentences += [f"{table!r} should not have the row {list(row)!r}" for row in (rows - right).elements()]
    return sentences


def world_to_json(world: World) -> dict[str, Any]:
    """Convert a world to JSON values for `Run.observed`."""
    tables = {name: [list(row) for row in rows] for name, rows in world.tables.items()}
    return {
        "tree": dict(world.tree),
        "tables": tables,
        "schema": dict(world.schema),
        "problem": world.problem,
    }


def world_from_json(observed: Mapping[str, Any]) -> World:
    """Convert a world back from `world_to_json`.

    Raises:
        KeyError: a part is missing.
    """
    tables = {name: tuple(tuple(row) for row in rows) for name, rows in observed["tables"].items()}
    return World(observed["tree"], tables, observed["schema"], observed["problem"])


def read_database(
    connection: sqlite3.Connection,
) -> tuple[dict[str, tuple[Row, ...]], dict[str, str]]:
    """Return the rows of all tables, and the SQL of all schema entries except SQLite's own tables.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    entries = connection.execute(
        "SELECT type, name, coalesce(sql, '') FROM sqlite_master ORDER BY name"
    ).fetchall()
    entries = [entry for entry in entries if not entry[1].startswith("sqlite_")]
    tables: dict[str, tuple[Row, ...]] = {}
    for kind, name, _ in entries:
        if kind == "table":
            quoted = '"' + name.replace('"', '""') + '"'
            rows = connection.execute(f"SELECT * FROM {quoted} LIMIT {MAX_ROWS}")
            tables[name] = tuple(tuple(_cell(value) for value in row) for row in rows)
    return tables, {name: sql for _, name, sql in entries}


@lru_cache(maxsize=128)
def _database(sql: str) -> tuple[dict[str, tuple[Row, ...]], dict[str, str]]:
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(sql)
        return read_database(connection)
    finally:
        connection.close()


def _with_folders(files: Mapping[str, str]) -> dict[str, str]:
    tree = dict(files)
    for path in files:
        for folder in PurePosixPath(path).parents:
            if folder != PurePosixPath("."):
                tree[f"{folder}/"] = ""
    return tree


def _changed(task_id: str, rows: Sequence[Row], change: RowChange) -> tuple[Row, ...]:
    left = list(rows)
    for row in change.removed:
        if row not in left:
            raise ValueError(f"task {task_id!r} removes {row!r} from {change.table!r}, which is not there")
        left.remove(row)
    return (*left, *change.added)


def _counted(rows: Sequence[Row]) -> Counter[tuple[Any, ...]]:
    # The text "5" and the number 5 are different values; 5 and 5.0 are equal and have the same hash.
    return Counter(
        tuple(round(cell, ROUNDING_DIGITS) if isinstance(cell, float) else cell for cell in row) for row in rows
    )


def _cell(value: object) -> Cell:
    if isinstance(value, bytes):
        return f"<blob {value.hex()}>"
    if value is None or isinstance(value, int | float | str):
        return value
    raise TypeError(f"SQLite has no type {type(value).__name__}")


def _first_difference(right: str, text: str) -> str:
    for number, (expected, found) in enumerate(zip(right.split("\n"), text.split("\n"), strict=False), start=1):
        if expected != found:
            return f"has {found!r} in line {number} for {expected!r}"
    return f"has {text.count(chr(10))} newlines for {right.count(chr(10))}"
