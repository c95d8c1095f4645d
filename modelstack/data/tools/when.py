"""Days, times and spans in natural wording, with the form of the call (ISO 8601, RFC 3339).

Relative days are counted from a given date. "Next Friday" is the Friday of the coming week; "on Friday" and "this
Friday" are the next Friday. Both readings follow most style guides. Ambiguous wording ("next Tuesday" on a Monday)
is avoided.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta

from modelstack.data.tools.spoken import COPIED, Scene, Spoken, in_words, ordinal, weekday

MORNING_ENDS, AFTERNOON_ENDS = 12, 18
_DAYS_OF_WEEK = 7


def said_day(now: Scene, *, past: bool = False) -> tuple[date, Spoken]:
    """Return a day and its wording; the value is written YYYY-MM-DD."""
    ways: list[Callable[[Scene, bool], tuple[date, str, str, str, bool]]] = [_near, _near, _weekday, _in_days]
    ways += [_calendar, _calendar, _written]
    day, said, bare, rule, needs_today = now.one(ways)(now, past)
    return day, Spoken(day.isoformat(), said, rule, bare, needs_today)


def day(now: Scene) -> Spoken:
    """Return a day from today on."""
    return said_day(now)[1]


def past_day(now: Scene) -> Spoken:
    """Return a day up to today."""
    return said_day(now, past=True)[1]


def day_month_year(now: Scene) -> Spoken:
    """Return a day, its value written DD/MM/YYYY."""
    when, spoken = said_day(now)
    return Spoken(f"{when:%d/%m/%Y}", spoken.said, "date_format", spoken.bare, spoken.needs_today)


def stay(now: Scene) -> Spoken:
    """Return first and last day of a stay in one wording; the value is a pair."""
    first, spoken = said_day(now)
    nights = now.random.randrange(1, 10)
    last = first + timedelta(days=nights)
    count = in_words(nights) if now.chance(0.5) else str(nights)
    plural = "night" if nights == 1 else "nights"
    where = spoken.bare or spoken.said
    said = now.one([f"for {count} {plural} from {where}", f"{spoken.said} for {count} {plural}"])
    if not spoken.needs_today and first.month == last.month and now.chance(0.6):
        said = now.one(
            [
                f"from {first:%B} {first.day} to {last.day}, {first.year}",
                f"from the {ordinal(first.day)} to the {ordinal(last.day)} of {first:%B} {first.year}",
                f"from {first.isoformat()} to {last.isoformat()}",
            ]
        )
    return Spoken([first.isoformat(), last.isoformat()], said, "date_span", said, spoken.needs_today)


def clock(now: Scene) -> Spoken:
    """Return a time of day, its value written HH:MM in 24 hours."""
    hour, minute = now.random.randrange(6, 23), now.one([0, 0, 0, 15, 30, 30, 45, 10, 20])
    value = f"{hour:02}:{minute:02}"
    bare, rule = _clock_words(now, hour, minute)
    return Spoken(value, f"at {bare}", rule, bare)


def moment(now: Scene) -> Spoken:
    """Return a day with a time, written YYYY-MM-DDTHH:MM:SS."""
    when, spoken = said_day(now)
    time = clock(now)
    value = datetime.fromisoformat(f"{when.isoformat()}T{time.value}:00").isoformat()
    said = now.one([f"{spoken.said} {time.said}", f"{time.said} {spoken.said}"])
    return Spoken(value, said, "moment", said.removeprefix("on ").removeprefix("at "), spoken.needs_today)


def month(now: Scene) -> Spoken:
    """Return a month as a number."""
    number = now.random.randrange(1, 13)
    name = f"{date(2024, number, 1):%B}"
    return Spoken(number, f"in {name}", "month", name)


def year(now: Scene) -> Spoken:
    """Return a year, sometimes worded by its distance."""
    distance = now.one([0, 1, -1, -3, -10, -25, -60, -7, -15])
    number = now.today.year + distance
    words = {0: "this year", 1: "next year", -1: "last year"}
    if distance in words and now.chance(0.5):
        return Spoken(number, words[distance], "relative_year", words[distance], True)
    return Spoken(number, f"in {number}", COPIED, str(number))


def day_name(now: Scene) -> Spoken:
    """Return a day of the week, in wording that may depend on today."""
    if now.chance(0.6):
        name = weekday(now.today + timedelta(days=now.random.randrange(7)))
        return Spoken(name, f"on {name}", COPIED, name)
    word, distance = now.one([("today", 0), ("tomorrow", 1), ("the day after tomorrow", 2)])
    return Spoken(weekday(now.today + timedelta(days=distance)), word, "relative_weekday", word, True)


def _near(now: Scene, past: bool) -> tuple[date, str, str, str, bool]:
    coming = (("today", 0), ("tomorrow", 1), ("tomorrow", 1), ("the day after tomorrow", 2))
    gone = (("today", 0), ("yesterday", -1), ("yesterday", -1), ("the day before yesterday", -2))
    words, distance = now.one(gone if past else coming)
    return now.today + timedelta(days=distance), words, words, "relative_date", True


def _weekday(now: Scene, past: bool) -> tuple[date, str, str, str, bool]:
    if past:
        distance = -now.random.randrange(1, _DAYS_OF_WEEK)
        name = weekday(now.today + timedelta(days=distance))
        return now.today + timedelta(days=distance), f"last {name}", f"last {name}", "relative_date", True
    if now.chance(0.6):
        distance = now.random.randrange(2, _DAYS_OF_WEEK)
        name = weekday(now.today + timedelta(days=distance))
        said, bare = now.one([(f"on {name}", name), (f"this {name}", f"this {name}"), (f"on {name}", name)])
        return now.today + timedelta(days=distance), said, bare, "relative_date", True
    # "Next X" is unambiguous only for a weekday that lies before today in this week.
    past_in_week = now.random.randrange(0, now.today.weekday() + 1)
    distance = _DAYS_OF_WEEK - now.today.weekday() + past_in_week
    words = f"next {weekday(now.today + timedelta(days=distance))}"
    return now.today + timedelta(days=distance), words, words, "relative_date", True


def _in_days(now: Scene, past: bool) -> tuple[date, str, str, str, bool]:
    unit, size = now.one([("day", 1), ("day", 1), ("week", 7)])
    n = now.random.randrange(2, 7) if unit == "day" else now.random.randrange(1, 5)
    count = in_words(n) if now.chance(0.6) else str(n)
    span = f"{'a' if n == 1 and now.chance(0.7) else count} {unit}{'' if n == 1 else 's'}"
    words = f"{span} ago" if past else now.one([f"in {span}", f"{span} from now", f"{span} from today"])
    return now.today + timedelta(days=(-n if past else n) * size), words, words, "relative_date", True


def _calendar(now: Scene, past: bool) -> tuple[date, str, str, str, bool]:
    """Return a calendar date, sometimes without its year: then the nearest one in the direction of `past`."""
    day = now.today + timedelta(days=(-1 if past else 1) * now.random.randrange(8, 170))
    with_year = now.chance(0.5)
    year = f", {day.year}" if with_year else ""
    bare = now.one(
        [
            f"{day:%B} {day.day}{year}",
            f"{day:%B} {ordinal(day.day)}{year}",
            f"{day.day} {day:%B}{year.replace(',', '')}",
            f"the {ordinal(day.day)} of {day:%B}{year.replace(',', '')}",
            f"{day:%b} {day.day}{year}",
        ]
    )
    return day, f"on {bare}", bare, "calendar_date", not with_year


def _written(now: Scene, past: bool) -> tuple[date, str, str, str, bool]:
    day = now.today + timedelta(days=(-1 if past else 1) * now.random.randrange(1, 400))
    return day, f"on {day.isoformat()}", day.isoformat(), COPIED, False


def _clock_words(now: Scene, hour: int, minute: int) -> tuple[str, str]:
    twelve, half_day = (hour - 1) % 12 + 1, "am" if hour < MORNING_ENDS else "pm"
    part = "in the morning" if hour < MORNING_ENDS else "in the afternoon"
    if hour >= AFTERNOON_ENDS:
        part = "in the evening"
    ways = [f"{hour}:{minute:02}" if hour > 9 else f"{hour:02}:{minute:02}"]
    ways += (
        [f"{twelve}:{minute:02} {half_day}"] * 2 if minute else [f"{twelve} {half_day}", f"{twelve}{half_day}"] * 2
    )
    if minute == 0 and hour == MORNING_ENDS:
        ways.append("noon")
    if minute == 0 and hour != MORNING_ENDS:
        ways += [f"{in_words(twelve)} {part}", f"{twelve} {part}"]
    if minute == 30:
        ways.append(f"half past {in_words(twelve)} {part}")
    if minute == 15:
        ways.append(f"quarter past {in_words(twelve)} {part}")
    if minute == 45 and hour not in (MORNING_ENDS - 1, AFTERNOON_ENDS - 1):
        ways.append(f"quarter to {in_words(twelve % 12 + 1)} {part}")
    words = now.one(ways)
    return words, COPIED if words == f"{hour:02}:{minute:02}" else "clock"
