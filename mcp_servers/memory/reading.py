"""Reading from a store page by page: pages are bounded in bytes, and each contains the start of the next.

`read_graph` and the history continue at a row number, which stays valid while others write. A search and
`open_nodes` continue at a position, because their order is a rank or the caller's own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from mcp_servers.failures import ToolFailure
from mcp_servers.memory.changes import MAX_NAMED, SELECT_RELATIONS, Entity, find, nearest
from mcp_servers.memory.policy import Limits, match_expression, name_key, short, size_of

# Words around a match; FTS5 allows at most 64.
SNIPPET_WORDS = 24
# A word can be long: in scripts without spaces it extends to the next punctuation.
MAX_SNIPPET_CHARS = 300
# Weights of a match in a name, in the kind and in an observation.
NAME_WEIGHT, KIND_WEIGHT, OBSERVATION_WEIGHT = 10.0, 3.0, 1.0

Fact = tuple[str, tuple[str, ...]]
"""Either ("observation", (text,)) or ("relation", (source, relation, target))."""


def read_graph(connection: sqlite3.Connection, limits: Limits, after: int) -> dict[str, Any]:
    """Return entities, oldest first, each with its first facts; a relation is listed at its source."""
    page = _Page()
    next_after = 0
    for row in connection.execute("SELECT id, name, kind FROM entities WHERE id > ? ORDER BY id", (after,)):
        entity = Entity(*row)
        part = _Page()
        part.open(entity)
        facts = _facts(connection, entity, "r.source = ?1")
        for fact in facts:
            if part.is_full(fact, limits.max_entity_bytes):
                part.entities[-1]["more"] = 1 + sum(1 for _ in facts)
                break
            part.add(fact)
        if page.entities and page.size + part.size > limits.max_answer_bytes:
            break
        page.extend(part)
        next_after = entity.id
    (is_more,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM entities WHERE id > ?)", (next_after,)
    ).fetchone()
    counts = {
        f"total_{table}": connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("entities", "observations", "relations")
    }
    return {**page.answer(), **counts, "next_after": next_after if is_more and page.entities else 0}


def open_nodes(
    connection: sqlite3.Connection, limits: Limits, names: Sequence[str], offset: int
) -> dict[str, Any]:
    """Return the named entities with all their facts; `offset` counts entities and facts of earlier pages.

    Raises:
        ToolFailure: None of the names exists.
    """
    entities, missing = _named(connection, names)
    page = _Page()
    position = 0
    told: set[Fact] = set()  # a relation between two of the entities is listed once
    for entity in entities:
        is_open = False
        for fact in chain([None], _facts(connection, entity, "r.source = ?1 OR r.target = ?1")):
            if fact in told:
                continue
            if fact is not None and fact[0] == "relation":
                told.add(fact)
            position += 1
            if position <= offset:
                continue
            if page.is_full(fact, limits.max_answer_bytes):
                return {**page.answer(), **missing, "next_offset": position - 1}
            if not is_open:
                page.open(entity)
                is_open = True
            if fact is not None:
                page.add(fact)
    return {**page.answer(), **missing, "next_offset": 0}


def search_nodes(connection: sqlite3.Connection, limits: Limits, words: list[str], offset: int) -> dict[str, Any]:
    """Rank entities by BM25: those with all words, or, without any such, those with some of them."""
    every = True
    total = _count_matches(connection, match_expression(words, every=True))
    if not total:
        every = False
        total = _count_matches(connection, match_expression(words, every=False))
    rows = connection.execute(
        "SELECT name, kind, snippet(search, 2, '[', ']', '...', ?) FROM search WHERE search MATCH ?"
        " ORDER BY bm25(search, ?, ?, ?), rowid LIMIT ? OFFSET ?",
        (
            SNIPPET_WORDS,
            match_expression(words, every=every),
            *(NAME_WEIGHT, KIND_WEIGHT, OBSERVATION_WEIGHT),
            *(limits.max_matches, offset),
        ),
    )
    matches: list[dict[str, str]] = []
    size = 0
    for name, kind, around in rows:
        snippet = _cut(around)
        size += size_of(name, kind, snippet)
        if matches and size > limits.max_answer_bytes:
            break
        matches.append({"name": name, "entityType": kind, "snippet": snippet})
    reached = offset + len(matches)
    return {
        "matches": matches,
        "total": total,
        "every_word": every,
        "next_offset": reached if matches and reached < total else 0,
    }


def list_changes(connection: sqlite3.Connection, limits: Limits, name: str, before: int) -> dict[str, Any]:
    """Return additions and deletions, latest first; if `name` is not empty, only those of one entity."""
    wanted, values = (["id < ?"], [before]) if before else ([], [])
    if name:
        wanted.append("(name_key = ? OR target_key = ?)")
        values += [name_key(name)] * 2
    where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
    rows = connection.execute(
        f"SELECT id, call, at, tool, change, what, name, content, target FROM history {where} ORDER BY id DESC",
        values,
    )
    changes: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        size += size_of(*map(str, row))
        if changes and size > limits.max_answer_bytes:
            return {"changes": changes, "next_before": changes[-1]["id"]}
        keys = ("id", "call", "at", "tool", "change", "what", "name", "content", "target")
        changes.append(dict(zip(keys, row, strict=True)))
    return {"changes": changes, "next_before": 0}


class _Page:
    """Entities and relations of an answer, and their size in bytes."""

    def __init__(self) -> None:
        self.entities: list[dict[str, Any]] = []
        self.relations: list[dict[str, str]] = []
        self.size = 0

    def open(self, entity: Entity) -> None:
        self.entities.append({"name": entity.name, "entityType": entity.kind, "observations": [], "more": 0})
        self.size += size_of(entity.name, entity.kind)

    def add(self, fact: Fact) -> None:
        what, texts = fact
        if what == "observation":
            self.entities[-1]["observations"].append(texts[0])
        else:
            self.relations.append(dict(zip(("from", "relationType", "to"), texts, strict=True)))
        self.size += size_of(*texts)

    def is_full(self, fact: Fact | None, max_bytes: int) -> bool:
        return bool(self.entities) and self.size + (size_of(*fact[1]) if fact else 0) > max_bytes

    def extend(self, other: _Page) -> None:
        self.entities += other.entities
        self.relations += other.relations
        self.size += other.size

    def answer(self) -> dict[str, Any]:
        return {"entities": self.entities, "relations": self.relations}


def _facts(connection: sqlite3.Connection, entity: Entity, relations: str) -> Iterator[Fact]:
    """Yield an entity's observations, then its relations that satisfy the SQL condition `relations`."""
    for row in connection.execute("SELECT text FROM observations WHERE entity = ? ORDER BY id", (entity.id,)):
        yield "observation", row
    for row in connection.execute(f"{SELECT_RELATIONS} WHERE {relations} ORDER BY r.id", (entity.id,)):
        yield "relation", row


def _named(connection: sqlite3.Connection, names: Sequence[str]) -> tuple[list[Entity], dict[str, Any]]:
    """Return the entities, and the answer's fields for names that do not exist."""
    entities: dict[int, Entity] = {}
    missing: list[str] = []
    for name in names:
        entity = find(connection, name)
        if entity is None:
            missing.append(short(name))
        else:
            entities[entity.id] = entity
    named = missing[:MAX_NAMED]
    if not entities:
        hint = nearest(connection, names[0]) or " search_nodes finds names."
        raise ToolFailure(f"There is no entity {', '.join(map(repr, named))}.{hint}")
    return list(entities.values()), {"missing": named, "more_missing": len(missing) - len(named)}


def _cut(snippet: str) -> str:
    """Shorten a snippet around its first match."""
    if len(snippet) <= MAX_SNIPPET_CHARS:
        return snippet
    start = max(0, snippet.find("[") - MAX_SNIPPET_CHARS // 3)
    return ("..." if start else "") + snippet[start : start + MAX_SNIPPET_CHARS] + "..."


def _count_matches(connection: sqlite3.Connection, expression: str) -> int:
    return connection.execute("SELECT count(*) FROM search WHERE search MATCH ?", (expression,)).fetchone()[0]
