"""The time and arithmetic tools as a model sees them."""

from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction
from typing import Annotated, Any

from mcp.server.lowlevel.server import Server
from pydantic import Field

from mcp_servers.child import ChildCrash, ChildTimeout, KillableChild
from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.strict import READS, strict_server, strict_tool
from mcp_servers.time import arithmetic, moments, units
from mcp_servers.time.results import Between, Calculated, Converted, DateResult, MomentResult, facts

NAME = "agentkit-time"
INSTRUCTIONS = (
    "Time zones, dates, exact arithmetic and units. Never compute a date, a time zone or a number by yourself: "
    "call the tool. Times are written 2026-03-01T14:30 with their zone apart."
)
UNIT_WORKER = "mcp_servers.time.unit_worker"
UNIT_TIMEOUT_S = 10.0
"""Seconds for converting a unit; the first call loads all units, about a second on an idle machine."""
Zone = Annotated[str, Field(max_length=64, description="As Europe/Berlin; empty: the user's.")]
Time = Annotated[str, Field(max_length=32, description="2026-03-01T14:30, or 14:30 for today.")]
Day = Annotated[str, Field(max_length=32, description="2026-03-01.")]
DateOrTime = Annotated[str, Field(max_length=32, description="2026-03-01, or 2026-03-01T14:30.")]
Amount = Annotated[int, Field(ge=-moments.LARGEST_SHIFT, le=moments.LARGEST_SHIFT)]


class Clock:
    """The tools, with a default zone."""

    def __init__(self, zone: str, unit_child: KillableChild) -> None:
        """Use `zone` if a call names none; units are converted in `unit_child`."""
        self._zone = zone
        self._unit_child = unit_child

    def current_time(self, zone: Zone = "") -> MomentResult:
        """Say what time and day it is."""
        return MomentResult.of(moments.now(zone or self._zone))

    def convert_time(self, time: Time, from_zone: Zone = "", to_zone: Zone = "") -> MomentResult:
        """Convert a local time to another time zone."""
        moment = moments.read_moment(time, from_zone or self._zone)
        return MomentResult.of(moments.in_zone(moment.at, to_zone or self._zone), moment.note)

    def shift_date(
        self, start: Day, years: Amount = 0, months: Amount = 0, weeks: Amount = 0, days: Amount = 0
    ) -> DateResult:
        """Move a date by the calendar; negative numbers go back."""
        date = moments.read_date(start)
        if date is None:
            raise ToolFailure(f"{start!r} is no date. Write it as 2026-03-01.")
        moved, note = moments.shifted_date(date, years=years, months=months, weeks=weeks, days=days)
        return DateResult(date=str(moved), weekday=moved.day_of_week().name.capitalize(), note=note)

    def shift_time(
        self,
        start: Time,
        zone: Zone = "",
        days: Amount = 0,
        hours: Amount = 0,
        minutes: Amount = 0,
        seconds: Amount = 0,
    ) -> MomentResult:
        """Move a time: days keep the time on the clock, hours pass as they do when clocks change."""
        moment = moments.read_moment(start, zone or self._zone)
        moved = moments.shifted_moment(moment.at, days=days, seconds=hours * 3_600 + minutes * 60 + seconds)
        return MomentResult.of(moved, moment.note)

    def time_between(self, start: DateOrTime, end: DateOrTime, zone: Zone = "") -> Between:
        """Count the days between two dates, or the seconds between two times."""
        return Between(**asdict(moments.between(start, end, zone or self._zone)))

    def calculate(
        self,
        expression: Annotated[str, Field(max_length=arithmetic.MAX_CHARS, description="As (0.1 + 0.2) * 3.")],
    ) -> Calculated:
        """Compute exactly: + - * / // % **, sqrt, round, factorial, sin and others."""
        return Calculated(**facts(arithmetic.calculate(expression)))

    def convert_units(
        self,
        amount: Annotated[str, Field(max_length=100, description="A number or expression, as 2.5.")],
        from_unit: Annotated[str, Field(max_length=units.MAX_CHARS, description="As km/h.")],
        to_unit: Annotated[str, Field(max_length=units.MAX_CHARS, description="As m/s.")],
    ) -> Converted:
        """Convert an amount to another unit."""
        value = arithmetic.calculate(amount)
        if value.exact is None:
            raise ToolFailure(f"{amount!r} is not exact; give the number itself, as {value.decimal()}.")
        converted = self._converted(value.exact, from_unit, to_unit)
        return Converted(**facts(arithmetic.Value(converted)), unit=to_unit)

    def _converted(self, amount: Fraction, source: str, target: str) -> Fraction:
        request = {"amount": str(amount), "source": source, "target": target}
        try:
            return Fraction(self._unit_child.call(request, UNIT_TIMEOUT_S)["amount"])
        except (ChildTimeout, ChildCrash) as error:
            raise ToolFailure(
                f"{source!r} or {target!r} takes too much to work out. Units are written like km/h, ft, m**2."
            ) from error


def build_server(zone: str | None = None) -> Server[Any]:
    """Return the server; it can be passed to `mcp.Client` as it is.

    Raises:
        StartError: The zone does not exist.
    """
    child = KillableChild(UNIT_WORKER, packages=True)
    try:
        clock = Clock(moments.known_zone(zone) if zone is not None else moments.zone_of_the_machine(), child)
    except ToolFailure as failure:
        raise StartError(f"--zone: {failure}") from failure
    tools = [
        strict_tool(tool, READS)
        for tool in (
            clock.current_time,
            clock.convert_time,
            clock.shift_date,
            clock.shift_time,
            clock.time_between,
            clock.calculate,
            clock.convert_units,
        )
    ]
    return strict_server(NAME, instructions=INSTRUCTIONS, tools=tools, on_close=child.close)
