"""Moments, dates and zones: parsed strictly and shifted by the calendar.

The rules of daylight saving time are those of the IANA database, through `whenever`. In a caller's text, a local
time that the clocks skip is refused. A time that occurs twice is read as the earlier one, and the answer says so.
"""

from __future__ import annotations

import re
import zoneinfo
from dataclasses import dataclass
from functools import cache
from typing import Any

from whenever import (
    SYSTEM_TZ,
    Date,
    PlainDateTime,
    RepeatedTime,
    SkippedTime,
    TimeZoneNotFoundError,
    ZonedDateTime,
)

from mcp_servers.failures import ToolFailure, nearest_names

LARGEST_SHIFT = 10_000_000_000
"""Largest shift in any unit: larger than the years 1 to 9999 in all units but the smallest."""
_CALENDAR_YEARS = 400
"""Period of the Gregorian calendar."""
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_LOCAL = re.compile(r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}(?::\d{2})?)")
_CLOCK = re.compile(r"\d{2}:\d{2}(?::\d{2})?")


@dataclass(frozen=True, slots=True)
class Moment:
    """A local time in its zone."""

    at: ZonedDateTime
    note: str = ""
    """Explanation of the choice if the time is ambiguous; else empty."""


@dataclass(frozen=True, slots=True)
class Span:
    """Time between two days or two times."""

    days: int
    """Whole days; negative if the end is before the start."""
    seconds: int | None
    """Exact seconds; None between two days."""
    parts: str
    """Text in years, months and days, or in days, hours, minutes and seconds."""
    note: str = ""


def known_zone(zone: str) -> str:
    """Return a zone's name in the database's spelling; letter case and spaces do not matter.

    Raises:
        ToolFailure: The zone does not exist.
    """
    by_folded = _zones()
    wanted = zone.strip().replace(" ", "_").casefold()
    if wanted in by_folded:
        return by_folded[wanted]
    cities = {name.rpartition("/")[2].casefold(): name for name in by_folded.values() if "/" in name}
    near = [cities[wanted]] if wanted in cities else nearest_names(wanted, by_folded.values())
    meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ToolFailure(f"Unknown time zone {zone!r}.{meant} Zones are named like Europe/Berlin or UTC.")


@cache
def _zones() -> dict[str, str]:
    """Return the database's names by their case-folded forms; cached, as listing reads many files."""
    return {name.casefold(): name for name in zoneinfo.available_timezones()}


def zone_of_the_machine() -> str:
    """Return the name of the machine's zone; UTC if it has none."""
    try:
        return known_zone(ZonedDateTime.now(SYSTEM_TZ).tz_id or "UTC")
    except ToolFailure:
        return "UTC"


def now(zone: str) -> ZonedDateTime:
    """Return the time in a zone, to the second.

    Raises:
        ToolFailure: The zone does not exist.
    """
    return ZonedDateTime.now(known_zone(zone)).round("second")


def read_moment(text: str, zone: str) -> Moment:
    """Parse `2026-03-01T14:30`, or `14:30` of today, as a local time of the zone.

    Raises:
        ToolFailure: The text has neither form, the zone does not exist, or its clocks skip that time.
    """
    name, text = known_zone(zone), text.strip()
    if _CLOCK.fullmatch(text):
        text = f"{now(name).date()}T{text}"
    found = _LOCAL.fullmatch(text)
    if found is None:
        raise ToolFailure(
            f"{text!r} is no local time. Write it as 2026-03-01T14:30, or as 14:30 for today; give the zone apart."
        )
    try:
        local = PlainDateTime.parse_iso(f"{found[1]}T{found[2]}")
    except ValueError as error:
        raise ToolFailure(f"{text!r} is no time: there is no such day, hour or minute.") from error
    try:
        return Moment(local.assume_tz(name, disambiguation="raise"))
    except SkippedTime as error:
        after = local.assume_tz(name, disambiguation="later")
        raise ToolFailure(
            f"{text} does not exist in {name}: clocks go forward over it. The same moment by the old clock is "
            f"{after.to_plain()}."
        ) from error
    except RepeatedTime:
        earlier, later = (local.assume_tz(name, disambiguation=which) for which in ("earlier", "later"))
        offsets = [each.to_fixed_offset().format_iso()[-6:] for each in (earlier, later)]
        return Moment(earlier, f"clocks show this time twice; {offsets[0]} is taken, {offsets[1]} is the other")
    except (TimeZoneNotFoundError, ValueError, OverflowError) as error:
        raise ToolFailure(f"{text} in {name} is out of range: years are 1 to 9999.") from error


def read_date(text: str) -> Date | None:
    """Parse `2026-03-01`; None if the text is not a date alone.

    Raises:
        ToolFailure: The day does not exist.
    """
    if not _DATE.fullmatch(text.strip()):
        return None
    try:
        return Date.parse_iso(text.strip())
    except ValueError as error:
        raise ToolFailure(f"{text!r} is no date: there is no such day.") from error


def shifted_date(date: Date, *, years: int, months: int, weeks: int, days: int) -> tuple[Date, str]:
    """Return a date moved by the calendar, and a note if the month has no such day.

    Raises:
        ToolFailure: The result is out of range.
    """
    try:
        by_month = date.add(years=years, months=months)
        note = (
            "" if by_month.day == date.day else f"there is no day {date.day} in that month; its last day is taken"
        )
        return by_month.add(weeks=weeks, days=days), note
    except (ValueError, OverflowError) as error:
        raise ToolFailure("The result is out of range: years are 1 to 9999.") from error


def in_zone(moment: ZonedDateTime, zone: str) -> ZonedDateTime:
    """Return the same moment in another zone.

    Raises:
        ToolFailure: The zone does not exist, or the year there is 0 or 10000.
    """
    name = known_zone(zone)
    try:
        return moment.to_tz(name)
    except (ValueError, OverflowError) as error:
        raise ToolFailure(f"The time in {name} is out of range: years are 1 to 9999.") from error


def shifted_moment(moment: ZonedDateTime, *, days: int, seconds: int) -> ZonedDateTime:
    """Return a moment moved by days with the same local time, then by elapsed seconds.

    Raises:
        ToolFailure: The result is out of range.
    """
    date, _ = shifted_date(moment.date(), years=0, months=0, weeks=0, days=days)
    try:
        at = moment if date == moment.date() else moment.replace_date(date, disambiguation="compatible")
        return at.add(seconds=seconds)
    except (ValueError, OverflowError) as error:
        raise ToolFailure("The result is out of range: years are 1 to 9999.") from error


def between(start: str, end: str, zone: str) -> Span:
    """Return the time between two dates, or two times of a zone.

    Raises:
        ToolFailure: They are neither, or one of each.
    """
    first, last = read_date(start), read_date(end)
    if first is not None and last is not None:
        days = (last.to_stdlib() - first.to_stdlib()).days
        return Span(days=days, seconds=None, parts=_parts(_calendar_units(first, last).items()))
    if first is not None or last is not None:
        raise ToolFailure("Give two dates, or two times: one of each has no time between them.")
    one, other = read_moment(start, zone), read_moment(end, zone)
    seconds = other.at.timestamp() - one.at.timestamp()
    sizes = (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))
    left, counted = abs(seconds), list[tuple[str, int]]()
    for name, size in sizes:
        count, left = divmod(left, size)
        counted.append((name, -count if seconds < 0 else count))
    note = "; ".join(each.note for each in (one, other) if each.note)
    return Span(days=int(seconds / 86_400), seconds=seconds, parts=_parts(counted), note=note)


def _calendar_units(first: Date, last: Date) -> dict[str, int]:
    """Return the years, months and days from one date to another.

    `since` computes one unit beyond the last date, which may be after the year 9999 or before the year 1. In that
    case both dates are moved by a period of the calendar, which does not change the count.
    """
    units = ("years", "months", "days")
    try:
        return dict(last.since(first, in_units=units).items())
    except (ValueError, OverflowError):
        away = -_CALENDAR_YEARS if last.year > _CALENDAR_YEARS else _CALENDAR_YEARS
        try:
            return dict(last.add(years=away).since(first.add(years=away), in_units=units).items())
        except (ValueError, OverflowError):  # both directions leave the range of years
            counted = dict(last.add(years=away).since(first, in_units=units).items())
            return {**counted, "years": counted.get("years", 0) - away}


def _parts(counted: Any) -> str:
    said = [f"{count} {name if abs(count) != 1 else name[:-1]}" for name, count in counted if count]
    return ", ".join(said) or "none"
