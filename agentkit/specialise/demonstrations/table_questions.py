"""Natural-language questions over a database, with their statements and answers.

`table_questions.toml` holds them by domain. A question is asked only if the world's rows give it one answer: no
tie for "the most", no list that is too long to read out, no empty result without an answer text for it.
"""

from __future__ import annotations

import re
import sqlite3
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files

from agentkit.specialise.demonstrations.domains import Column
from agentkit.specialise.demonstrations.script import Maker, Script, call, sentence
from agentkit.specialise.demonstrations.table_results import MOST_SHOWN, look, rows_of
from agentkit.specialise.demonstrations.world import World
from modelstack.data.tools.spoken import Scene, listed

_BLANK = re.compile(r"\{(name|other|(?:word2?|number|date|from|to|month|year):\w+\.\w+)\}")
"""A placeholder for a value drawn from the world."""
_CELL = re.compile(r"\{(\d+|n|rows)(?:\|([^|}]*)\|([^|}]*))?\}")
"""A placeholder in an answer: a cell of the first row, or a choice between singular and plural words."""
_LIMIT = re.compile(r" LIMIT (\d+)(?: OFFSET (\d+))?$")
_N_TRIES = 20
"""Maximum questions drawn before a world is given up."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A question with placeholders."""

    ask: tuple[str, ...]
    sql: str
    """Statement; with LIMIT, its last column must be the sort key."""
    answer: tuple[str, ...]
    none: str = ""
    """Answer for no rows, NULL or a count of 0; empty: the question is not asked in that case."""

    @property
    def blanks(self) -> set[str]:
        """Placeholders of the statement, filled from the world."""
        return set(_BLANK.findall(self.sql))


@dataclass(frozen=True, slots=True)
class Filled:
    """A question about one world."""

    request: str
    sql: str
    answer: str
    none: str


@cache
def entries() -> Mapping[str, Sequence[Entry]]:
    """Return all questions by the parent table of their domain."""
    text = files("agentkit.specialise.demonstrations").joinpath("table_questions.toml").read_text(encoding="utf-8")
    return {
        parent: [
            Entry(tuple(one["ask"]), one["sql"], tuple(one["answer"]), one.get("none", "")) for one in several
        ]
        for parent, several in tomllib.loads(text).items()
    }


def fill(entry: Entry, world: World, now: Scene) -> Filled | None:
    """Return a question with values drawn from the world; None if there is no value to draw."""
    drawn: dict[str, tuple[str, str]] = {}
    says_iso = now.chance(0.4)
    for blank in sorted(entry.blanks):  # "from" before "to", "name" before "other", "word" before "word2"
        value = _drawn(blank, drawn, world, now)
        if value is None:
            return None
        drawn[blank] = value, _spoken(blank, value, says_iso)
    written = {blank: value.replace("'", "''") for blank, (value, _) in drawn.items()}
    said = {blank: said for blank, (_, said) in drawn.items()}
    return Filled(
        _put(now.one(entry.ask), said),
        _put(entry.sql, written),
        _put(now.one(entry.answer), said),
        _put(entry.none, said),
    )


def answered(question: Filled, rows: Sequence[Sequence[str]]) -> str | None:
    """Return the answer for a result; None if the question has no words for it."""
    if _is_nothing(question, rows):
        return sentence(question.none) if question.none else None
    if len(rows) > MOST_SHOWN or (len(rows) > 1 and "{rows}" not in question.answer):
        return None
    shown = [[_short(cell) for cell in row] for row in rows]
    lines = [first + (f" ({', '.join(rest)})" if rest else "") for first, *rest in shown]
    parts = dict(enumerate(shown[0]))

    def part(found: re.Match[str]) -> str:
        what, one, several = found.groups()
        value = {"n": str(len(rows)), "rows": listed(lines)}.get(what) or parts[int(what)]
        return value if one is None else one if value == "1" else several

    return sentence(_CELL.sub(part, question.answer))


def rows_in(world: World, sql: str) -> list[list[str]]:
    """Return the rows of a statement in the server's format, computed from the world's own rows."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for table in world.domain.tables:
            connection.execute(table.sql)
            marks = ", ".join("?" for _ in table.columns)
            # Rows added by the conversation have the number 0; the database assigns their ids.
            rows = [(row[0] or None, *row[1:]) for row in world.rows[table.name]]
            connection.executemany(f"INSERT INTO {table.name} VALUES ({marks})", rows)
        return [
            ["NULL" if cell is None else str(cell) for cell in row] for row in connection.execute(sql).fetchall()
        ]


def is_sound(question: Filled, world: World) -> bool:
    """Return whether the world's rows give the question one answer."""
    limit = _LIMIT.search(question.sql)
    if limit:
        n_rows = int(limit[1]) + int(limit[2] or 0)
        rivals = [row[-1] for row in rows_in(world, question.sql[: limit.start()])[: n_rows + 1]]
        if len(set(rivals)) < len(rivals):
            return False
    return answered(question, rows_in(world, question.sql)) is not None


def _ask(world: World, now: Scene) -> Script:
    several = entries()[world.domain.tables[0].name]
    drawn = (fill(now.one(several), world, now) for _ in range(_N_TRIES))
    question = next((one for one in drawn if one is not None and is_sound(one, world)), None)
    if question is None:
        return None
    yield question.request
    yield from look(world, now, keyword=_keyword(question.request, world))
    (found,) = yield call("query", sql=question.sql)
    return answered(question, rows_of(found))


def _keyword(request: str, world: World) -> str:
    """Return a plausible search word: a name of the parent table, else a noun for the rows."""
    parent, child = world.domain.tables
    names = _values(world, parent.name, parent.of_kind("name")[0])
    words = (*names, child.many, child.one, parent.many, parent.one)
    return next((word for word in words if word in request), parent.many)


QUESTIONS: Sequence[Maker] = (_ask,)


def _is_nothing(question: Filled, rows: Sequence[Sequence[str]]) -> bool:
    if len(rows) != 1:
        return not rows
    return rows[0][0] == "NULL" or (rows[0][0] == "0" and question.sql.startswith("SELECT COUNT("))


def _drawn(blank: str, drawn: Mapping[str, tuple[str, str]], world: World, now: Scene) -> str | None:
    """Return a value in the form of the statement."""
    kind, _, place = blank.partition(":")
    if kind in ("name", "other"):
        parent = world.domain.tables[0]
        names = _values(world, parent.name, parent.of_kind("name")[0])
        free = [name for name in names if names.count(name) == 1 and name != drawn.get("name", ("",))[0]]
        return now.one(free) if free else None
    table_name, _, column_name = place.partition(".")
    table = next(table for table in world.domain.tables if table.name == table_name)
    column = next(column for column in table.columns if column.name == column_name)
    values = _values(world, table_name, column)
    if kind in ("word", "word2"):
        first = drawn.get(f"word:{place}", ("",))[0]
        stock = values if now.chance(0.8) else list(column.words)
        free = [word for word in stock if kind == "word" or word != first]
        return now.one(free) if free else None
    if kind == "number":
        return str(_number(column, now))
    days = sorted(day for day in values if day > drawn.get(f"from:{place}", ("",))[0])
    if not days:
        return None
    if kind == "from":
        return now.one(days[: len(days) * 2 // 3 + 1])
    day = now.one(days)
    return {"month": day[:7], "year": day[:4]}.get(kind, day)


def _values(world: World, table_name: str, column: Column) -> list[str]:
    """Return a column of the world's rows."""
    table = next(table for table in world.domain.tables if table.name == table_name)
    at = table.columns.index(column)
    return [str(row[at]) for row in world.rows[table_name]]


def _number(column: Column, now: Scene) -> int:
    """Return a number inside a column's range, usually a round one."""
    number = now.random.randrange(column.low + 1, column.high)
    step = 10 ** max(0, len(str(column.high - column.low)) - 2)
    rounded = number // step * step
    return rounded if rounded > column.low and now.chance(0.7) else number


def _spoken(blank: str, value: str, says_iso: bool) -> str:
    """Return a drawn value as people type it: months by name, days by name or as 2025-03-01."""
    kind = blank.partition(":")[0]
    if kind == "month":
        return f"{date.fromisoformat(f'{value}-01'):%B %Y}"
    if kind in ("date", "from", "to") and not says_iso:
        day = date.fromisoformat(value)
        return f"{day.day} {day:%B %Y}"
    return value


def _put(text: str, values: Mapping[str, str]) -> str:
    return _BLANK.sub(lambda found: values[found[1]], text)


def _short(cell: str) -> str:
    """Return a cell for a sentence: 12 instead of 12.0."""
    return cell.removesuffix(".0") if re.fullmatch(r"-?\d+\.\d+", cell) else cell
