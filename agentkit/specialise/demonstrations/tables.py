"""Scripts for a database, with the tools of `mcp_servers.sqlite`.

If the table's columns are unknown, the script lists them before it writes SQL; after a wrong name it corrects the
statement.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentkit.specialise.demonstrations import table_joins
from agentkit.specialise.demonstrations.domains import Table
from agentkit.specialise.demonstrations.script import (
    Maker,
    Script,
    call,
    count,
    mistake,
    sentence,
    several,
)
from agentkit.specialise.demonstrations.table_results import MOST_SHOWN, look, rows_of, short_number
from agentkit.specialise.demonstrations.world import World
from modelstack.data.tools.spoken import Scene, listed

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def _tables(world: World, now: Scene) -> Script:
    yield now.one(
        (
            "which tables are there?",
            "what tables does the database have?",
            "show me the tables",
            "how many tables are in the database?",
            "what's in the database?",
        )
    )
    yield call("list_tables")
    world.known_tables = True
    names = sorted(table.name for table in world.tables)
    return now.one(
        (f"There are {count(now, len(names))} tables: {listed(names)}.", f"The tables are {listed(names)}.")
    )


def _columns(world: World, now: Scene) -> Script:
    table = now.one(world.tables)
    yield now.one(
        (
            f"which columns has the table {table.name}?",
            f"what columns does {table.name} have?",
            f"describe {table.name}",
            f"what are the fields of {table.name}?",
            f"which fields does a {table.one} have in the database?",
            f"list all columns of {table.name}",
            f"how is the table {table.name} built?",
        )
    )
    yield call("describe_table", table=table.name)
    names = [column.name for column in table.columns]
    return now.one(
        (
            f"{table.name} has the columns {listed(names)}.",
            f"The columns of {table.name} are {listed(names)}.",
            f"The table {table.name} has {len(names)} columns: {listed(names)}.",
            f"The {len(names)} columns of {table.name}: {listed(names)}.",
        )
    )


def _count_rows(world: World, now: Scene) -> Script:
    table = world.table(now)
    is_named = now.chance(0.4)
    named = (f"number of rows in {table.name}?", f"how many entries does the table {table.name} have?")
    meant = (f"how many {table.many} are there?", f"how many {table.many} do we have?", f"count the {table.many}")
    yield now.one(named if is_named else meant)
    if is_named:
        yield from look(world, now, p_skip=0.6)
    else:
        yield from look(world, now, keyword=table.many)
    (found,) = yield call("query", sql=f"SELECT COUNT(*) FROM {table.name}")
    n = int(rows_of(found)[0][0])
    verb = "is" if n == 1 else "are"
    return now.one(
        (f"There {verb} {n} {several(n, table.one, table.many)}.", f"{table.name} has {n} {several(n, 'row')}.")
    )


def _filtered(world: World, now: Scene) -> Script:
    table = world.table(now)
    words = table.of_kind("word")
    if not words:
        return None
    column = now.one(words)
    value = now.one(column.words)
    names = table.of_kind("name")
    if names and now.chance(0.6):
        yield now.one(
            (
                f"which {table.many} have the {column.said} {value}?",
                f"list the {table.many} whose {column.said} is {value}",
                f"show me all {table.many} with {column.said} {value}",
            )
        )
        yield from look(world, now, keyword=table.many)
        (found,) = yield call(
            "query", sql=f"SELECT {names[0].name} FROM {table.name} WHERE {column.name} = '{value}'"
        )
        if found.strip() == "no rows":
            return f"No {table.one} has the {column.said} {value}."
        shown = [row[0] for row in rows_of(found)]
        if len(shown) > MOST_SHOWN:
            return None
        if len(shown) == 1:
            return f"One {table.one} has the {column.said} {value}: {shown[0]}."
        return sentence(f"{count(now, len(shown))} {table.many} have the {column.said} {value}: {listed(shown)}.")
    yield now.one(
        (
            f"how many {table.many} have the {column.said} {value}?",
            f"count the {table.many} with {column.said} {value}",
        )
    )
    yield from look(world, now, keyword=table.many)
    (found,) = yield call("query", sql=f"SELECT COUNT(*) FROM {table.name} WHERE {column.name} = '{value}'")
    n = int(rows_of(found)[0][0])
    return f"{n} {several(n, table.one, table.many)} {'has' if n == 1 else 'have'} the {column.said} {value}."


def _beyond_number(world: World, now: Scene) -> Script:
    table = world.table(now)
    numbers = table.of_kind("number")
    if not numbers:
        return None
    column = now.one(numbers)
    limit = now.random.randrange(column.low + 1, column.high)
    word, sign = now.one(
        (("more than", ">"), ("less than", "<"), ("at least", ">="), ("over", ">"), ("under", "<"))
    )
    yield now.one(
        (
            f"how many {table.many} have {word} {limit} {column.said}?",
            f"count the {table.many} with a {column.said} of {word} {limit}",
        )
    )
    yield from look(world, now, keyword=table.many)
    (found,) = yield call("query", sql=f"SELECT COUNT(*) FROM {table.name} WHERE {column.name} {sign} {limit}")
    n = int(rows_of(found)[0][0])
    return f"{n} {several(n, table.one, table.many)} {'has' if n == 1 else 'have'} {word} {limit} {column.said}."


def _one_value(world: World, now: Scene) -> Script:
    table = world.domain.tables[0]
    (name,) = table.of_kind("name")
    at = table.columns.index(name)
    row = now.one(world.rows[table.name])
    others = [column for column in table.columns if column.kind in ("number", "word", "date")]
    column = now.one(others)
    who = row[at]
    yield now.one(
        (
            f"what is the {column.said} of {who}?",
            f"{who}: what {column.said}?",
            f"tell me the {column.said} of the {table.one} {who}",
            f"which {column.said} does {who} have?",
        )
    )
    yield from look(world, now, keyword=str(who))
    (found,) = yield call("query", sql=f"SELECT {column.name} FROM {table.name} WHERE {name.name} = '{who}'")
    rows = rows_of(found)
    if len(rows) != 1:
        return None
    return now.one((f"The {column.said} of {who} is {rows[0][0]}.", f"{who} has the {column.said} {rows[0][0]}."))


def _extreme(world: World, now: Scene) -> Script:
    table = world.table(now)
    numbers, names = table.of_kind("number"), table.of_kind("name")
    if not numbers:
        return None
    column = now.one(numbers)
    word, order = now.one((("highest", "DESC"), ("lowest", "ASC"), ("largest", "DESC"), ("smallest", "ASC")))
    if not names:
        function = "MAX" if order == "DESC" else "MIN"
        yield f"what is the {word} {column.said} of all {table.many}?"
        yield from look(world, now, keyword=table.many)
        (found,) = yield call("query", sql=f"SELECT {function}({column.name}) FROM {table.name}")
        return f"The {word} {column.said} is {rows_of(found)[0][0]}."
    values = [row[table.columns.index(column)] for row in world.rows[table.name]]
    best = (max if order == "DESC" else min)(int(str(value)) for value in values)
    if values.count(best) > 1:
        return None
    yield now.one(
        (
            f"which {table.one} has the {word} {column.said}?",
            f"what's the {table.one} with the {word} {column.said}?",
        )
    )
    yield from look(world, now, keyword=table.many)
    sql = f"SELECT {names[0].name}, {column.name} FROM {table.name} ORDER BY {column.name} {order} LIMIT 1"
    (found,) = yield call("query", sql=sql)
    who, value = rows_of(found)[0]
    return now.one(
        (
            f"{who} has the {word} {column.said}, {value}.",
            f"The {table.one} with the {word} {column.said} is {who} ({value}).",
        )
    )


def _top(world: World, now: Scene) -> Script:
    table = world.domain.tables[0]
    numbers, (name,) = table.of_kind("number"), table.of_kind("name")
    column, n = now.one(numbers), now.one((2, 3, 3, 5))
    values = [row[table.columns.index(column)] for row in world.rows[table.name]]
    if len(set(values)) < len(values) or len(values) < n:
        return None
    word, order = now.one((("highest", "DESC"), ("lowest", "ASC")))
    yield now.one(
        (
            f"show the {n} {table.many} with the {word} {column.said}",
            f"top {n} {table.many} by {word} {column.said}",
        )
    )
    yield from look(world, now, keyword=table.many)
    sql = f"SELECT {name.name}, {column.name} FROM {table.name} ORDER BY {column.name} {order} LIMIT {n}"
    (found,) = yield call("query", sql=sql)
    return f"They are {listed([f'{who} ({value})' for who, value in rows_of(found)])}."


def _total(world: World, now: Scene) -> Script:
    table = world.table(now)
    numbers = table.of_kind("number")
    if not numbers:
        return None
    column, (word, function) = (
        now.one(numbers),
        now.one((("average", "AVG"), ("total", "SUM"), ("sum of the", "SUM"))),
    )
    yield now.one(
        (f"what is the {word} {column.said} of all {table.many}?", f"{word} {column.said} in {table.name}?")
    )
    yield from look(world, now, keyword=table.many)
    (found,) = yield call("query", sql=f"SELECT {function}({column.name}) FROM {table.name}")
    return f"The {word} {column.said} is {short_number(rows_of(found)[0][0])}."


def _grouped(world: World, now: Scene) -> Script:
    table = world.table(now)
    words = [column for column in table.of_kind("word") if len(column.words) <= 6]
    if not words:
        return None
    column = now.one(words)
    yield now.one(
        (
            f"how many {table.many} are there per {column.said}?",
            f"count the {table.many} by {column.said}",
            f"for each {column.said}, how many {table.many}?",
        )
    )
    yield from look(world, now, keyword=table.many)
    sql = f"SELECT {column.name}, COUNT(*) FROM {table.name} GROUP BY {column.name}"
    (found,) = yield call("query", sql=sql)
    return f"By {column.said}: {listed([f'{value} {n}' for value, n in rows_of(found)])}."


def _wrong_name(world: World, now: Scene) -> Script:
    """Guesses a column, gets an error, and corrects the statement."""
    table = world.table(now)
    column = now.one(table.of_kind("number", "word") or list(table.columns))
    wrong = now.one((f"{table.one}_{column.name}", f"{column.name}s", f"the_{column.name}"))
    yield f"show the {column.said} of every {table.one}"
    yield mistake("query", sql=f"SELECT {wrong} FROM {table.name}")
    if not world.known_tables:
        yield call("describe_table", table=table.name)
    (found,) = yield call("query", sql=f"SELECT {column.name} FROM {table.name}")
    values = [row[0] for row in rows_of(found)]
    if len(values) > MOST_SHOWN:
        return None
    return f"The values of {column.name} are {listed(values)}."


def _newest(world: World, now: Scene) -> Script:
    table = world.table(now)
    dates = table.of_kind("date")
    if not dates:
        return None
    column = now.one(dates)
    word, order = now.one((("latest", "DESC"), ("earliest", "ASC")))
    function = "MAX" if order == "DESC" else "MIN"
    yield f"what is the {word} {column.said} in {table.name}?"
    yield from look(world, now)
    (found,) = yield call("query", sql=f"SELECT {function}({column.name}) FROM {table.name}")
    return f"The {word} {column.said} is {rows_of(found)[0][0]}."


def _listed_beyond(world: World, now: Scene) -> Script:
    table = world.domain.tables[0]
    (name,), column = table.of_kind("name"), now.one(table.of_kind("number"))
    limit = now.random.randrange(column.low + 1, column.high)
    word, sign = now.one((("more than", ">"), ("less than", "<"), ("over", ">"), ("under", "<")))
    yield now.one(
        (
            f"which {table.many} have {word} {limit} {column.said}?",
            f"list the {table.many} with a {column.said} {'above' if sign == '>' else 'below'} {limit}",
        )
    )
    yield from look(world, now, keyword=table.many)
    sql = f"SELECT {name.name}, {column.name} FROM {table.name} WHERE {column.name} {sign} {limit}"
    (found,) = yield call("query", sql=sql)
    if found.strip() == "no rows":
        return f"No {table.one} has {word} {limit} {column.said}."
    rows = rows_of(found)
    return f"{listed([f'{who} ({value})' for who, value in rows])}." if len(rows) <= MOST_SHOWN else None


def _in_month(world: World, now: Scene) -> Script:
    table = world.table(now)
    dates = table.of_kind("date")
    if not dates:
        return None
    column = now.one(dates)
    month = now.random.randrange(1, 13)
    said = f"{_MONTHS[month - 1]} 2025"
    yield now.one((f"how many {table.many} have a {column.said} in {said}?", f"count the {table.many} of {said}"))
    yield from look(world, now)
    sql = f"SELECT COUNT(*) FROM {table.name} WHERE {column.name} LIKE '2025-{month:02}-%'"
    (found,) = yield call("query", sql=sql)
    n = int(rows_of(found)[0][0])
    return f"There {'is' if n == 1 else 'are'} {n} {several(n, table.one, table.many)} in {said}."


def _top_group(world: World, now: Scene) -> Script:
    """Asks for the word of a column with the highest sum."""
    table = world.table(now)
    words, numbers = table.of_kind("word"), table.of_kind("number")
    if not words or not numbers:
        return None
    column, number = now.one(words), now.one(numbers)
    yield now.one(
        (
            f"which {column.said} has the highest total {number.said}?",
            f"what {column.said} brings the most {number.said} in {table.name}?",
        )
    )
    yield from look(world, now, keyword=table.many)
    sql = (
        f"SELECT {column.name}, SUM({number.name}) FROM {table.name} GROUP BY {column.name} "
        f"ORDER BY SUM({number.name}) DESC LIMIT 1"
    )
    (found,) = yield call("query", sql=sql)
    value, total = rows_of(found)[0]
    return f"{sentence(value)} has the highest total {number.said}, {short_number(total)}."


def _distinct(world: World, now: Scene) -> Script:
    table = world.table(now)
    words = table.of_kind("word")
    if not words:
        return None
    column = now.one(words)
    yield now.one(
        (
            f"which {column.said} values are there in {table.name}?",
            f"what kinds of {column.said} do the {table.many} have?",
        )
    )
    yield from look(world, now, keyword=table.many)
    (found,) = yield call("query", sql=f"SELECT DISTINCT {column.name} FROM {table.name}")
    return f"There are {listed([row[0] for row in rows_of(found)])}."


READING: Sequence[Maker] = (
    _tables,
    _columns,
    _columns,
    _count_rows,
    _count_rows,
    _filtered,
    _filtered,
    _beyond_number,
    _one_value,
    _one_value,
    _extreme,
    _extreme,
    _top,
    _total,
    _grouped,
    table_joins.joined,
    table_joins.joined,
    table_joins.extreme_and_owner,
    table_joins.extreme_and_owner,
    table_joins.without,
    table_joins.most,
    _wrong_name,
    _newest,
    _listed_beyond,
    _listed_beyond,
    _in_month,
    _top_group,
    _distinct,
)
UNPLACED: Sequence[Maker] = (_one_value, _extreme, table_joins.joined)
"""Requests for rows that do not mention a database."""


def table_fact(world: World, now: Scene) -> tuple[str, str, Table] | None:
    """Return a number that a statement computes: its words, the statement, the table."""
    table = world.table(now)
    numbers = table.of_kind("number")
    if not numbers:
        return f"the number of {table.many}", f"SELECT COUNT(*) FROM {table.name}", table
    column = now.one(numbers)
    word, function = now.one((("highest", "MAX"), ("total", "SUM"), ("lowest", "MIN")))
    return (
        f"the {word} {column.said} of the {table.many}",
        f"SELECT {function}({column.name}) FROM {table.name}",
        table,
    )
