from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelstack.toolcalls.grammar.formats import FORMATS
from modelstack.toolcalls.grammar.regex import RegexError, compile_regex

pieces = st.sampled_from(
    [
        "a",
        "b",
        "[ab]",
        "[^a]",
        ".",
        "(a|b)",
        "(ab|c)",
        "a?",
        "b*",
        "c+",
        "(a|bc)*",
        "a{2}",
        "b{1,2}",
        "\\d",
        "x{0,}",
    ]
)
patterns = st.builds(
    lambda start, parts, end: start + "".join(parts) + end,
    st.sampled_from(["", "^"]),
    st.lists(pieces, max_size=5),
    st.sampled_from(["", "$"]),
)


@given(patterns, st.text("abcx1", max_size=7))
def test_it_agrees_with_re(pattern: str, text: str) -> None:
    assert compile_regex(pattern).search(text) == bool(re.search(pattern.replace("$", "\\Z"), text))


@given(patterns, st.integers(0, 6))
def test_a_completion_matches_and_is_long_enough(pattern: str, at_least: int) -> None:
    regex = compile_regex(pattern)
    found = regex.completion(regex.start, at_least)
    if found is not None:
        assert len(found) >= at_least
        assert regex.search(found)


@given(patterns, st.text("abc", max_size=4))
def test_a_state_that_is_not_empty_can_still_match(pattern: str, text: str) -> None:
    regex = compile_regex(pattern)
    states = regex.start
    for character in text:
        states = regex.step(states, character)
    assert bool(states) == (regex.completion(states) is not None if states else False)


def test_a_pattern_that_stops_re_is_harmless() -> None:
    regex = compile_regex("^(a+)+$")
    assert regex.search("a" * 20_000)
    assert not regex.search("a" * 20_000 + "b")


@pytest.mark.parametrize(
    "pattern",
    ["(?=a)", "(?!a)", "(?<=a)b", "(a)\\1", "\\bx", "(?i)a", "(", "a{0,50000}", "((a{99}){99}){99}", "\\Z"],
)
def test_what_is_not_linear_is_refused(pattern: str) -> None:
    with pytest.raises(RegexError):
        compile_regex(pattern)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("^\\d$", "٣", False),
        ("^\\w$", "é", False),
        ("^.$", "\n", False),
        ("^a$", "a\n", False),
        ("^\\s$", "\u00a0", True),
        ("^(?<n>a)$", "a", True),
        ("\\/", "/", True),
    ],
)
def test_the_dialect_is_that_of_ecma(pattern: str, text: str, matches: bool) -> None:
    assert compile_regex(pattern).search(text) is matches


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "date",
            ["2024-02-29", "2000-02-29", "1999-12-31"],
            ["2023-02-29", "1900-02-29", "2024-13-01", "2024-1-1"],
        ),
        ("time", ["12:00:00Z", "23:59:59.5+02:00"], ["24:00:00Z", "12:00:00"]),
        ("date-time", ["2024-01-31T00:00:00Z"], ["2024-01-31", "2024-01-31 00:00:00Z"]),
        ("duration", ["P3D", "PT1H30M", "P1Y2M"], ["P", "3D", "PT"]),
        ("email", ["a@b.org", "x.y+z@sub.example.com"], ["a@b", "@b.org", "a b@c.org"]),
        ("hostname", ["localhost", "a-b.example"], ["-a", "a..b"]),
        ("ipv4", ["127.0.0.1"], ["256.0.0.1", "1.2.3", "01.2.3.4"]),
        ("ipv6", ["::1", "fe80::1:2", "1:2:3:4:5:6:7:8"], ["1:2", ":::", "g::"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
        ("uri", ["https://a.org/b?c=d#e", "mailto:a@b"], ["a.org", "http: //x", "http://a b"]),
    ],
)
def test_formats(name: str, good: list[str], bad: list[str]) -> None:
    regex = compile_regex(FORMATS[name])
    assert [text for text in good if not regex.search(text)] == []
    assert [text for text in bad if regex.search(text)] == []
