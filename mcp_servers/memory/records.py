"""Observations as single records, for a program that shares the file with the server and scopes it by user.

The server has no tools for these operations. A program's scope is an entity of kind `SCOPE_KIND` with at most
`MAX_OBSERVATIONS` observations. Without a scope, the records are the observations of all other entities, each with
its entity's name before it. A program writes its own note into the column `tool` of the history, after
`NOTE_PREFIX`; a row without such a note was written through the server's tools.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from mcp_servers.memory.changes import Call, Entity, create_entities, delete_entities, delete_observations, find
from mcp_servers.memory.policy import MAX_OBSERVATIONS, Limits, match_expression, name_key

SCOPE_KIND = "agentkit user"
"""Kind of the entity that holds the records of one user."""
NOTE_PREFIX = "agentkit "
"""Start of the history's column `tool` for records of a program."""
N_REPLACED = 25
"""Observations that are deleted at once when an entity is full, so that the next ones are free."""
MAX_ENTITIES = 50
"""Entities whose observations are compared in a search without a scope."""

_JOINED = "FROM observations o JOIN entities e ON e.id = o.entity"


class _Row(NamedTuple):
    id: int
    text: str
    name: str
    kind: str


def add_record(call: Call, name: str, kind: str, text: str, note: str) -> None:
    """Add an observation to an entity, which is created if it is missing; `note` goes into the history.

    If the entity has as many observations as it may have, the oldest ones are deleted.
    """
    call.tool = NOTE_PREFIX + note
    count = f"SELECT count(*) {_JOINED} WHERE e.name_key = ?"
    (n_known,) = call.connection.execute(count, (name_key(name),)).fetchone()
    if n_known >= MAX_OBSERVATIONS:
        oldest = f"SELECT o.text {_JOINED} WHERE e.name_key = ? ORDER BY o.id LIMIT ?"
        rows = call.connection.execute(oldest, (name_key(name), N_REPLACED)).fetchall()
        delete_observations(call, [{"name": name, "texts": [row[0] for row in rows]}])
    create_entities(call, [{"name": name, "kind": kind, "texts": [text]}])


def list_records(
    connection: sqlite3.Connection,
    limits: Limits,
    scope: str,
    limit: int,
    offset: int,
    id: int | None = None,
    entity: str | None = None,
    text: str | None = None,
) -> dict[str, Any]:
    """Return records, newest first.

    Args:
        connection: The store, in a transaction.
        limits: Limits of the store.
        scope: Name of the entity of a scope; empty: all other entities.
        limit: Maximum number of records.
        offset: Number of records to skip.
        id: Id of the only wanted record.
        entity: Name of the entity whose records are wanted.
        text: Text of the wanted records.
    """
    where, values = _within(scope)
    wanted = {"o.id": id, "e.name_key": None if entity is None else name_key(entity), "o.text": text}
    for column, value in wanted.items():
        if value is not None:
            where += f" AND {column} = ?"
            values.append(value)
    rows = connection.execute(
        f"SELECT o.id, o.text, e.name, e.kind {_JOINED} WHERE {where} ORDER BY o.id DESC LIMIT ? OFFSET ?",
        (*values, limit, offset),
    )
    return {"records": [_with_note(connection, _Row(*row)) for row in rows.fetchall()]}


def find_records(
    connection: sqlite3.Connection, limits: Limits, scope: str, words: list[str], limit: int
) -> dict[str, Any]:
    """Return the records that contain any of the words, best first: rare words count more (BM25's weights)."""
    if not words:
        return {"records": []}
    where, values = _within(scope)
    if not scope:
        found = connection.execute(
            "SELECT rowid FROM search WHERE search MATCH ? ORDER BY rank LIMIT ?",
            (match_expression(words, every=False), MAX_ENTITIES),
        ).fetchall()
        where += f" AND e.id IN ({', '.join(str(row[0]) for row in found)})"
    rows = connection.execute(
        f"SELECT o.id, o.text, e.name, e.kind {_JOINED} WHERE {where} ORDER BY o.id DESC", values
    )
    ranked = _ranked([_Row(*row) for row in rows], words, is_scoped=bool(scope))
    return {"records": [_with_note(connection, row) for row in ranked[:limit]]}


def delete_records(call: Call, scope: str, ids: list[int], everything: bool) -> None:
    """Delete records by id, or the whole scope."""
    if everything:
        names = [scope] if scope else [name for (name,) in call.connection.execute(_OTHER_NAMES, (SCOPE_KIND,))]
        delete_entities(call, [name for name in names if _is_within(find(call.connection, name), scope)])
        return
    where, values = _within(scope)
    for record in ids:
        statement = f"SELECT e.name, o.text {_JOINED} WHERE {where} AND o.id = ?"
        for name, text in call.connection.execute(statement, (*values, record)).fetchall():
            delete_observations(call, [{"name": name, "texts": [text]}])


_OTHER_NAMES = "SELECT name FROM entities WHERE kind <> ? ORDER BY id"


def _within(scope: str) -> tuple[str, list[Any]]:
    """Return the SQL condition of a scope and its values."""
    if scope:
        return "e.name_key = ? AND e.kind = ?", [name_key(scope), SCOPE_KIND]
    return "e.kind <> ?", [SCOPE_KIND]


def _is_within(entity: Entity | None, scope: str) -> bool:
    return entity is not None and (entity.kind == SCOPE_KIND) == bool(scope)


def _ranked(rows: Sequence[_Row], words: Sequence[str], *, is_scoped: bool) -> list[_Row]:
    """Return the rows with at least one of the words, best first; newer ones first among equals."""
    texts = [_searched(row, is_scoped) for row in rows]
    folded = [name_key(word) for word in words]
    n_with = Counter(word for text in texts for word in folded if word in text)
    scores = [
        sum(math.log(1 + len(rows) / n_with[word]) for word in folded if word in text) / math.log(2 + len(text))
        for text in texts
    ]
    order = sorted(range(len(rows)), key=lambda index: -scores[index])
    return [rows[index] for index in order if scores[index] > 0]


def _searched(row: _Row, is_scoped: bool) -> str:
    return name_key(row.text if is_scoped else f"{row.name} {row.kind} {row.text}")


def _with_note(connection: sqlite3.Connection, row: _Row) -> dict[str, Any]:
    """Return a record with the time and the note of the history row that last added it."""
    added = connection.execute(
        "SELECT at, tool FROM history WHERE name_key = ? AND what = 'observation' AND change = 'added'"
        " AND content = ? ORDER BY id DESC LIMIT 1",
        (name_key(row.name), row.text),
    ).fetchone()
    at, tool = added or ("", "")
    note = tool.removeprefix(NOTE_PREFIX) if tool.startswith(NOTE_PREFIX) else ""
    return {"id": row.id, "text": row.text, "name": row.name, "kind": row.kind, "at": at, "note": note}
