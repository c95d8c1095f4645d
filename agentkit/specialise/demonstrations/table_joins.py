"""Scripts for questions over two tables, a parent and its children."""

from __future__ import annotations

from agentkit.specialise.demonstrations.script import Script, call, mistake, several
from agentkit.specialise.demonstrations.table_results import look, rows_of, short_number
from agentkit.specialise.demonstrations.world import World
from modelstack.data.tools.spoken import Scene, listed


def joined(world: World, now: Scene) -> Script:
    """Asks about the child rows of a named parent row."""
    parent, child = world.domain.tables
    (name,), key = parent.of_kind("name"), child.of_kind("key")[0]
    who = now.one(world.rows[parent.name])[parent.columns.index(name)]
    joined = (
        f"FROM {child.name} JOIN {parent.name} ON {parent.name}.id = {child.name}.{key.name} "
        f"WHERE {parent.name}.{name.name} = '{who}'"
    )
    numbers = child.of_kind("number")
    if numbers and now.chance(0.5):
        column = now.one(numbers)
        word, function = now.one((("total", "SUM"), ("average", "AVG"), ("highest", "MAX")))
        yield f"what is the {word} {column.said} of the {child.many} {world.domain.belongs} {who}?"
        yield from look(world, now, keyword=str(who))
        (found,) = yield call("query", sql=f"SELECT {function}({child.name}.{column.name}) {joined}")
        value = rows_of(found)[0][0]
        if value == "NULL":
            return f"{who} has no {child.many}."
        return f"The {word} {column.said} of {who}'s {child.many} is {short_number(value)}."
    yield now.one(
        (
            f"how many {child.many} {world.domain.belongs} {who} are there?",
            f"how many {child.many} does {who} have?",
        )
    )
    yield from look(world, now, keyword=str(who))
    (found,) = yield call("query", sql=f"SELECT COUNT(*) {joined}")
    n = int(rows_of(found)[0][0])
    return f"{who} has {n} {several(n, child.one, child.many)}."


def extreme_and_owner(world: World, now: Scene) -> Script:
    """Asks for the extreme of a child's numbers and its parent, which requires both tables."""
    parent, child = world.domain.tables
    (name,), key, numbers = parent.of_kind("name"), child.of_kind("key")[0], child.of_kind("number")
    if not numbers:
        return None
    column = now.one(numbers)
    at = child.columns.index(column)
    values = [int(str(row[at])) for row in world.rows[child.name]]
    word, order, pick = now.one((("highest", "DESC", max), ("biggest", "DESC", max), ("lowest", "ASC", min)))
    if values.count(pick(values)) != 1:
        return None
    yield now.one(
        (
            f"which {parent.one} has the {child.one} with the {word} {column.said}, and how much is it?",
            f"what is the {word} {column.said} of all {child.many}, and which {parent.one} is it of?",
            f"{word} {column.said} of a {child.one}, and the {parent.one}?",
        )
    )
    yield from look(world, now, keyword=child.many)
    if now.chance(0.3):
        yield mistake(
            "query", sql=f"SELECT {name.name}, {column.name} FROM {child.name} ORDER BY {column.name} {order}"
        )
    (found,) = yield call(
        "query",
        sql=f"SELECT {parent.name}.{name.name}, {child.name}.{column.name} FROM {child.name} "
        f"JOIN {parent.name} ON {parent.name}.id = {child.name}.{key.name} "
        f"ORDER BY {child.name}.{column.name} {order} LIMIT 1",
    )
    who, value = rows_of(found)[0]
    return f"{who} has the {word} {column.said}, {value}."


def without(world: World, now: Scene) -> Script:
    """Asks for the rows of a table without rows in the other."""
    parent, child = world.domain.tables
    (name,), key = parent.of_kind("name"), child.of_kind("key")[0]
    yield now.one(
        (
            f"which {parent.many} have no {child.many}?",
            f"are there {parent.many} without any {child.one}?",
            f"{parent.many} without {child.many}?",
        )
    )
    yield from look(world, now, keyword=child.many)
    (found,) = yield call(
        "query",
        sql=f"SELECT {name.name} FROM {parent.name} WHERE id NOT IN (SELECT {key.name} FROM {child.name})",
    )
    if found.strip() == "no rows":
        return f"Every {parent.one} has at least one {child.one}."
    without = [row[0] for row in rows_of(found)]
    return f"{listed(without)} {'has' if len(without) == 1 else 'have'} no {child.many}."


def most(world: World, now: Scene) -> Script:
    """Asks for the parent with the most children."""
    parent, child = world.domain.tables
    (name,), key = parent.of_kind("name"), child.of_kind("key")[0]
    owners = [row[child.columns.index(key)] for row in world.rows[child.name]]
    counts = sorted((owners.count(owner) for owner in set(owners)), reverse=True)
    if len(counts) > 1 and counts[0] == counts[1]:
        return None
    yield now.one(
        (
            f"which {parent.one} has the most {child.many}?",
            f"what {parent.one} comes first by number of {child.many}?",
        )
    )
    yield from look(world, now, keyword=child.many)
    sql = (
        f"SELECT {parent.name}.{name.name}, COUNT(*) FROM {child.name} JOIN {parent.name} ON "
        f"{parent.name}.id = {child.name}.{key.name} GROUP BY {parent.name}.id ORDER BY COUNT(*) DESC LIMIT 1"
    )
    (found,) = yield call("query", sql=sql)
    who, n = rows_of(found)[0]
    return f"{who} has the most {child.many}, {n}."
