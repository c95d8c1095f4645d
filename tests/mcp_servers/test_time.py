"""The time server: zones and calendars against the standard library, arithmetic against Python's own, units."""

from __future__ import annotations

import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client
from server_harness import Ask, asker

from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.time import arithmetic, moments, server, units
from mcp_servers.time.server import build_server

pytestmark = pytest.mark.anyio
Text = Callable[..., Awaitable[str]]
ZONES = sorted(available_timezones() - {"localtime", "Factory"})


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def ask() -> AsyncIterator[Ask]:
    """Serve all tests with one server; between calls it keeps only the child that knows the units."""
    async with Client(build_server("Europe/Berlin")) as client:
        yield asker(client)


@pytest.fixture
def said(ask: Ask) -> Text:
    """Return a function that calls a tool, which must succeed, and gives back its text."""

    async def said(tool: str, **arguments: Any) -> str:
        text, is_error = await ask(tool, **arguments)
        assert not is_error, text
        return text

    return said


@pytest.fixture
def failed(ask: Ask) -> Text:
    """Return a function that calls a tool, which must fail, and gives back why."""

    async def failed(tool: str, **arguments: Any) -> str:
        text, is_error = await ask(tool, **arguments)
        assert is_error, text
        return text

    return failed


# -- zones and calendars


async def test_the_time_now_is_that_of_the_machine() -> None:
    async with Client(build_server("Asia/Tokyo")) as client:
        result = await client.call_tool("current_time", {})
        assert result.structured_content is not None
        assert abs(result.structured_content["unix"] - time.time()) < 2
        assert result.structured_content["zone"] == "Asia/Tokyo"
        assert result.structured_content["time"].endswith("+09:00")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"time": "2026-07-01T09:00", "to_zone": "America/New_York"},
            "Wednesday 2026-07-01T03:00:00-04:00 America/New_York",
        ),
        (
            {"time": "2026-01-01 00:30", "from_zone": "Asia/Kolkata", "to_zone": "UTC"},
            "Wednesday 2025-12-31T19:00:00+00:00 UTC",
        ),
        ({"time": "2026-01-01T00:30", "from_zone": "utc"}, "Thursday 2026-01-01T01:30:00+01:00 Europe/Berlin"),
        (
            {"time": "2026-10-25T02:30", "to_zone": "UTC"},
            "Sunday 2026-10-25T00:30:00+00:00 UTC "
            "(clocks show this time twice; +02:00 is taken, +01:00 is the other)",
        ),
    ],
)
async def test_times_are_converted(arguments: dict[str, str], expected: str, said: Text) -> None:
    assert await said("convert_time", **arguments) == expected


@pytest.mark.parametrize(
    ("tool", "arguments", "hint"),
    [
        ("current_time", {"zone": "Europe/Berln"}, "'Europe/Berlin'"),
        ("current_time", {"zone": "berlin"}, "'Europe/Berlin'"),
        ("current_time", {"zone": "../../etc/passwd"}, "Unknown time zone"),
        ("convert_time", {"time": "2026-03-29T02:30"}, "clocks go forward"),
        ("convert_time", {"time": "2026-02-30T12:00"}, "no such day"),
        ("convert_time", {"time": "2026-03-01T25:00"}, "no such day, hour"),
        ("convert_time", {"time": "tomorrow"}, "2026-03-01T14:30"),
        ("convert_time", {"time": "2026-03-01T12:00+02:00"}, "give the zone apart"),
        ("convert_time", {"time": "٢٠٢٦-03-01T12:00"}, "no"),
        ("shift_date", {"start": "9999-12-31", "days": 1}, "out of range"),
        ("shift_date", {"start": "2026-01-01", "years": 10_000_000_000}, "out of range"),
        ("shift_date", {"start": "2026-01-01T10:00"}, "is no date"),
        ("shift_time", {"start": "9999-12-31T23:00", "hours": 2}, "out of range"),
        ("time_between", {"start": "2026-01-01", "end": "2026-01-01T10:00"}, "one of each"),
    ],
)
async def test_what_is_no_time_is_told_with_what_would_be(
    tool: str, arguments: dict[str, Any], hint: str, failed: Text
) -> None:
    assert hint in await failed(tool, **arguments)


async def test_dates_move_by_the_calendar(said: Text) -> None:
    assert await said("shift_date", start="2024-02-29", years=1) == (
        "Friday 2025-02-28 (there is no day 29 in that month; its last day is taken)"
    )
    assert await said("shift_date", start="2026-01-31", months=1, days=1) == (
        "Sunday 2026-03-01 (there is no day 31 in that month; its last day is taken)"
    )
    assert await said("shift_date", start="2026-03-01", weeks=-1, days=-1) == "Saturday 2026-02-21"


async def test_a_day_keeps_the_clock_and_hours_pass(said: Text) -> None:
    before = "2026-03-28T12:00"  # clocks go forward in the night
    assert await said("shift_time", start=before, days=1) == "Sunday 2026-03-29T12:00:00+02:00 Europe/Berlin"
    assert await said("shift_time", start=before, hours=24) == "Sunday 2026-03-29T13:00:00+02:00 Europe/Berlin"


async def test_what_lies_between(said: Text) -> None:
    assert await said("time_between", start="2024-02-29", end="2026-03-01") == "731 days: 2 years, 1 day"
    assert await said("time_between", start="2026-03-01", end="2026-02-27") == "-2 days: -2 days"
    assert await said("time_between", start="2026-01-01", end="2026-01-01") == "0 days: none"
    text = await said("time_between", start="2026-03-28T12:00", end="2026-03-29T12:00")
    assert text == "82800 seconds: 23 hours"
    text = await said("time_between", start="2026-01-02T00:00", end="2026-01-01T22:30:30", zone="UTC")
    assert text == "-5370 seconds: -1 hour, -29 minutes, -30 seconds"


@given(
    st.datetimes(datetime(1950, 1, 1), datetime(2037, 1, 1)),
    st.sampled_from(ZONES),
    st.sampled_from(ZONES),
)
@settings(max_examples=200, deadline=None)
def test_conversions_are_those_of_zoneinfo(local: datetime, source: str, target: str) -> None:
    local = local.replace(microsecond=0, fold=0)  # the text of a time has no fold
    expected = local.replace(tzinfo=ZoneInfo(source))
    text = local.isoformat()
    if expected.astimezone(UTC).astimezone(ZoneInfo(source)).replace(tzinfo=None) != local:
        with pytest.raises(ToolFailure, match="does not exist"):
            moments.read_moment(text, source)
        return
    found = moments.read_moment(text, source).at.to_tz(target)
    assert found.timestamp() == int(expected.timestamp())
    assert str(found.to_plain()) == str(expected.astimezone(ZoneInfo(target)).replace(tzinfo=None)).replace(
        " ", "T"
    )


@given(st.dates(), st.integers(-4_000, 4_000))
def test_days_are_those_of_the_standard_library(start: date, days: int) -> None:
    begun = moments.read_date(start.isoformat())
    assert begun is not None
    try:
        expected = start + timedelta(days=days)
    except OverflowError:
        with pytest.raises(ToolFailure):
            moments.shifted_date(begun, years=0, months=0, weeks=0, days=days)
        return
    moved, note = moments.shifted_date(begun, years=0, months=0, weeks=0, days=days)
    assert (str(moved), note) == (expected.isoformat(), "")


# -- arithmetic


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0.1 + 0.2", "0.3"),
        ("1/3", "0.33333333333333333333 (rounded), exactly 1/3"),
        ("2 ** 100", str(2**100)),
        ("2^-2", "0.25"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("1e3 * 1_000", "1000000"),
        ("0x1F", "31"),
        ("sqrt(2.25)", "1.5"),
        ("4 ** (3/2)", "8"),
        ("sqrt(2)", "1.4142135623730950488 (rounded)"),
        ("round(2.5)", "3"),
        ("round(-2.675, 2)", "-2.68"),
        ("round(pi, 4)", "3.1416"),
        ("floor(-e)", "-3"),
        ("factorial(20) / factorial(18)", "380"),
        ("comb(52, 5)", "2598960"),
        ("gcd(12, 18) + lcm(4, 6)", "18"),
        ("mean(1, 2, 4)", "2.3333333333333333333 (rounded), exactly 7/3"),
        ("max(1/3, 0.333)", "0.33333333333333333333 (rounded), exactly 1/3"),
        ("3 × 4 ÷ 2 − 1", "5"),
        ("17% of 640", "108.8"),
        ("7.5 percent of (100 + 20)", "9"),
        ("1 + 50% of 8", "5"),
        ("17 % 5", "2"),
        ("0 ** 0", "1"),
        ("0 ** 1_000_000", "0"),
        ("(-1) ** 1_000_000", "1"),
        ("2 ** 13_000", str(2**13_000)),
        ("factorial(1000)", str(math.factorial(1000))),
        ("10 * pi // 3", "10"),
        ("1 / 2 ** 40", "9.0949470177292823792e-13 (rounded), exactly 1/1099511627776"),
        ("(-1) ** 999999999999", "-1"),
    ],
)
async def test_numbers_are_exact_or_say_that_they_are_not(expression: str, expected: str, said: Text) -> None:
    assert await said("calculate", expression=expression) == expected


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        ("1 / 0", "Division by zero"),
        ("0 ** -1", "Division by zero"),
        ("0 ** -1_000_000", "Division by zero"),
        ("3 ** 13_000", "too large"),
        ("0 ** -0.5", "Division by zero"),
        ("9 ** 9 ** 9 ** 9", "too large"),
        ("2 ** 0.5 ** -40", "too large"),
        ("exp(exp(100))", "up to"),
        ("sin(10 ** 40)", "up to"),
        ("factorial(10**6)", "at most 1,000"),
        ("2 ** 20_000", "too large"),
        ("pi // 0", "Division by zero"),
        ("factorial(2.5)", "no whole number"),
        ("sqrt(-1)", "not real"),
        ("ln(-1)", "not a real number"),
        ("ln(0)", "finite value"),
        ("asin(2)", "not a real number"),
        ("1e999999999999", "too large"),
        ("1,000 * 2", "is no arithmetic"),
        ("15% off 80", "80*15/100"),
        ("% of 80", "80*15/100"),
        ("__import__('os').system('true')", "no arithmetic"),
        ("().__class__", "no arithmetic"),
        ("[1][0]", "no arithmetic"),
        ("'a' * 10", "no arithmetic"),
        ("True + 1", "no arithmetic"),
        ("1j", "no arithmetic"),
        ("x + 1", "no arithmetic"),
        ("sqr(4)", "sqrt"),
        ("min()", "1 or more"),
        ("(" * 500 + "1" + ")" * 500, "expression"),
        ("-" * 900 + "1", "nested"),
        ("1 +", "no expression"),
        ("", "no expression"),
        ("1\x00", "no expression"),
    ],
)
async def test_what_cannot_be_computed_is_told_at_once(expression: str, hint: str, failed: Text) -> None:
    began = time.perf_counter()
    assert hint in await failed("calculate", expression=expression)
    assert time.perf_counter() - began < 5


_NUMBERS = st.integers(-1_000, 1_000) | st.decimals(-100, 100, places=3)
_EXPRESSIONS = st.recursive(
    _NUMBERS.map(lambda number: f"({number})"),
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(
        lambda t: f"({' '.join(t)})"
    ),
    max_leaves=12,
)


@given(_EXPRESSIONS)
@settings(deadline=None)
def test_fractions_are_those_of_python(expression: str) -> None:
    exact = re.sub(r"\d+(?:\.\d+)?", lambda number: f"Fraction('{number[0]}')", expression)
    exact = exact.replace(" / ", " / Fraction(1) / ")  # two results of // are ints, whose quotient is a float
    try:
        expected = eval(exact, {"Fraction": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ToolFailure, match="Division by zero"):
            arithmetic.calculate(expression)
        return
    assert arithmetic.calculate(expression).exact == expected


@given(st.floats(0.001, 1000), st.sampled_from(["sqrt", "exp", "ln", "log10", "sin", "cos", "atan"]))
@settings(deadline=None)
def test_functions_are_those_of_mpmath(number: float, name: str) -> None:
    with mpmath.workdps(60):
        expected = getattr(mpmath, name)(mpmath.mpf(repr(number)))
        value = arithmetic.calculate(f"{name}({number!r})")
        if value.exact is None:
            assert mpmath.almosteq(value.rounded, expected, rel_eps=mpmath.mpf(10) ** -45)
        else:
            assert mpmath.almosteq(mpmath.mpf(value.exact.numerator) / value.exact.denominator, expected)


@given(st.text(alphabet="0123456789.+-*/%() episqrtlnmaxd,^_xjL'\"[]", max_size=60))
@settings(max_examples=500, deadline=2_000)
def test_any_text_is_a_number_or_a_failure(text: str) -> None:
    try:
        value = arithmetic.calculate(text)
    except ToolFailure:
        return
    assert value.decimal()


# -- units


@pytest.mark.parametrize(
    ("amount", "source", "target", "expected"),
    [
        ("1", "inch", "cm", "2.54 cm"),
        ("100", "km/h", "m/s", "27.777777777777777778 m/s (rounded)"),
        ("1/3", "ft", "inch", "4 inch"),
        ("20", "degC", "degF", "68 degF"),
        ("0", "kelvin", "degC", "-273.15 degC"),
        ("1", "kW*h", "joule", "3600000 joule"),
        ("2", "m**2", "cm^2", "20000 cm^2"),
        ("1", "GiB", "MB", "1073.741824 MB"),
        ("90", "minute", "hour", "1.5 hour"),
    ],
)
async def test_units_convert_exactly(amount: str, source: str, target: str, expected: str, said: Text) -> None:
    assert await said("convert_units", amount=amount, from_unit=source, to_unit=target) == expected


@pytest.mark.parametrize(
    ("amount", "source", "target", "hint"),
    [
        ("1", "meter", "second", "do not convert"),
        ("1", "m/s**2", "F", "measures length / time**2"),
        ("1", "metre/secnd", "m/s", "'second'"),
        ("1", "m**1000000", "m", "exponent above"),
        ("1", "m", "", "'' measures a plain number"),
        ("sqrt(2)", "m", "cm", "give the number itself"),
        ("1", "__class__", "m", "Unknown unit"),
        ("1", "3 m", "m", "no unit"),
        ("1", "m squared squared squared squared squared", "m", "Unknown unit 'squared'"),
        ("10", "dBm", "mW", "convert"),
    ],
)
async def test_units_that_do_not_fit_are_told(
    amount: str, source: str, target: str, hint: str, failed: Text
) -> None:
    assert hint in await failed("convert_units", amount=amount, from_unit=source, to_unit=target)


@given(st.text(max_size=units.MAX_CHARS))
@settings(deadline=None)
def test_any_text_is_a_unit_or_a_failure(text: str) -> None:
    with suppress(ToolFailure):
        units.convert(Fraction(1), text, "m")


# -- the server


async def test_the_reference_servers_flow_works() -> None:
    """List the tools, ask for the time, convert one: what clients of mcp-server-time do."""
    async with Client(build_server("UTC")) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names[:2] == ["current_time", "convert_time"]
        read = asker(client)
        assert "Asia/Tokyo" in (await read("current_time", zone="Asia/Tokyo"))[0]
        text, _ = await read("convert_time", time="16:30", from_zone="America/New_York", to_zone="Asia/Tokyo")
        assert "T05:30:00+09:00" in text or "T06:30:00+09:00" in text  # New York is 13 or 14 hours behind


def test_an_unknown_zone_stops_the_start() -> None:
    with pytest.raises(StartError, match="--zone: Unknown time zone"):
        build_server("Mars/Olympus")


def test_what_is_computed_is_finite() -> None:
    assert math.isfinite(float(arithmetic.calculate("10**300").exact or 0))


@pytest.mark.parametrize("unit", ["9**9**9", "m**9**9**9", "((9**9)**9)**9**9"])
async def test_units_that_take_for_ever_are_given_up(unit: str, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    feet = {"amount": "1", "from_unit": "ft", "to_unit": "inch"}
    assert (await ask("convert_units", **feet))[
        0
    ] == "12 inch"  # the child that is given up knows the units already
    with monkeypatch.context() as patched:
        patched.setattr(server, "UNIT_TIMEOUT_S", 0.5)
        text, is_error = await ask("convert_units", amount="1", from_unit=unit, to_unit="m")
    assert is_error and "takes too much to work out" in text
    assert (await ask("convert_units", **feet))[0] == "12 inch"
