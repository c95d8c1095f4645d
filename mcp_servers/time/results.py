"""Results of the time and arithmetic tools: fields for programs, one line for the model."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from whenever import ZonedDateTime

from mcp_servers.strict import ToolResult
from mcp_servers.time.arithmetic import Value

MAX_FRACTION_CHARS = 60
"""Maximum characters of a fraction; longer ones are not informative."""


class MomentResult(ToolResult):
    """A moment in a zone."""

    time: str = Field(description="Local time with its offset, ISO 8601.")
    zone: str
    weekday: str
    unix: int = Field(description="Seconds since 1970-01-01 UTC.")
    note: str = Field(description="What was decided where there was a choice; often empty.")

    @classmethod
    def of(cls, at: ZonedDateTime, note: str = "") -> MomentResult:
        """Convert a moment to a result."""
        offset_time = at.to_fixed_offset().format_iso()
        weekday = at.date().day_of_week().name.capitalize()
        return cls(time=offset_time, zone=at.tz_id or "", weekday=weekday, unix=at.timestamp(), note=note)

    def as_text(self) -> str:
        """Weekday, time and zone."""
        return f"{self.weekday} {self.time} {self.zone}" + (f" ({self.note})" if self.note else "")


class DateResult(ToolResult):
    """A day."""

    date: str
    weekday: str
    note: str

    def as_text(self) -> str:
        """Weekday and date."""
        return f"{self.weekday} {self.date}" + (f" ({self.note})" if self.note else "")


class Between(ToolResult):
    """Time between two moments or days."""

    days: int = Field(description="Whole days; negative where the end is before the start.")
    seconds: int | None = Field(description="Exactly, between two times; null between two days.")
    parts: str = Field(description="In years, months and days, or in days, hours, minutes and seconds.")
    note: str

    def as_text(self) -> str:
        """The total, then its parts."""
        counted = f"{self.days} days" if self.seconds is None else f"{self.seconds} seconds"
        return f"{counted}: {self.parts}" + (f" ({self.note})" if self.note else "")


class Calculated(ToolResult):
    """A number."""

    value: str = Field(description="In decimals.")
    fraction: str | None = Field(description="Exactly, as a fraction; null where the value is rounded.")
    exact: bool = Field(description="Whether `value` is the whole truth.")

    def as_text(self) -> str:
        """The value, with a note if it is rounded."""
        if self.exact:
            return self.value
        return (
            f"{self.value} (rounded)"
            if self.fraction is None
            else f"{self.value} (rounded), exactly {self.fraction}"
        )


class Converted(Calculated):
    """An amount in another unit."""

    unit: str

    def as_text(self) -> str:
        """The amount with its unit."""
        return f"{self.value} {self.unit}" + ("" if self.exact else " (rounded)")


def facts(value: Value) -> dict[str, Any]:
    """Return the fields of a result for a number."""
    fraction = None if value.exact is None else str(value.exact)
    if fraction is not None and len(fraction) > MAX_FRACTION_CHARS:
        fraction = None
    return {"value": value.decimal(), "fraction": fraction, "exact": value.is_whole_truth}
