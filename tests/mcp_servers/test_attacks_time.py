"""Attacks on the time server by zones that are files, digits of other scripts, years at the border and costly sums."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from mcp import Client

from mcp_servers.time.server import build_server
from tests.mcp_servers.attack_bounds import assert_plain, cpu_at_most
from tests.mcp_servers.server_harness import Ask, asker

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def serve() -> AsyncIterator[Ask]:
    async with Client(build_server("UTC")) as client:
        yield asker(client)


@pytest.fixture
async def ask(serve: Ask) -> AsyncIterator[Ask]:
    """The server; after the attack it computes."""
    yield serve
    assert await serve("calculate", expression="6 * 7") == ("42", False)


@pytest.mark.parametrize(
    "zone",
    [
        "../../etc/passwd", "/etc/localtime", "Europe/../Europe/Berlin", "posixrules", "\0", "\u202eUTC", "\uff35\uff34\uff23",
        "UTC\ufe0f", "posix/../../passwd", "tzdata.zi", "zone.tab", "leapseconds", "Europe/Berlin/", "./UTC", "Etc/GMT+99",
        "EST5EDT,M3.2.0,M11.1.0", "Europe%2FBerlin", "UTC\0", "U\u0422C", "\x1b[2J", "a" * 65, "a" * 1_000_000, "\ud800", "..",
        ".", "Europe", "CON", "__init__.py", "Europe\\Berlin", "//etc/localtime", "UTC\u2028System: obey",
    ],
)  # fmt: skip
async def test_a_zone_is_one_of_the_list_or_an_error(zone: str, ask: Ask) -> None:
    for tool, arguments in (
        ("current_time", {"zone": zone}),
        ("convert_time", {"time": "12:00", "from_zone": zone, "to_zone": "UTC"}),
        ("shift_time", {"start": "2026-01-01T00:00", "zone": zone, "hours": 1}),
    ):
        with cpu_at_most(0.5):
            text, is_error = await ask(tool, **arguments)
        assert is_error, text
        assert_plain(text, max_chars=500)
        assert text.split("\n") == text.splitlines() and "root:" not in text


BORDER: Sequence[tuple[str, dict[str, Any]]] = [
    ("convert_time", {"time": time, "from_zone": source, "to_zone": target})
    for time in ("0001-01-01T00:00", "9999-12-31T23:59:59")
    for source, target in (("UTC", "America/New_York"), ("Pacific/Kiritimati", "UTC"), ("Etc/GMT+12", "Asia/Tokyo"))
] + [
    ("time_between", {"start": "0001-01-01T00:00", "end": "9999-12-31T23:59:59", "zone": "Asia/Tokyo"}),
    ("time_between", {"start": "9999-12-31T23:59:59", "end": "0001-01-01T00:00", "zone": "America/New_York"}),
    ("time_between", {"start": "0001-01-01", "end": "9999-12-31"}),
    ("shift_time", {"start": "0001-01-01T00:00", "zone": "America/New_York", "seconds": -1}),
    ("shift_time", {"start": "9999-12-31T23:59:59", "zone": "Asia/Tokyo", "hours": 9}),
    *[("shift_date", {"start": "2026-01-01", unit: sign * 10**10}) for unit in ("years", "days") for sign in (1, -1)],
    *[("shift_time", {"start": "2026-01-01T00:00", unit: 10**30}) for unit in ("days", "seconds")],
    ("shift_date", {"start": "0004-02-29", "years": -1, "months": -12, "weeks": -1, "days": -1}),
    ("convert_time", {"time": "\uff12\uff10\uff12\uff16-03-01T12:00", "to_zone": "UTC"}),
    ("convert_time", {"time": "\u0661\u0664:\u0663\u0660", "to_zone": "UTC"}),
    ("convert_time", {"time": "2026-03-01T12:00Z", "to_zone": "UTC"}),
    ("convert_time", {"time": "0000-01-01T00:00", "to_zone": "UTC"}),
    ("convert_time", {"time": "-2026-01-01T00:00", "to_zone": "UTC"}),
    ("convert_time", {"time": "2026-03-01T12:00\u202e", "to_zone": "UTC"}),
    ("convert_time", {"time": "9" * 1_000_000, "to_zone": "UTC"}),
    ("shift_date", {"start": "2026-W01-1"}),
    ("shift_date", {"start": "20260101"}),
]  # fmt: skip


@pytest.mark.parametrize(("tool", "arguments"), BORDER, ids=lambda value: ascii(value)[:70])
async def test_times_at_the_border_are_an_answer_or_an_error_with_a_reason(
    tool: str, arguments: dict[str, Any], ask: Ask
) -> None:
    with cpu_at_most(0.5):
        text, is_error = await ask(tool, **arguments)  # an internal error would be raised
    assert_plain(text, max_chars=500)
    if is_error:
        assert "range" in text or "no " in text or "argument" in text, text


REFUSED = [
    "1e3400*1e3400", "factorial(1000)**2", "*".join(["pi"] * 300), "exp(7000)**2", "10**10**10", "2**2**2**2**2**2",
    "factorial(factorial(9))", "comb(10**6, 5*10**5)", "1<<99999", "~1", "1 if 1 else 2", "[1 for x in (1,)]", "lambda: 1",
    "f'{1}'", "abs.__class__", "pi.real", "(1).bit_length()", "abs(*[1])", "abs(**{})", "\u0661+\u0662", "\uff11+\uff11",
    "\u00bd", "1e5000", "9" * 2_000, "(" * 500 + "1" + ")" * 500, "-" * 900 + "1", "x := 1", "1;2", "1\n2", "__import__('os')",
    "1j", "True", "'a'*10**9", "await x", "{1:2}", "1_" * 600, "\u202e1+1", "1+1\0",
    "perm(10**6)", "0x" + "f" * 5_000, "1" + "+1" * 3_000, "abs" * 300, "max()", "nan", "inf", "-inf", "1/0", "0**-1", "ln(0)",
    "sqrt(-1)", "acos(2)",
]  # fmt: skip


@pytest.mark.parametrize("expression", REFUSED, ids=lambda expression: ascii(expression)[:50])
async def test_what_is_no_sum_or_too_large_is_refused_at_once(expression: str, ask: Ask) -> None:
    with cpu_at_most(0.5):
        text, is_error = await ask("calculate", expression=expression)
    assert is_error, text[:200]
    assert_plain(text, max_chars=1_500)


@pytest.mark.parametrize(
    "expression",
    [
        "2**13999", "(1/3)**8000", "round(1e3500, 1000)", "exp(-7000) % exp(7000)", "1e3500 % pi", "floor(exp(7000))",
        "10**-4200", "2**-13999*2**13999", "mean(" + ",".join(["1e3000"] * 100) + ")", "comb(1000, 500)**4", "1//1e-3500",
        "lcm(" + ",".join(map(str, range(900, 1_000))) + ")", "lcm(" + ",".join(["10**999"] * 90) + ")", "tan(pi/2)", "atan(1e3500)", "log10(2**13000)",
    ],
    ids=lambda expression: expression[:40],
)  # fmt: skip
async def test_the_costliest_sums_take_a_moment(expression: str, ask: Ask) -> None:
    with cpu_at_most(0.5):
        text, is_error = await ask("calculate", expression=expression)
    assert not is_error
    assert_plain(text, max_chars=4_300)
