"""The path rules as pure functions, fuzzed."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.policy import (
    MAX_DEPTH,
    MAX_NAME_BYTES,
    TRASH,
    compile_glob,
    glob_matches,
    joined,
    parse_path,
    parse_target,
    shown,
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (".", ()),
        ("./././a", ("a",)),
        ("a//b/", ("a", "b")),
        ("..\\secret", ("..\\secret",)),
        ("%2e%2e/secret", ("%2e%2e", "secret")),
        ("...", ("...",)),
        ("e\u0301", ("e\u0301",)),
    ],
)
def test_a_path_is_taken_literally(text: str, parts: tuple[str, ...]) -> None:
    assert parse_path(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "../secret",
        "a/../../secret",
        "a/..",
        "/etc/passwd",
        "/",
        "//etc",
        "a\0b",
        "a\nb",
        "\x7f",
        "\ud800",
        "x" * 5_000,
        "x" * (MAX_NAME_BYTES + 1),
        "\u00e9" * 128,
        "/".join(["d"] * 2_000),
        "/".join(["d"] * (MAX_DEPTH + 1)),
    ],
)
def test_a_path_that_could_leave_the_root_or_the_caps_is_refused(text: str) -> None:
    with pytest.raises(ToolFailure):
        parse_path(text)


@given(st.text(alphabet=st.one_of(st.sampled_from("./\\ %\0\n~a"), st.characters()), max_size=60))
def test_every_accepted_path_is_a_tuple_of_plain_names(text: str) -> None:
    try:
        parts = parse_path(text)
    except ToolFailure:
        return
    assert not any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts)
    assert os.path.normpath(os.path.join("/r", *parts)) == "/".join(["/r", *parts])
    assert parse_path(joined(parts)) == parts


@given(st.binary(min_size=1, max_size=40))
def test_any_name_on_disk_can_be_sent_and_shown_on_one_line(name: bytes) -> None:
    text = shown(os.fsdecode(name))
    text.encode("utf-8")
    assert text.isprintable()


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_name_pattern_makes_the_matcher_fail(pattern: str, name: str) -> None:
    try:
        glob = compile_glob(pattern)
    except ToolFailure:
        return
    assert glob_matches(glob, (name,), whole_path=False) in (True, False)


@pytest.mark.parametrize("text", [".", "./", TRASH, f"{TRASH}/x", "a/.mcp-tmp-1"])
def test_the_root_the_trash_and_reserved_names_are_no_targets(text: str) -> None:
    with pytest.raises(ToolFailure):
        parse_target(text)


def test_an_absolute_path_is_answered_with_the_relative_one() -> None:
    with pytest.raises(ToolFailure, match="'notes/todo.md'"):
        parse_path("/notes/todo.md")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain \u00e9", "plain \u00e9"),
        ("\u2764\ufe0f", "\u2764\ufe0f"),
        ("a\ufe00", "a\\ufe00"),
        ("a\U000e0141\U000e0142", "a\\U000e0141\\U000e0142"),
        ("a\u034f\u3164", "a\\u034f\\u3164"),
        ("a\u202eb", "a\\u202eb"),
    ],
)
def test_what_cannot_be_seen_in_a_name_is_shown_as_an_escape(name: str, text: str) -> None:
    assert shown(name) == text
