"""JSON lines and Parquet: fields, what is broken, bounds."""

from __future__ import annotations

import datetime
import gzip
import json
import math
import random
import re
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
import zstandard

from mcp_servers.distribution import install_command
from modelstack.data.documents import Broken, Document
from modelstack.data.reading import JsonlInput, Limits, ParquetInput, open_input
from modelstack.errors import UserError


def read_lines(path: Path, data: bytes, **settings) -> list[Document | Broken]:
    path.write_bytes(data)
    return list(open_input(JsonlInput(path=path, **settings)))


def outcome(items: list[Document | Broken]) -> list[str]:
    return [item.reason if isinstance(item, Broken) else item.text for item in items]


def test_known_fields_are_kept_and_the_rest_is_metadata(tmp_path: Path) -> None:
    record = {"text": "hello", "id": 7, "source": "s", "license": "MIT", "url": "u", "score": 0.5, "tags": ["a"]}
    (item,) = read_lines(tmp_path / "a.jsonl", json.dumps(record).encode())
    assert item == Document("7", "hello", b"", "s", "MIT", "u", {"score": 0.5, "tags": ["a"]})


def test_fields_can_have_other_names_and_defaults_come_from_the_recipe(tmp_path: Path) -> None:
    line = (
        b'{"content": "hello", "metadata": {"url": "u", "n": 1}, "n": 2}\n\n{"content": "again", "source": null}'
    )
    first, second = read_lines(tmp_path / "a.jsonl", line, text_field="content", license="CC0-1.0", source="mine")
    assert first == Document("a.jsonl:1", "hello", b"", "mine", "CC0-1.0", "u", {"url": "u", "n": 2})
    assert second == Document("a.jsonl:3", "again", b"", "mine", "CC0-1.0", "")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_lines_are_read_however_the_file_is_packed(tmp_path: Path, pack) -> None:
    chance = random.Random(0)
    texts = ["x" * chance.randrange(9) + chance.randbytes(chance.randrange(3000)).hex() for _ in range(300)]
    lines = [json.dumps({"text": text}).encode() + b"\r\n" for text in texts]
    # Members may be cut anywhere, as bgzip does.
    whole = b"".join(lines)
    data = pack(whole[:100_001]) + pack(whole[100_001:])
    assert outcome(read_lines(tmp_path / "a.jsonl.gz", data)) == texts


def test_a_bad_line_costs_itself(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "first"}',
        b'{"text": "cut',
        b'{"text": "\xff"}',
        b'["text"]',
        b'{"title": "t"}',
        b'{"text": 5}',
        b'{"text": "half a pair \\ud800"}',
        b"[" * 100_000,
        b'{"text": "x", "n": ' + b"9" * 5000 + b"}",
        b'{"text": "last", "score": NaN}',
    ]
    items = read_lines(tmp_path / "a.jsonl", b"\n".join(lines))
    assert outcome(items) == [
        "first",
        "not_json",
        "invalid_utf8",
        "not_object",
        "no_text",
        "no_text",
        "invalid_utf8",
        "not_json",
        "not_json",
        "last",
    ]
    assert items[1].id == "a.jsonl:2"
    assert isinstance(items[-1], Document) and items[-1].metadata == {"score": None}


@pytest.mark.parametrize("pack", [bytes, partial(gzip.compress, compresslevel=1), zstandard.compress])
def test_a_line_without_end_is_passed_and_memory_stays(tmp_path: Path, pack) -> None:
    noise = random.Random(0).randbytes(6_000_000).hex().encode()
    data = pack(b'{"text": "a"}\n{"text": "' + noise + b'"}\n{"text": "b"}\n')
    file = tmp_path / "a.jsonl"
    file.write_bytes(data)
    del data
    tracemalloc.start()
    items = list(open_input(JsonlInput(path=file, limits=Limits(max_line_bytes=1_000_000))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert outcome(items) == ["a", "line_too_long", "b"]
    assert peak < 8_000_000


def test_a_file_that_unpacks_without_end_is_left(tmp_path: Path) -> None:
    bomb = zstandard.compress(b'{"text": "a"}\n' + b" " * 100_000_000)
    after = gzip.compress(b'{"text": "b"}\n')
    assert outcome(read_lines(tmp_path / "a.jsonl", bomb)) == ["a", "expands_too_far"]
    packed = gzip.compress(b'{"text": "a"}\n' + b" " * 20_000_000) + after
    assert outcome(read_lines(tmp_path / "a.jsonl", packed)) == ["a", "expands_too_far", "b"]


def test_a_truncated_file_gives_its_whole_lines(tmp_path: Path) -> None:
    chance = random.Random(0)
    lines = b"".join(b'{"text": "%s"}\n' % chance.randbytes(50).hex().encode() for _ in range(50))
    items = read_lines(tmp_path / "a.jsonl.gz", gzip.compress(lines)[:-200])
    assert 30 < len(items) < 50
    assert outcome(items)[-1] == "truncated"
    assert all(isinstance(item, Document) for item in items[:-1])


def write_parquet(path: Path, columns: dict[str, list], **settings) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table(columns), path, **settings)
    return path


def test_rows_of_parquet_are_documents(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(700)]
    times = [datetime.datetime(2026, 1, 1)] * 700
    columns = {"text": texts, "id": texts, "time": times, "score": [math.nan] * 700, "tags": [["a", None]] * 700}
    file = write_parquet(tmp_path / "a.parquet", columns, row_group_size=300)
    items = list(open_input(ParquetInput(path=tmp_path, source="s")))
    assert [item.id for item in items] == texts
    assert items[-1] == Document(
        "text 699",
        "text 699",
        source="s",
        metadata={"time": "2026-01-01T00:00:00", "score": None, "tags": ["a", None]},
    )
    nameless = list(open_input(ParquetInput(path=file, id_field="none", text_field="id")))
    assert nameless[650].id == "a.parquet:650"
    large = list(open_input(ParquetInput(path=file, max_row_group_bytes=10)))
    assert outcome(large) == ["row_group_too_large"] * 3


def test_damaged_parquet_is_broken(tmp_path: Path) -> None:
    good = write_parquet(tmp_path / "a.parquet", {"text": ["text"] * 3, "other": ["b"] * 3}).read_bytes()
    bad_text = write_parquet(tmp_path / "b.parquet", {"text": [None, b"\xff\xfe", b"x"]})
    assert outcome(list(open_input(ParquetInput(path=bad_text)))) == ["no_text", "no_text", "x"]
    for damaged in (b"", b"PAR1", good[:-20], good[:4] + bytes(60) + good[64:]):
        file = tmp_path / "c.parquet"
        file.write_bytes(damaged)
        assert all(isinstance(item, Broken) for item in open_input(ParquetInput(path=file)))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=re.escape(install_command("parquet"))):
        list(open_input(ParquetInput(path=tmp_path)))
