"""Exact-match edits, pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.editing import apply_edit


def edit(text: str, old: str, new: str, replace_all: bool = False, max_diff_lines: int = 100):
    return apply_edit(text, old, new, replace_all=replace_all, max_diff_lines=max_diff_lines)


def test_an_edit_gives_the_changed_lines_as_a_diff() -> None:
    done = edit("one\ntwo\nthree\n", "two", "2\n2b")
    assert done.text == "one\n2\n2b\nthree\n"
    assert done.diff == "@@ -2,1 +2,2 @@\n-two\n+2\n+2b"


def test_several_places_need_replace_all() -> None:
    with pytest.raises(ToolFailure, match=r"2 places \(lines 1, 3\)"):
        edit("a\nb\na\n", "a", "c")
    assert edit("a\nb\na\n", "a", "c", replace_all=True).text == "c\nb\nc\n"


@pytest.mark.parametrize("replace_all", [False, True])
def test_overlapping_matches_are_refused(replace_all: bool) -> None:
    with pytest.raises(ToolFailure):
        edit("aaa", "aa", "b", replace_all=replace_all)


@pytest.mark.parametrize(("old", "new"), [("", "x"), ("same", "same"), ("absent", "x")])
def test_an_edit_that_changes_nothing_is_refused(old: str, new: str) -> None:
    with pytest.raises(ToolFailure):
        edit("same text", old, new)


def test_a_near_miss_names_the_nearest_line() -> None:
    with pytest.raises(ToolFailure, match="line 2: 'def main\\(\\):'"):
        edit("import os\ndef main():\n", "def  main():", "x")


def test_windows_line_ends_are_named() -> None:
    with pytest.raises(ToolFailure, match=r"\\r\\n"):
        edit("a\r\nb\r\n", "a\nb", "x")


def test_a_long_diff_is_cut() -> None:
    diff = edit("x\n" * 1_000, "x", "y", replace_all=True, max_diff_lines=10).diff
    assert len(diff.split("\n")) == 11


@given(
    st.text(alphabet="ab\n", max_size=30),
    st.text(alphabet="ab\n", min_size=1, max_size=3),
    st.text(alphabet="ab\n", max_size=3),
    st.booleans(),
)
def test_an_accepted_edit_is_what_str_replace_gives(text: str, old: str, new: str, replace_all: bool) -> None:
    try:
        done = edit(text, old, new, replace_all)
    except ToolFailure:
        return
    assert done.text == text.replace(old, new)
    assert done.replacements == text.count(old)
