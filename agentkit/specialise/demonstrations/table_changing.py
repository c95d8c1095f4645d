"""Scripts that change a database, with the tools of `mcp_servers.sqlite`.

A row is added after the columns were listed, or after the error about a guessed column has listed them.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentkit.specialise.demonstrations.domains import Column
from agentkit.specialise.demonstrations.script import Maker, Script, call, mistake, quoted
from agentkit.specialise.demonstrations.table_results import look
from agentkit.specialise.demonstrations.world import World
from modelstack.data.tools.spoken import Scene, listed

_P_GUESSED_COLUMN = 0.4
"""Probability that a row is first added with a column name that does not exist; the error lists the columns."""


def _insert(world: World, now: Scene) -> Script:
    table = world.domain.tables[0]
    values = {c: _drawn(c, now) for c in table.columns if c.kind != "id"}
    said = listed([f"{column.said} {value}" for column, value in values.items()])
    yield now.one(
        (
            f"add a {table.one}: {said}",
            f"insert a new {table.one} with {said}",
            f"we have a new {table.one}, {said}",
        )
    )
    names = [column.name for column in values]
    written = ", ".join(quoted(value) for value in values.values())
    if not world.known_tables and now.chance(_P_GUESSED_COLUMN):
        wrong = now.one(names)
        guessed = [now.one((f"{table.one}_{name}", f"{name}s")) if name == wrong else name for name in names]
        yield mistake("execute", sql=f"INSERT INTO {table.name} ({', '.join(guessed)}) VALUES ({written})")
    else:
        yield from look(world, now)
    (found,) = yield call("execute", sql=f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({written})")
    if not found.startswith("done: 1"):
        return None
    world.rows[table.name].append((0, *values.values()))
    return now.one(
        (f"The new {table.one} has been added.", f"I have added the {table.one} {next(iter(values.values()))}.")
    )


def _update(world: World, now: Scene) -> Script:
    table = world.domain.tables[0]
    (name,) = table.of_kind("name")
    who = now.one(world.rows[table.name])[table.columns.index(name)]
    column = now.one(table.of_kind("number", "word"))
    value = _drawn(column, now)
    yield now.one(
        (
            f"set the {column.said} of {who} to {value}",
            f"change {who}'s {column.said} to {value}",
            f"the {column.said} of {who} is {value} now, correct it",
        )
    )
    yield from look(world, now, keyword=str(who))
    sql = f"UPDATE {table.name} SET {column.name} = {quoted(value)} WHERE {name.name} = '{who}'"
    (found,) = yield call("execute", sql=sql)
    if not found.startswith("done: 1"):
        return None
    index, at = table.columns.index(column), table.columns.index(name)
    world.rows[table.name] = [
        (*row[:index], value, *row[index + 1 :]) if row[at] == who else row for row in world.rows[table.name]
    ]
    return now.one((f"The {column.said} of {who} is {value} now.", f"I have set it to {value}."))


def _remove(world: World, now: Scene) -> Script:
    table = world.domain.tables[0]
    (name,) = table.of_kind("name")
    at = table.columns.index(name)
    who = now.one(world.rows[table.name])[at]
    yield now.one((f"delete the {table.one} {who}", f"remove {who} from {table.name}"))
    yield from look(world, now, keyword=str(who))
    (found,) = yield call("execute", sql=f"DELETE FROM {table.name} WHERE {name.name} = '{who}'")
    if not found.startswith("done: 1"):
        return None
    world.rows[table.name] = [row for row in world.rows[table.name] if row[at] != who]
    return f"{who} has been removed from {table.name}."


def _new_table(world: World, now: Scene) -> Script:
    name = now.one(("visitors", "tasks", "contacts", "expenses", "tools_lent"))
    columns = now.some(("name", "day", "amount", "note", "place"), now.one((2, 3)))
    yield now.one(
        (
            f"create a table {name} with the columns {listed(columns)}",
            f"make a new table {name}: {listed(columns)}",
        )
    )
    sql = f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, {', '.join(f'{c} TEXT' for c in columns)})"
    (found,) = yield call("execute", sql=sql)
    return f"The table {name} has been created." if found.startswith("done") else None


def _drawn(column: Column, now: Scene) -> str | int:
    if column.kind == "number":
        return now.random.randrange(column.low, column.high)
    if column.kind == "word":
        return now.one(column.words)
    if column.kind == "date":
        return f"2026-{now.random.randrange(1, 13):02}-{now.random.randrange(1, 29):02}"
    return f"{now.one(('New', 'Old', 'Little', 'Grand'))} {now.one(('Harbour', 'Falcon', 'Orchid', 'Comet'))}"


CHANGING: Sequence[Maker] = (_insert, _insert, _update, _update, _remove, _new_table)
