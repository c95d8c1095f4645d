"""Reading documents, holding some out, and samples of a size."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelstack.errors import UserError
from modelstack.tokenizer import documents as reading
from modelstack.tokenizer.documents import Document, find_files, is_held_out, read_documents, sample_documents

RECORDS = [{"text": f"Document {i} has {i * 7} words."} for i in range(400)]


def write_jsonl(path: Path, records: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_records_are_read_from_plain_and_compressed_lines(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard", reason="extra `train`")
    plain = write_jsonl(tmp_path / "a.jsonl", [{"text": "één", "language": "nl"}, {"text": "two", "url": "x"}])
    packed = tmp_path / "b.jsonl.zst"
    packed.write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes() + b"\n\n"))
    assert list(read_documents(plain)) == [Document("één", "a", "nl"), Document("two", "a")]
    assert [document.text for document in read_documents(packed)] == ["één", "two"]
    assert [document.domain for document in read_documents(packed)] == ["b", "b"]


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "novel.txt").write_text("Two\nlines.\n", encoding="utf-8")
    assert list(read_documents(tmp_path / "novel.txt")) == [Document("Two\nlines.\n", "novel")]


def test_a_folder_of_records_gives_these_and_not_the_note_on_their_sources(tmp_path: Path) -> None:
    records = write_jsonl(tmp_path / "b.jsonl", [{"text": "x"}])
    (tmp_path / "SOURCES.md").write_text("where from", encoding="utf-8")
    assert find_files([tmp_path]) == [records]
    assert find_files([tmp_path / "SOURCES.md", tmp_path]) == [tmp_path / "SOURCES.md", records]


@pytest.mark.parametrize("line", ["{", "[1]", '{"txt": "x"}', '{"text": 1}', "null"])
def test_a_line_that_is_no_record_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"bad\.jsonl, line 2"):
        list(read_documents(path))


def test_a_line_without_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_LINE_CHARACTERS", 20)
    path = write_jsonl(tmp_path / "long.jsonl", [{"text": "x" * 100}])
    with pytest.raises(UserError, match="line of more than 20 characters"):
        list(read_documents(path))


def test_what_is_not_compressed_as_its_name_says_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("zstandard", reason="extra `train`")
    (tmp_path / "a.jsonl.zst").write_bytes(b"not zstd at all")
    with pytest.raises(UserError, match="is not a complete zstd file"):
        list(read_documents(tmp_path / "a.jsonl.zst"))


def test_missing_paths_and_unknown_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is neither a folder"):
        find_files([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"no file of kind \.jsonl"):
        find_files([tmp_path])


def test_the_two_sides_of_the_split_are_all_documents_and_share_none(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", RECORDS)
    left, right = (sample_documents([path], None, held_out=side, share=0.25) for side in (True, False))
    assert sorted(d.text for d in left + right) == sorted(str(r["text"]) for r in RECORDS)
    assert not {d.text for d in left} & {d.text for d in right}
    assert 60 < len(left) < 140


@given(text=st.text(), small=st.floats(0, 1), large=st.floats(0, 1))
def test_a_larger_share_holds_out_what_a_smaller_one_does(text: str, small: float, large: float) -> None:
    small, large = sorted((small, large))
    assert is_held_out(text, large) or not is_held_out(text, small)
    assert is_held_out(text, 1.0)
    assert not is_held_out(text, 0.0)


def test_a_sample_is_within_its_size_takes_as_much_of_each_file_and_grows_by_addition(tmp_path: Path) -> None:
    files = [write_jsonl(tmp_path / f"{name}.jsonl", RECORDS) for name in "ab"]
    small, large = (sample_documents(files, size, held_out=False, share=0) for size in (2_000, 8_000))
    for sample, size in ((small, 2_000), (large, 8_000)):
        of_each = [sum(len(d.text) for d in sample if d.domain == name) for name in "ab"]
        assert of_each[0] == of_each[1]
        assert size * 0.95 < sum(of_each) <= size
    assert {d.text for d in small} < {d.text for d in large}
    order = [int(d.text.split()[1]) for d in large if d.domain == "a"]
    assert max(order) > 350
    assert order != sorted(order)


def test_lines_are_read_one_by_one() -> None:
    lines = reading._lines(io.StringIO("a\n\nb"), Path("x"))
    assert list(lines) == ["a\n", "b"]
