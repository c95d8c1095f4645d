"""SQL statements with requests for them: SQL is the one kind of argument that users do not type literally.

Tables and columns are those named by the server. A statement and its request are made together, so the pair is
right by construction, as all values are (`modelstack.data.tools.spoken`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from agentkit.specialise.live import LiveTool
from modelstack.data.tools.apis import label_of
from modelstack.data.tools.clauses import Clause, Mood
from modelstack.data.tools.kinds import words
from modelstack.data.tools.spoken import Scene

_NAME = re.compile(r"[A-Za-z_]\w*")
_LABELS = ("sql", "query", "statement")

Statement = tuple[str, Mood, str]
"""Request, its mood, and the statement."""


def sql_parameter(tool: LiveTool) -> str | None:
    """Return the name of the parameter that takes SQL, or None."""
    for name, schema in tool.properties.items():
        about = f"{schema.get('description', '')} {tool.shown.description}"
        if label_of(name).split()[-1:] and label_of(name).split()[-1] in _LABELS and re.search(r"\bSQL\b", about):
            return name
    return None


def writes(tool: LiveTool) -> bool:
    """Return whether a tool's SQL changes data instead of reading it."""
    told = f"{tool.shown.description} {tool.properties}"
    return bool(re.search(r"\b(?:INSERT|UPDATE|DELETE)\b", told)) and "SELECT" not in told


def ask_in_words(tool: LiveTool, tables: Mapping[str, Sequence[str]], now: Scene) -> Clause | None:
    """Return a clause that asks for one statement; None if no table is known."""
    parameter = sql_parameter(tool)
    plain = {t: [c for c in columns if _NAME.fullmatch(c)] for t, columns in tables.items() if _NAME.fullmatch(t)}
    usable = [(table, columns) for table, columns in plain.items() if columns]
    if parameter is None or not usable:
        return None
    table, columns = now.one(usable)
    said, mood, sql = now.one(_CHANGES if writes(tool) else _READS)(table, columns, now)
    if now.chance(0.12):
        said, mood = f"run {sql}", "order"
    return Clause(said, mood, ((tool.name, {parameter: sql}),), ("sql",))


def _count(table: str, columns: Sequence[str], now: Scene) -> Statement:
    said = now.one((f"how many rows does {table} have?", f"how many {_things(table)} are there?",
                    f"count the {_things(table)}", f"how many entries are in the table {table}?"))  # fmt: skip
    return said, "question" if said.endswith("?") else "order", f"SELECT COUNT(*) FROM {table}"


def _first(table: str, columns: Sequence[str], now: Scene) -> Statement:
    n = now.random.randrange(2, 30)
    said = now.one((f"show me {n} rows of {table}", f"give me the first {n} {_things(table)}",
                    f"list {n} {_things(table)}"))  # fmt: skip
    return said, "order", f"SELECT * FROM {table} LIMIT {n}"


def _column(table: str, columns: Sequence[str], now: Scene) -> Statement:
    column = now.one(columns)
    said = now.one((f"list the {_said(column)} of all {_things(table)}", f"show every {_said(column)} in {table}",
                    f"get the column {column} of {table}"))  # fmt: skip
    return said, "order", f"SELECT {column} FROM {table}"


def _where(table: str, columns: Sequence[str], now: Scene) -> Statement:
    column, value = now.one(columns), _value(now)
    said = now.one((f'which {_things(table)} have the {_said(column)} "{value}"?',
                    f'find the {_things(table)} whose {_said(column)} is "{value}"'))  # fmt: skip
    return (
        said,
        "question" if said.endswith("?") else "order",
        f"SELECT * FROM {table} WHERE {column} = '{value}'",
    )


def _highest(table: str, columns: Sequence[str], now: Scene) -> Statement:
    column, word, order = (
        now.one(columns),
        *now.one((("highest", "DESC"), ("lowest", "ASC"), ("largest", "DESC"))),
    )
    said = now.one((f"which of the {_things(table)} has the {word} {_said(column)}?",
                    f"show the row of {table} with the {word} {_said(column)}"))  # fmt: skip
    mood: Mood = "question" if said.endswith("?") else "order"
    return said, mood, f"SELECT * FROM {table} ORDER BY {column} {order} LIMIT 1"


def _grouped(table: str, columns: Sequence[str], now: Scene) -> Statement:
    column = now.one(columns)
    said = now.one((f"count the {_things(table)} for each {_said(column)}",
                    f"how many {_things(table)} are there per {_said(column)}?"))  # fmt: skip
    mood: Mood = "question" if said.endswith("?") else "order"
    return said, mood, f"SELECT {column}, COUNT(*) FROM {table} GROUP BY {column}"


def _total(table: str, columns: Sequence[str], now: Scene) -> Statement:
    column, (word, function) = now.one(columns), now.one((("average", "AVG"), ("total", "SUM")))
    said = f"what is the {word} {_said(column)} in {table}?"
    return said, "question", f"SELECT {function}({column}) FROM {table}"


def _remove(table: str, columns: Sequence[str], now: Scene) -> Statement:
    column, n = columns[0], now.random.randrange(2, 400)
    said = now.one(("delete", "remove")) + f" the row of {table} with {_said(column)} {n}"
    return said, "order", f"DELETE FROM {table} WHERE {column} = {n}"


def _set(table: str, columns: Sequence[str], now: Scene) -> Statement:
    key, column, n, value = columns[0], now.one(columns[1:] or columns), now.random.randrange(2, 400), _value(now)
    said = f'set the {_said(column)} to "{value}" in {table} where the {_said(key)} is {n}'
    return said, "order", f"UPDATE {table} SET {column} = '{value}' WHERE {key} = {n}"


def _insert(table: str, columns: Sequence[str], now: Scene) -> Statement:
    column, value = now.one(columns[1:] or columns), _value(now)
    said = now.one(("add a row to", "insert a row into")) + f' {table} with the {_said(column)} "{value}"'
    return said, "order", f"INSERT INTO {table} ({column}) VALUES ('{value}')"


_Maker = Callable[[str, Sequence[str], Scene], Statement]
_READS: tuple[_Maker, ...] = (_count, _first, _column, _where, _highest, _grouped, _total)
_CHANGES: tuple[_Maker, ...] = (_remove, _set, _insert)


def _things(table: str) -> str:
    return label_of(table)


def _said(column: str) -> str:
    return label_of(column) if len(column) > 2 else column


def _value(now: Scene) -> str:
    said = now.one(words(now.one(("city", "first_name", "company", "colour"))))[0]
    return said.replace("'", " ").replace('"', " ")
