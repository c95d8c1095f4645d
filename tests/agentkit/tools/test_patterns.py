"""Patterns of strangers cost what they may cost, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from agentkit.tools import patterns
from agentkit.tools.json_schema import compile_schema
from agentkit.tools.patterns import MAX_PRICE, PatternCache, price


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"^[a-z0-9-]{1,64}$", 194),
        (r"\w{80}", 800),
        (r"^.{1,1000}$", 1002),
        (r"(\w{10}){10}", 1000),
        (r"\p{L}{50}", 500),
        (r"a|b\d|[^x]", 8),
        (r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]+)*$", 204),
    ],
)
def test_a_repetition_costs_as_often_as_it_counts(pattern: str, expected: int) -> None:
    assert price(pattern) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    "pattern",
    [r"((a{100}){100}){100}", r"\w{9999}", "a" * 20_000, r"(?<name>\w{900}){9}\k<name>", "(" * 5_000 + "\\w{999}"],
)
def test_what_is_too_dear_is_not_compiled(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_compiled", lambda pattern: pytest.fail("it was compiled"))
    assert price(pattern) == MAX_PRICE + 1
    assert PatternCache().matcher(pattern) is None


def test_a_cache_forgets_what_was_not_used_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    real = patterns._compiled

    def counted(pattern: str) -> Any:
        compiled.append(pattern)
        return real(pattern)

    monkeypatch.setattr(patterns, "_compiled", counted)
    cache = PatternCache(max_kept=25)
    for pattern in ("a{10}", "b{10}", "a{10}", "c{10}", "a{10}", "b{10}"):
        matcher = cache.matcher(pattern)
        assert matcher is not None
        assert matcher(pattern[0] * 10)
        assert not matcher("x")
    assert compiled == ["a{10}", "b{10}", "c{10}", "b{10}"]


def test_thousands_of_patterns_in_one_schema_are_not_compiled_to_list_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[int] = []
    monkeypatch.setattr(patterns, "_compiled", lambda pattern: spent.append(price(pattern)))
    many = {f"p{n}": {"type": "string", "pattern": rf"\w{{80}}{n}"} for n in range(4_500)}
    check = compile_schema({"type": "object", "properties": many}, name="tool")
    assert sum(spent) <= 5_000
    assert len(check.unenforced) <= len(spent)


def test_a_pattern_that_is_too_dear_is_reported_and_lets_values_pass() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": r"^\w{5000}$"}}}
    check = compile_schema(schema, name="tool")
    assert check.unenforced == (r"pattern '^\\w{5000}$' is not enforced: compiled, it would take too much memory",)
    assert check.problems({"a": "x"}) == []
