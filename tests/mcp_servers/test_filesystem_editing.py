"""Exact-match edits, pure."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem import editing
from mcp_servers.filesystem.editing import apply_edit


def edit(text: str, old: str, new: str, replace_all: bool = False, max_diff_lines: int = 100):
    return apply_edit(
        text, old, new, replace_all=replace_all, max_chars=len(text) * 100, max_diff_lines=max_diff_lines
    )


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


def test_lines_of_any_length_and_number_of_places_are_edited_in_linear_time() -> None:
    # In quadratic time each of these would take minutes or hours.
    line = "ab" * 600_000
    with pytest.raises(ToolFailure, match="not found. Read"):
        edit(line, "c" * 600_000, "x")
    with pytest.raises(ToolFailure, match="overlap"):
        edit("a" * 1_000_000, "a" * 500_000, "b", replace_all=True)
    done = edit(line, "a", "c", replace_all=True)
    assert (done.replacements, done.text) == (600_000, "cb" * 600_000)
    assert len(done.diff) < 5_000
    assert "(line cut)" in done.diff
    many = edit("ab\n" * 300_000, "a", "c", replace_all=True)
    assert many.diff.endswith("... (diff cut)")


@given(st.text(st.sampled_from("ab\n"), max_size=30), st.text(st.sampled_from("ab\n"), min_size=1, max_size=3))
def test_touched_lines_are_whole_lines_that_hold_all_places(text: str, old: str) -> None:
    starts: list[int] = []
    position = text.find(old)
    while position >= 0:
        starts.append(position)
        position = text.find(old, position + len(old))
    if not starts:
        return
    ranges = editing._touched_lines(text, starts, len(old))
    assert [start for _, _, places in ranges for start in places] == starts
    for begin, end, places in ranges:
        assert begin == 0 or text[begin - 1] == "\n"
        assert end == len(text) or text[end - 1] == "\n"
        assert begin <= places[0] and places[-1] + len(old) <= end
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ranges))
