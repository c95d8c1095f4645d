"""One bound for every answer, in text and in data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from mcp import Client

from mcp_servers import answers
from mcp_servers.answers import MAX_BYTES, bounded_data, bounded_failure, bounded_text
from mcp_servers.filesystem.server import build_server

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=6), inner, max_size=6),
    max_leaves=40,
)


@given(st.text(), st.integers(1, 60))
def test_a_text_is_cut_at_a_character_and_says_so(text: str, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "MAX_BYTES", limit)
        shown = bounded_text(text)
    n_bytes = len(text.encode("utf-8", "replace"))
    if n_bytes <= limit:
        assert shown == text
    else:
        kept, _, note = shown.rpartition("\n")
        assert len(kept.encode("utf-8", "replace")) <= limit
        assert note.startswith("(the answer was cut here")


@given(st.dictionaries(st.sampled_from("abcd"), JSON, max_size=4), st.integers(40, 400))
def test_data_keep_their_shape_and_fit(data: dict[str, Any], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "MAX_BYTES", limit)
        cut = bounded_data(data)
    assert cut.keys() == data.keys()
    for key, value in cut.items():
        assert type(value) is type(data[key])
    if len(json.dumps(data, ensure_ascii=False).encode("utf-8", "replace")) <= limit // 2:
        assert cut == data


def test_what_is_large_gives_way_to_what_is_small() -> None:
    cut = bounded_data(
        {"path": "a", "n": 3, "lines": ["x" * 1000] * 5_000, "diff": "y" * 10**6, "truncated": False}
    )
    assert (cut["path"], cut["n"], cut["truncated"]) == ("a", 3, True)
    assert len(json.dumps(cut)) <= MAX_BYTES
    assert len(cut["lines"]) > 50
    assert len(cut["diff"]) > 50_000


def test_a_failure_keeps_both_ends() -> None:
    said = bounded_failure("begin" + "x" * 10**6 + "end")
    assert said.startswith("begin") and said.endswith("end") and len(said) < 11_000


@pytest.mark.anyio
async def test_a_server_answers_within_the_bound_and_by_its_schema(tmp_path: Path) -> None:
    for n in range(900):
        (tmp_path / f"{n:04}{'n' * 240}").write_text("hit " + "ä" * 190 + "\n", encoding="utf-8")
    (tmp_path / "one.txt").write_text("a\n" * 90_000, encoding="utf-8")
    async with Client(build_server(str(tmp_path), write=True)) as client:
        schemas = {tool.name: tool.output_schema for tool in (await client.list_tools()).tools}
        for name, arguments in (
            ("list_directory", {}),
            ("tree", {}),
            ("search_files", {"pattern": "*"}),
            ("search_text", {"text": "hit"}),
            ("read_text_file", {"path": "one.txt", "limit": 10_000}),
            ("edit_file", {"path": "one.txt", "old_text": "a", "new_text": "b" * 5_000, "replace_all": True}),
            ("read_text_file", {"path": "p" * 500_000}),
        ):
            result = await client.call_tool(name, arguments)
            text = "".join(block.text for block in result.content if block.type == "text")
            assert len(text.encode()) <= MAX_BYTES + 200, name
            if result.structured_content is not None:
                assert len(json.dumps(result.structured_content, ensure_ascii=False).encode()) <= MAX_BYTES, name
                Draft202012Validator(schemas[name] or {}).validate(result.structured_content)
