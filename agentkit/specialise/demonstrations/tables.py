"""Scripts for a database, with the tools of `mcp_servers.sqlite`.

If the table's columns are unknown, the script lists them before it writes SQL; after a wrong name it corrects the
statement.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from agentkit.specialise.demonstrations.domains import Column, Table
from agentkit.specialise.demonstrations.script import (
    Maker,
    Script,
    Step,
    call,
    count,
    detour,
    mistake,
    quoted,
    search,
    sentence,
    several,
)
from agentkit.specialise.demonstrations.world import World
from modelstack.sft.tool_data.spoken import Scene, listed

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
MOST_SHOWN = 12
"""Maximum number of rows listed in an answer."""
_P_GUESSED_COLUMN = 0.4
"""Probability that a row is first added with a column name that does not exist; the error lists the columns."""
_P_SEARCH_FIRST = 0.2
"""Probability that only the files are searched first; that step is shown, not trained on."""


def look(
    world: World, now: Scene, p_skip: float = 0.0, *, keyword: str = ""
) -> Generator[Step, Sequence[str], None]:
    """List the tables unless the conversation has shown them.

    Args:
        world: The conversation's world; its servers decide whether files exist as well.
        now: Source of random draws.
        p_skip: Probability of not looking.
        keyword: A word of the request that could also occur in a file; one reply then looks into both places.
    """
    if world.known_tables or now.chance(p_skip):
        return
    is_both = "files" in world.servers and keyword
    if is_both and not now.chance(_P_SEARCH_FIRST):
        yield from search(world, keyword)
        return
    if is_both:
        yield detour("search_text", text=keyword)
    yield call("list_tables")
    world.known_tables = True


def rows_of(found: str) -> list[list[str]]:
    """Return the rows of a result without its heading."""
    return [line.split(" | ") for line in found.splitlines()[1:]]


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
    return f"The {word} {column.said} is {_short(rows_of(found)[0][0])}."


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


def _joined(world: World, now: Scene) -> Script:
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
        return f"The {word} {column.said} of {who}'s {child.many} is {_short(value)}."
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


def _extreme_and_owner(world: World, now: Scene) -> Script:
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


def _without(world: World, now: Scene) -> Script:
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


def _most(world: World, now: Scene) -> Script:
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
    return f"{sentence(value)} has the highest total {number.said}, {_short(total)}."


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


def _short(value: str) -> str:
    """Return a number with at most two decimals."""
    number = float(value)
    return str(int(number)) if number.is_integer() else f"{number:.2f}"


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
    _joined,
    _joined,
    _extreme_and_owner,
    _extreme_and_owner,
    _without,
    _most,
    _wrong_name,
    _newest,
    _listed_beyond,
    _listed_beyond,
    _in_month,
    _top_group,
    _distinct,
)
UNPLACED: Sequence[Maker] = (_one_value, _extreme, _joined)
"""Requests for rows that do not mention a database."""
CHANGING: Sequence[Maker] = (_insert, _insert, _update, _update, _remove, _new_table)


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
