"""Cases from files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from agentkit.errors import UserError
from evals.structured_output import reading
from evals.structured_output.reading import read_items
from evals.structured_output.suite import SAMPLE
from evals.structured_output.validity import check
from modelstack.toolcalls.grammar.validation import check_schema

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"name": "t", "description": "A tool", "parameters": SCHEMA}
CALL = {
    "id": "1", "source": "s", "license": "MIT", "split": "validation", "tools": [TOOL],
    "messages": [{"role": "user", "content": "a is 3"}], "calls": [{"name": "t", "arguments": {"a": 3}}],
}  # fmt: skip
REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "tooluse"


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def test_the_sample_holds_25_cases_whose_answers_fit_their_schemas() -> None:
    items = read_items(SAMPLE)
    assert len(items) == 25
    assert all(check_schema(item.schema) is None for item in items)
    assert all(check(item.schema, item.expected).closed for item in items if item.has_expected)
    assert sum(item.has_expected for item in items) == 23


def test_a_tool_call_becomes_a_case_and_a_schema_a_question_without_an_answer(tmp_path: Path) -> None:
    call, schema = read_items(write(tmp_path / "rows.jsonl", CALL, TOOL))
    assert (call.id, call.schema, call.expected, call.license) == ("1", SCHEMA, {"a": 3}, "MIT")
    assert "a is 3" in call.prompt
    assert (schema.id, schema.has_expected) == ("schemas/t", False)
    assert "A tool" in schema.prompt


def test_training_rows_several_calls_and_calls_that_break_their_schema_are_left_out(tmp_path: Path) -> None:
    rows = [
        CALL,
        {**CALL, "id": "2", "split": "train"},
        {**CALL, "id": "3", "calls": CALL["calls"] * 2},
        {**CALL, "id": "4", "calls": []},
        {**CALL, "id": "5", "calls": [{"name": "t", "arguments": {"a": "3"}}]},
        {**CALL, "id": "6", "calls": [{"name": "t", "arguments": {"a": 3, "b": 4}}]},
    ]
    assert [item.id for item in read_items(write(tmp_path / "rows.jsonl", *rows))] == ["1"]
    with pytest.raises(UserError, match="not training data"):
        read_items(write(tmp_path / "train.jsonl", rows[1]))


def test_a_compressed_file_reads_like_a_plain_one(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    plain = write(tmp_path / "rows.jsonl", CALL, TOOL)
    packed = tmp_path / "rows.jsonl.zst"
    packed.write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    assert read_items(packed) == read_items(plain)
    packed.write_bytes(b"\x28\xb5\x2f\xfd" + b"nothing of the kind")
    with pytest.raises(UserError, match="is not a complete zstd file"):
        read_items(packed)


def test_a_folder_of_schemas_is_read_without_its_other_files(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    write(tmp_path / "inner" / "thing.json", {"$schema": "x", "title": "A thing", **SCHEMA})
    write(tmp_path / "data.json", [1, 2])
    (item,) = read_items(tmp_path)
    assert item.id == "inner/thing.json"
    assert "A thing" in item.prompt


def test_a_file_of_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "thing.json"
    path.write_bytes(b'{"title": "\xff"}')
    with pytest.raises(UserError, match=r"thing\.json: not UTF-8"):
        read_items(tmp_path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(UserError, match=r"thing\.json cannot be read"):
        read_items(tmp_path)


def test_schemas_that_share_a_name_are_numbered_and_cases_are_refused(tmp_path: Path) -> None:
    items = read_items(write(tmp_path / "rows.jsonl", TOOL, TOOL))
    assert [item.id for item in items] == ["schemas/t", "schemas/t#2"]
    with pytest.raises(UserError, match="'1' occurs twice"):
        read_items(write(tmp_path / "twice.jsonl", CALL, CALL))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "1"}, "is not of a known kind"),
        ([1], "is not of a known kind"),
        ({"id": "", "prompt": "p", "schema": {}}, "'id'"),
        ({"id": "1", "prompt": 3, "schema": {}}, "'prompt'"),
        ({"id": "1", "prompt": "p", "schema": "object"}, "'schema'"),
        ({"id": "1", "prompt": "p", "schema": SCHEMA, "expected": {}}, "does not fit"),
        ({**CALL, "tools": []}, "must be of one of `tools`"),
        ({**CALL, "messages": ["hi"]}, "must be of one of `tools`"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(UserError, match="line 2: ") as caught:
        read_items(write(tmp_path / "rows.jsonl", TOOL, row))
    assert message in str(caught.value)


def test_a_file_that_is_missing_broken_or_has_an_endless_line_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="is missing"):
        read_items(tmp_path / "none.jsonl")
    path = tmp_path / "rows.jsonl"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: not JSON"):
        read_items(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        read_items(path)
    monkeypatch.setattr(reading, "MAX_LINE_CHARACTERS", 100)
    path.write_text("x" * 101, encoding="utf-8")
    with pytest.raises(UserError, match="longer than 100"):
        read_items(path)


def test_without_zstandard_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "zstandard":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "rows.jsonl.zst").write_bytes(b"")
    with pytest.raises(UserError, match="pip install zstandard"):
        read_items(tmp_path / "rows.jsonl.zst")
    assert io  # the file itself needs nothing else


@pytest.mark.skipif(
    not REAL.exists(), reason="needs the tool-calling data in the folder `shared` beside the project"
)
def test_real_examples_of_tool_calls_are_read() -> None:
    items = read_items(REAL / "validation-open.jsonl.zst")
    assert len(items) > 300
    assert all(item.license != "not stated" and item.has_expected for item in items)
