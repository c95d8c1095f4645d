"""SQLite's query plans in readable form: a tree, and the tables read completely. Pure functions without I/O.

The words are SQLite's (https://sqlite.org/eqp.html): SCAN visits every row of a table or of an index, SEARCH
visits some rows by an index or by the key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_EXPLAIN = re.compile(r"\s*explain\s+(query\s+plan\s+)?", re.IGNORECASE)
# "SCAN users", "SEARCH orders USING INDEX ...", and before SQLite 3.36 "SCAN TABLE users AS u".
_ACCESS = re.compile(r"(SCAN|SEARCH) (?:TABLE )?(.+?)(?: AS (.+?))?(?: USING (.+))?$", re.DOTALL)
_NO_TABLE = re.compile(
    r"SCAN (\d+ )?CONSTANT ROWS?$|SCAN \d+-ROW VALUES CLAUSE$|SCAN (\(|SUBQUERY \d)|.* VIRTUAL TABLE INDEX ",
    re.DOTALL,
)


@dataclass(frozen=True)
class Step:
    """A line of a plan."""

    depth: int
    detail: str


@dataclass(frozen=True)
class Access:
    """Tables (or their aliases) of a plan, by the way they are read."""

    scanned: list[str]
    searched: list[str]
    indexed_on_the_fly: list[str]


def without_explain(sql: str) -> str:
    """Return the statement without a leading `EXPLAIN [QUERY PLAN]`."""
    return _EXPLAIN.sub("", sql, count=1) if _EXPLAIN.match(sql) else sql


def plan_steps(rows: Sequence[Sequence[object]]) -> list[Step]:
    """Return the lines of `EXPLAIN QUERY PLAN`, rows of (id, parent, unused, detail), with their depth."""
    depths: dict[object, int] = {}
    steps: list[Step] = []
    for identifier, parent, _, detail in rows:
        depth = depths.get(parent, -1) + 1
        depths[identifier] = depth
        steps.append(Step(depth, str(detail)))
    return steps


def access_of(steps: Sequence[Step]) -> Access:
    """Sort the tables of a plan by how they are read; virtual tables are skipped, as their text differs."""
    access = Access([], [], [])
    for step in steps:
        match = _ACCESS.match(step.detail)
        if match is None or _NO_TABLE.match(step.detail):
            continue
        how, name, alias, index = match.groups()
        if how == "SCAN":
            tables = access.scanned
        else:
            tables = access.indexed_on_the_fly if (index or "").startswith("AUTOMATIC") else access.searched
        if (alias or name) not in tables:
            tables.append(alias or name)
    return access
