"""Changes to a store: each function runs inside one transaction and records its changes in the history.

Adding existing items and deleting missing ones changes nothing and is reported as unchanged. A name that must
exist and does not raises a failure with similar names, and the caller's transaction is rolled back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mcp_servers.failures import MAX_COMPARED_NAMES, ToolFailure, suggestion
from mcp_servers.memory.policy import MAX_OBSERVATIONS, MAX_RELATIONS, name_key, short, shown

# Number of unchanged items listed by name; the rest is only counted.
MAX_NAMED = 20
MAX_SUGGESTED = 3


class Entity(NamedTuple):
    """A row of `entities`."""

    id: int
    name: str
    kind: str


@dataclass
class Call:
    """The transaction of a call: its tool, time and outcome."""

    connection: sqlite3.Connection
    tool: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("entity", "observation", "relation"), 0))
    unchanged: list[str] = field(default_factory=list)
    changed_documents: set[int] = field(default_factory=set)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    number: int = 0

    def __post_init__(self) -> None:
        """Take the history's next row number as the number of the call."""
        (last,) = self.connection.execute("SELECT coalesce(max(id), 0) FROM history").fetchone()
        self.number = last + 1

    def record(self, change: str, what: str, name: str, content: str, target: str = "") -> None:
        """Append a change to the history."""
        row = (
            self.number,
            self.at,
            self.tool,
            change,
            what,
            name,
            name_key(name),
            content,
            target,
            name_key(target),
        )
        self.connection.execute(
            "INSERT INTO history(call, at, tool, change, what, name, name_key, content, target, target_key)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        )
        self.counts[what] += 1

    def answer(self) -> dict[str, Any]:
        """Update the search index and return the counts of changes."""
        for entity in sorted(self.changed_documents):
            _index(self.connection, entity)
        return {
            "entities": self.counts["entity"],
            "observations": self.counts["observation"],
            "relations": self.counts["relation"],
            "unchanged": self.unchanged[:MAX_NAMED],
            "more_unchanged": max(0, len(self.unchanged) - MAX_NAMED),
        }


def create_entities(call: Call, entities: Sequence[dict[str, Any]]) -> None:
    """Add entities with their observations; an existing entity gets its missing observations."""
    for wanted in entities:
        entity = find(call.connection, wanted["name"])
        if entity is None:
            entity = _insert_entity(call, wanted["name"], wanted["kind"])
        else:
            call.unchanged.append(f"{shown(entity.name)} ({shown(entity.kind)})")
        _observe(call, entity, wanted["texts"])


def add_observations(call: Call, observations: Sequence[dict[str, Any]]) -> None:
    """Add texts to existing entities."""
    for wanted in observations:
        _observe(call, found(call.connection, wanted["name"]), wanted["texts"])


def create_relations(call: Call, relations: Sequence[dict[str, str]]) -> None:
    """Add relations between existing entities."""
    for wanted in relations:
        source, target = found(call.connection, wanted["source"]), found(call.connection, wanted["target"])
        relation = wanted["relation"]
        inserted = call.connection.execute(
            "INSERT OR IGNORE INTO relations(source, relation, relation_key, target) VALUES (?, ?, ?, ?)",
            (source.id, relation, name_key(relation), target.id),
        ).rowcount
        if not inserted:
            call.unchanged.append(_relation_label(source.name, relation, target.name))
            continue
        call.record("added", "relation", source.name, relation, target.name)
        for entity in (source, target):
            _check_count(call, "relations", "source = ?1 OR target = ?1", entity, MAX_RELATIONS)


def delete_entities(call: Call, names: Sequence[str]) -> None:
    """Delete entities with their observations and relations."""
    for name in names:
        entity = find(call.connection, name)
        if entity is None:
            call.unchanged.append(_not_found(call, name))
            continue
        for (text,) in _rows(call, "SELECT text FROM observations WHERE entity = ? ORDER BY id", entity.id):
            call.record("deleted", "observation", entity.name, text)
        touching = f"{SELECT_RELATIONS} WHERE r.source = ?1 OR r.target = ?1 ORDER BY r.id"
        for source, relation, target in _rows(call, touching, entity.id):
            call.record("deleted", "relation", source, relation, target)
        call.connection.execute("DELETE FROM entities WHERE id = ?", (entity.id,))
        call.record("deleted", "entity", entity.name, entity.kind)
        call.changed_documents.add(entity.id)


def delete_observations(call: Call, deletions: Sequence[dict[str, Any]]) -> None:
    """Delete texts of entities."""
    for wanted in deletions:
        entity = find(call.connection, wanted["name"])
        if entity is None:
            call.unchanged.append(_not_found(call, wanted["name"]))
            continue
        for text in wanted["texts"]:
            where = "WHERE entity = ? AND text = ?"
            if call.connection.execute(f"DELETE FROM observations {where}", (entity.id, text)).rowcount:
                call.record("deleted", "observation", entity.name, text)
                call.changed_documents.add(entity.id)
            else:
                call.unchanged.append(f"{shown(entity.name)}: {short(text)} (open_nodes shows the observations)")


def delete_relations(call: Call, relations: Sequence[dict[str, str]]) -> None:
    """Delete relations."""
    for wanted in relations:
        keys = tuple(name_key(wanted[part]) for part in ("source", "relation", "target"))
        where = "WHERE s.name_key = ? AND r.relation_key = ? AND t.name_key = ?"
        rows = call.connection.execute(f"{SELECT_RELATIONS_WITH_ID} {where}", keys).fetchall()
        if not rows:
            label = _relation_label(wanted["source"], wanted["relation"], wanted["target"])
            call.unchanged.append(f"{label} (open_nodes shows the relations)")
        for relation_id, source, relation, target in rows:
            call.connection.execute("DELETE FROM relations WHERE id = ?", (relation_id,))
            call.record("deleted", "relation", source, relation, target)


SELECT_RELATIONS = (
    "SELECT s.name, r.relation, t.name FROM relations r"
    " JOIN entities s ON s.id = r.source JOIN entities t ON t.id = r.target"
)
SELECT_RELATIONS_WITH_ID = SELECT_RELATIONS.replace("SELECT", "SELECT r.id,", 1)


def find(connection: sqlite3.Connection, name: str) -> Entity | None:
    """Return the entity with a name, ignoring case."""
    row = connection.execute(
        "SELECT id, name, kind FROM entities WHERE name_key = ?", (name_key(name),)
    ).fetchone()
    return Entity(*row) if row else None


def found(connection: sqlite3.Connection, name: str) -> Entity:
    """Return the entity with a name, ignoring case.

    Raises:
        ToolFailure: The entity does not exist.
    """
    entity = find(connection, name)
    if entity is None:
        hint = nearest(connection, name) or " search_nodes finds names; create_entities makes one."
        raise ToolFailure(f"There is no entity {shown(name)!r}.{hint}")
    return entity


def nearest(connection: sqlite3.Connection, name: str) -> str:
    """Return a hint with similar names among the newest entities, or an empty string."""
    known = connection.execute("SELECT name FROM entities ORDER BY id DESC LIMIT ?", (MAX_COMPARED_NAMES,))
    return suggestion(name, (shown(row[0]) for row in known))


def _insert_entity(call: Call, name: str, kind: str) -> Entity:
    row = call.connection.execute(
        "INSERT INTO entities(name, name_key, kind) VALUES (?, ?, ?) RETURNING id", (name, name_key(name), kind)
    ).fetchone()
    call.record("added", "entity", name, kind)
    call.changed_documents.add(row[0])
    return Entity(row[0], name, kind)


def _observe(call: Call, entity: Entity, texts: Iterable[str]) -> None:
    for text in texts:
        inserted = call.connection.execute(
            "INSERT OR IGNORE INTO observations(entity, text) VALUES (?, ?)", (entity.id, text)
        ).rowcount
        if inserted:
            call.record("added", "observation", entity.name, text)
            call.changed_documents.add(entity.id)
        else:
            call.unchanged.append(f"{shown(entity.name)}: {short(text)}")
    _check_count(call, "observations", "entity = ?1", entity, MAX_OBSERVATIONS)


def _check_count(call: Call, table: str, where: str, entity: Entity, limit: int) -> None:
    (count,) = call.connection.execute(f"SELECT count(*) FROM {table} WHERE {where}", (entity.id,)).fetchone()
    if count > limit:
        raise ToolFailure(
            f"{shown(entity.name)!r} would have {count} {table}; at most {limit}. Nothing was saved. "
            "Delete old ones, or make an entity for a part of it."
        )


def _index(connection: sqlite3.Connection, entity: int) -> None:
    """Rewrite an entity's search document; a deleted entity's is removed."""
    connection.execute("DELETE FROM search WHERE rowid = ?", (entity,))
    texts = "SELECT text FROM observations WHERE entity = ?1 ORDER BY id"
    connection.execute(
        "INSERT INTO search(rowid, name, kind, observations)"
        f" SELECT id, name, kind, coalesce((SELECT group_concat(text, '; ') FROM ({texts})), '')"
        " FROM entities WHERE id = ?1",
        (entity,),
    )


def _rows(call: Call, sql: str, entity: int) -> list[tuple[str, ...]]:
    return call.connection.execute(sql, (entity,)).fetchall()


def _not_found(call: Call, name: str) -> str:
    # Each suggestion compares thousands of names, so only the first few wrong names get one.
    hint = nearest(call.connection, name) if len(call.unchanged) < MAX_SUGGESTED else ""
    return shown(name) + hint


def _relation_label(source: str, relation: str, target: str) -> str:
    return f"{shown(source)} -> {shown(relation)} -> {shown(target)}"
