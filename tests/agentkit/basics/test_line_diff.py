"""Diffs stay cheap, whatever a model or a server writes."""

from __future__ import annotations

import difflib

from hypothesis import given
from hypothesis import strategies as st

from agentkit.basics.line_diff import MAX_LINES, line_diff


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_short_differences_are_difflibs(old: list[str], new: list[str]) -> None:
    wanted = list(difflib.unified_diff(old, new, "a", "b", lineterm="", n=1))
    assert line_diff(old, new, old_name="a", new_name="b") == wanted


def test_long_differences_show_the_first_lines_of_what_differs() -> None:
    same = [f"same {n}" for n in range(50_000)]
    old, new = ["x", "y"] * 60_000, ["y", "x", "x"] * 40_000
    lines = line_diff([*same, *old, "end"], [*same, *new, "end"], old_name="pinned", new_name="now")
    assert lines[:2] == ["--- pinned", "+++ now"]
    assert lines[2].startswith("@@ -50001,")
    assert {line[0] for line in lines[3:]} == {"-", "+", "."}
    assert len(lines) < MAX_LINES
    assert line_diff(same, same, old_name="a", new_name="b") == []
