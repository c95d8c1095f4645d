"""Suggestions and differences stay cheap, whatever a model or a server writes."""

from __future__ import annotations

import difflib

from hypothesis import given
from hypothesis import strategies as st

from agentkit.basics.near_names import MAX_LINES, difference, near_names


def test_the_nearest_names_come_first() -> None:
    assert near_names("serch", ["fetch", "search", "read"]) == ["search"]
    assert near_names("xyz", ["search"]) == []
    assert near_names("reads", ["read", "reader", "write"], n=2) == ["read", "reader"]


def test_names_of_any_length_and_number_are_no_load() -> None:
    # Quadratic comparing would take hours.
    assert near_names("ab" * 500_000, ["ab" * 400_000, "ab"]) == []
    assert near_names("ab", ["ba" * 500_000] * 50 + ["abc"]) == ["abc"]
    assert near_names("a1", (f"{n:06}" for n in range(10**7))) == []


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_short_differences_are_difflibs(old: list[str], new: list[str]) -> None:
    wanted = list(difflib.unified_diff(old, new, "a", "b", lineterm="", n=1))
    assert difference(old, new, old_name="a", new_name="b") == wanted


def test_long_differences_show_the_first_lines_of_what_differs() -> None:
    same = [f"same {n}" for n in range(50_000)]
    old, new = ["x", "y"] * 60_000, ["y", "x", "x"] * 40_000
    lines = difference([*same, *old, "end"], [*same, *new, "end"], old_name="pinned", new_name="now")
    assert lines[:2] == ["--- pinned", "+++ now"]
    assert lines[2].startswith("@@ -50001,")
    assert {line[0] for line in lines[3:]} == {"-", "+", "."}
    assert len(lines) < MAX_LINES
    assert difference(same, same, old_name="a", new_name="b") == []
