"""Scripts for time, dates, units and sums, with the tools of `mcp_servers.time`, and tasks of several servers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

from agentkit.specialise.demonstrations.script import Maker, Script, call, calls, mistake, sentence, several
from agentkit.specialise.demonstrations.table_results import rows_of
from agentkit.specialise.demonstrations.tables import table_fact
from agentkit.specialise.demonstrations.world import World
from modelstack.data.tools.spoken import Scene, in_words

_ZONES = {
    "Tokyo": "Asia/Tokyo",
    "New York": "America/New_York",
    "London": "Europe/London",
    "Sydney": "Australia/Sydney",
    "Los Angeles": "America/Los_Angeles",
    "Cairo": "Africa/Cairo",
    "Delhi": "Asia/Kolkata",
    "Paris": "Europe/Paris",
    "Sao Paulo": "America/Sao_Paulo",
    "Nairobi": "Africa/Nairobi",
    "Singapore": "Asia/Singapore",
    "Chicago": "America/Chicago",
    "Lisbon": "Europe/Lisbon",
    "Istanbul": "Europe/Istanbul",
    "Seoul": "Asia/Seoul",
}
_UNITS = (
    ("miles", "mile", "km", "kilometres"),
    ("km", "kilometre", "mile", "miles"),
    ("pounds", "lb", "kg", "kilograms"),
    ("kilos", "kg", "lb", "pounds"),
    ("feet", "ft", "m", "metres"),
    ("inches", "inch", "cm", "centimetres"),
    ("litres", "litre", "gallon", "gallons"),
    ("gallons", "gallon", "litre", "litres"),
    ("degrees Fahrenheit", "degF", "degC", "degrees Celsius"),
    ("degrees Celsius", "degC", "degF", "degrees Fahrenheit"),
    ("ounces", "oz", "g", "grams"),
    ("hours", "hour", "minute", "minutes"),
    ("acres", "acre", "hectare", "hectares"),
    ("metres", "m", "ft", "feet"),
    ("knots", "knot", "km/h", "km/h"),
    ("cups", "cup", "ml", "millilitres"),
)
_MOMENT = re.compile(r"(\w+) (\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d))?")


def _now_there(world: World, now: Scene) -> Script:
    city = now.one(tuple(_ZONES))
    yield now.one(
        (
            f"what time is it in {city}?",
            f"current time in {city}?",
            f"how late is it in {city} now?",
            f"tell me the time in {city}",
        )
    )
    if now.chance(0.15):
        yield mistake("current_time", zone=city)
    (found,) = yield call("current_time", zone=_ZONES[city])
    moment = _MOMENT.search(found)
    return None if moment is None else f"It is {moment[3]} in {city}, on {moment[1]}, {moment[2]}."


def _today(world: World, now: Scene) -> Script:
    yield now.one(
        ("which day of the week is it?", "what's the date?", "tell me today's date", "what time is it now?")
    )
    (found,) = yield call("current_time")
    moment = _MOMENT.search(found)
    return None if moment is None else f"It is {moment[1]}, {moment[2]}, {moment[3]}."


def _there(world: World, now: Scene) -> Script:
    here, there = now.some(tuple(_ZONES), 2)
    clock = f"{now.random.randrange(24):02}:{now.one(('00', '15', '30', '45'))}"
    yield now.one(
        (
            f"when it is {clock} in {here}, what time is it in {there}?",
            f"convert {clock} {here} time to {there} time",
            f"our call is at {clock} in {here}. When is that in {there}?",
        )
    )
    (found,) = yield call("convert_time", time=clock, from_zone=_ZONES[here], to_zone=_ZONES[there])
    moment = _MOMENT.search(found)
    return None if moment is None else f"{clock} in {here} is {moment[3]} in {there}."


def _later_day(world: World, now: Scene) -> Script:
    n, unit = now.random.randrange(2, 20), now.one(("days", "weeks", "months", "years"))
    start = now.today
    back = now.chance(0.3)
    words = in_words(n) if now.chance(0.3) else str(n)
    yield now.one(
        (
            f"what date is {words} {unit} {'before' if back else 'after'} {start}?",
            f"{start} {'minus' if back else 'plus'} {words} {unit}: which day is that?",
        )
    )
    (found,) = yield call("shift_date", start=str(start), **{unit: -n if back else n})
    moment = _MOMENT.search(found)
    return (
        None
        if moment is None
        else f"{n} {unit} {'before' if back else 'after'} {start} is {moment[1]}, {moment[2]}."
    )


def _day_of_week(world: World, now: Scene) -> Script:
    day = now.today - timedelta(days=now.random.randrange(20, 9000))
    said = now.one((str(day), f"{day.day} {day:%B} {day.year}", f"{day:%B} {day.day}, {day.year}"))
    yield now.one(
        (
            f"what day of the week was {said}?",
            f"which weekday was {said}?",
            f"was {said} a Monday?",
            f"on what day did {said} fall?",
        )
    )
    (found,) = yield call("shift_date", start=str(day), days=0)
    moment = _MOMENT.search(found)
    return None if moment is None else now.one((f"{said} was a {moment[1]}.", f"It was a {moment[1]}."))


def _from_today(world: World, now: Scene) -> Script:
    """Requires today's date first."""
    n, unit = now.random.randrange(2, 12), now.one(("days", "weeks", "months"))
    ago = now.chance(0.3)
    yield (
        f"what was the date {n} {unit} ago?"
        if ago
        else now.one((f"which date is it in {n} {unit}?", f"what day will it be {n} {unit} from now?"))
    )
    (found,) = yield call("current_time")
    today = _MOMENT.search(found)
    if today is None:
        return None
    (found,) = yield call("shift_date", start=today[2], **{unit: -n if ago else n})
    moment = _MOMENT.search(found)
    if moment is None:
        return None
    day = f"{moment[1]}, {moment[2]}"
    return f"{n} {unit} ago it was {day}." if ago else f"In {n} {unit} it will be {day}."


def _later_time(world: World, now: Scene) -> Script:
    minutes = now.one((10, 20, 25, 35, 45, 75, 90, 140))
    clock = f"{now.today}T{now.random.randrange(6, 20):02}:{now.one(('05', '20', '40', '50'))}"
    day, time = clock.split("T")
    yield now.one(
        (
            f"a train leaves on {day} at {time} and takes {minutes} minutes. When does it arrive?",
            f"what time is {minutes} minutes after {time} on {day}?",
        )
    )
    (found,) = yield call("shift_time", start=clock, minutes=minutes)
    moment = _MOMENT.search(found)
    return (
        None
        if moment is None
        else now.one((f"It is {moment[3]} then.", f"{minutes} minutes after {time} it is {moment[3]}."))
    )


def _between(world: World, now: Scene) -> Script:
    start = now.today
    end = start + timedelta(days=now.random.randrange(3, 400))
    yield now.one(
        (
            f"how many days are there from {start} to {end}?",
            f"days between {start} and {end}?",
            f"how long is it from {start} until {end}?",
        )
    )
    (found,) = yield call("time_between", start=str(start), end=str(end))
    n = re.match(r"(\d+) days?", found)
    return None if n is None else f"There are {n[1]} days between {start} and {end}."


def _sum(world: World, now: Scene) -> Script:
    a, b, c = now.random.randrange(12, 999), now.random.randrange(2, 99), now.random.randrange(2, 40)
    said, expression = now.one(
        (
            (f"what is {a} times {b}?", f"{a} * {b}"),
            (f"{a} divided by {b}?", f"{a} / {b}"),
            (f"{c} percent of {a}?", f"{a} * {c} / 100"),
            (f"what's {a} plus {b} minus {c}?", f"{a} + {b} - {c}"),
            (f"compute ({a} + {b}) * {c}", f"({a} + {b}) * {c}"),
            (f"the square root of {a}", f"sqrt({a})"),
            (f"{b} tickets at {c}.50 each, how much is that?", f"{b} * {c}.50"),
            (f"split {a} among {c} people", f"{a} / {c}"),
        )
    )
    yield said
    (found,) = yield call("calculate", expression=expression)
    return now.one((f"That is {_plain(found)}.", f"The result is {_plain(found)}.", f"{_plain(found)}."))


def _units(world: World, now: Scene) -> Script:
    said, one, other, name = now.one(_UNITS)
    amount = now.one((str(now.random.randrange(2, 300)), f"{now.random.randrange(1, 40)}.5"))
    yield now.one(
        (
            f"how many {name} are {amount} {said}?",
            f"convert {amount} {said} to {name}",
            f"{amount} {said} in {name}?",
            f"it says {amount} {said}. How much is that in {name}?",
            f"the manual has {amount} {said}, what is that in {name}?",
            f"I have {amount} {said}: how many {name} is this?",
        )
    )
    (found,) = yield call("convert_units", amount=amount, from_unit=one, to_unit=other)
    return f"{amount} {said} are {_plain(found)} {name}."


def _two_units(world: World, now: Scene) -> Script:
    said, one, other, name = now.one(_UNITS)
    first, second = (str(now.random.randrange(2, 300)) for _ in range(2))
    yield f"convert {first} and {second} {said} to {name}"
    found = yield calls(*(call("convert_units", amount=n, from_unit=one, to_unit=other) for n in (first, second)))
    return f"{first} {said} are {_plain(found[0])} {name}, {second} {said} are {_plain(found[1])} {name}."


def _fact_to_file(world: World, now: Scene) -> Script:
    """Computes a number in the database and writes it to a file."""
    drawn = table_fact(world, now)
    if drawn is None:
        return None
    said, sql, _ = drawn
    path = world.new_path(now, ".txt")
    yield now.one(
        (
            f"write {said} to {path}",
            f"find out {said} and save it in a file {path}",
            f"create {path} with {said} from the database",
        )
    )
    if not world.known_tables:
        yield call("list_tables")
        world.known_tables = True
    (found,) = yield call("query", sql=sql)
    value = rows_of(found)[0][0]
    (written,) = yield call("write_file", path=path, text=f"{value}\n")
    if written.startswith("created"):
        world.files[path] = f"{value}\n"
    return f"{sentence(said)} is {value}; I have written it to {path}."


def _file_fact_sum(world: World, now: Scene) -> Script:
    """Reads two numbers of a settings file and adds them."""
    facts = [fact for fact in world.facts if fact.value.isdigit() and fact.path.endswith((".ini", ".cfg", ".env"))]
    pairs = [(a, b) for a in facts for b in facts if a.path == b.path and a is not b]
    if not pairs:
        return None
    a, b = now.one(pairs)
    yield f"what is {a.topic} plus {b.topic} in {a.path}?"
    yield call("read_text_file", path=a.path)
    (found,) = yield call("calculate", expression=f"{a.value} + {b.value}")
    return f"{a.value} plus {b.value} is {_plain(found)}."


def _table_unit(world: World, now: Scene) -> Script:
    drawn = table_fact(world, now)
    if drawn is None or "number of" in drawn[0]:
        return None
    said, sql, _ = drawn
    factor = now.one((2, 3, 10, 12))
    yield now.one((f"what is {said}, times {factor}?", f"multiply {said} by {factor}"))
    if not world.known_tables:
        yield call("list_tables")
        world.known_tables = True
    (found,) = yield call("query", sql=sql)
    value = rows_of(found)[0][0]
    (result,) = yield call("calculate", expression=f"{value} * {factor}")
    return f"{sentence(said)} is {value}; times {factor} that makes {_plain(result)}."


def _table_and_file(world: World, now: Scene) -> Script:
    """Asks two questions in one message."""
    table = world.table(now)
    path = now.one(sorted(world.files))
    yield f"how many lines does {path} have, and how many {table.many} are in the database?"
    found = yield calls(call("file_info", path=path), call("query", sql=f"SELECT COUNT(*) FROM {table.name}"))
    n = rows_of(found[1])[0][0]
    lines = len(world.lines(path))
    return f"{path} has {lines} {several(lines, 'line')}, and there are {n} {table.many}."


def _time_to_file(world: World, now: Scene) -> Script:
    path = world.new_path(now, ".txt")
    yield now.one((f"write today's date into {path}", f"save the current date in a file {path}"))
    (found,) = yield call("current_time")
    moment = _MOMENT.search(found)
    if moment is None:
        return None
    (written,) = yield call("write_file", path=path, text=f"{moment[2]}\n")
    if written.startswith("created"):
        world.files[path] = f"{moment[2]}\n"
    return f"{path} holds the date {moment[2]} now."


def _plain(found: str) -> str:
    """Return the number of a result, rounded to at most two decimals."""
    match = re.match(r"-?\d+(?:\.\d+)?", found.strip())
    if match is None:
        return found.strip()
    number = float(match[0])
    return str(int(number)) if number.is_integer() else f"{number:.2f}".rstrip("0").rstrip(".")


TIME: Sequence[Maker] = (
    _now_there,
    _now_there,
    _today,
    _there,
    _there,
    _later_day,
    _later_day,
    _from_today,
    _from_today,
    _day_of_week,
    _later_time,
    _between,
    _between,
    _sum,
    _sum,
    _units,
    _units,
    _units,
    _two_units,
)
FILES_AND_TABLES: Sequence[Maker] = (_fact_to_file, _fact_to_file, _table_and_file)
FILES_AND_TIME: Sequence[Maker] = (_file_fact_sum, _time_to_file)
TABLES_AND_TIME: Sequence[Maker] = (_table_unit,)
