"""Folders of pages and of code, and how inputs are cut into units of work."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from modelstack.data.documents import Broken, Document
from modelstack.data.reading import (
    CodeInput,
    HtmlInput,
    InputConfig,
    JsonlInput,
    Limits,
    WarcInput,
    open_input,
    read_shard,
    shards_of,
)
from modelstack.errors import UserError


def outcome(items) -> dict[str, str]:
    return {item.id: item.reason if isinstance(item, Broken) else item.text for item in items}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "tool"
    for name, content in {
        "main.py": b"print('\xc3\xa9')\n",
        "src/a.rs": b"fn main() {}\n",
        "src/big.js": b"x" * 5000,
        "src/picture.png": b"\x89PNG\0\0",
        "src/latin.py": b"# caf\xe9\n",
        "node_modules/other/index.js": b"no",
        ".git/config": b"no",
        ".secret.py": b"no",
    }.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root


def test_code_is_read_with_its_path_and_repository(repository: Path) -> None:
    config = CodeInput(path=repository, license="MIT", max_file_bytes=1000)
    items = list(open_input(config))
    assert outcome(items) == {
        "main.py": "print('é')\n",
        "src/a.rs": "fn main() {}\n",
        "src/big.js": "record_too_large",
        "src/latin.py": "invalid_utf8",
        "src/picture.png": "binary",
    }
    rust = items[1]
    assert isinstance(rust, Document)
    assert (rust.license, rust.source) == ("MIT", "tool")
    assert rust.metadata == {"path": "src/a.rs", "repository": "tool", "extension": ".rs"}


def test_code_can_be_chosen_by_suffix(repository: Path) -> None:
    config = CodeInput(path=repository, suffixes=(".rs",), repository="me/tool")
    (item,) = open_input(config)
    assert isinstance(item, Document) and item.metadata["repository"] == "me/tool"


def test_no_link_and_no_pipe_is_opened(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text("secret", encoding="utf-8")
    (repository / "link.py").symlink_to(tmp_path / "outside.py")
    (repository / "loop").symlink_to(repository)
    os.mkfifo(repository / "pipe.py")
    config = CodeInput(path=repository, suffixes=(".py",))
    assert set(outcome(open_input(config))) == {"main.py", "src/latin.py"}
    # The file becomes a link after the folder was listed.
    (shard,) = shards_of(config)
    (repository / "main.py").unlink()
    (repository / "main.py").symlink_to(tmp_path / "outside.py")
    assert outcome(read_shard(config, shard))["main.py"] == "unreadable"


def test_pages_of_a_folder_are_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.HTML").write_bytes(b'<meta name=robots content="noai"><p>hi')
    (tmp_path / "c.htm").write_bytes(b"x" * 3000)
    (tmp_path / "d.txt").write_bytes(b"no")
    config = HtmlInput(path=tmp_path, base_url="https://example.org/", limits=Limits(max_record_bytes=2000))
    page, large = open_input(config)
    assert isinstance(page, Document)
    assert (page.id, page.url, page.content[:5]) == ("a/b.HTML", "https://example.org/a/b.HTML", b"<meta")
    assert page.metadata == {"path": "a/b.HTML", "content_type": "text/html", "robots": ["noai"]}
    assert isinstance(large, Broken) and large.reason == "record_too_large"


def test_a_unit_of_work_is_a_file_or_so_many_small_ones(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    config = JsonlInput(path=tmp_path)
    assert [shard.files for shard in shards_of(config)] == [(tmp_path / f"{i}.jsonl",) for i in range(5)]
    some = JsonlInput(path=tmp_path / "[34].json*")
    assert [item.id for item in open_input(some)] == ["3.jsonl:1", "4.jsonl:1"]
    code = CodeInput(path=tmp_path, files_in_shard=2)
    assert [len(shard.files) for shard in shards_of(code)] == [2, 2, 1]
    assert len({shard.name for shard in shards_of(code)}) == 3
    cut = [item.id for shard in shards_of(code) for item in read_shard(code, shard)]
    assert cut == [item.id for item in open_input(code)]


def test_shards_may_be_links_as_a_hubs_cache_has_them(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "1"
    blob.parent.mkdir()
    blob.write_text('{"text": "a"}', encoding="utf-8")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "a.jsonl").symlink_to(blob)
    assert outcome(open_input(JsonlInput(path=tmp_path / "snapshot"))) == {"a.jsonl:1": "a"}


def test_ids_tell_files_of_one_name_in_two_folders_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}'))
    for path in (tmp_path, tmp_path / "*" / "*.gz", tmp_path / "**" / "*.gz"):
        assert [item.id for item in open_input(JsonlInput(path=path))] == [
            "a/part.jsonl.gz:1",
            "b/part.jsonl.gz:1",
        ]


def test_a_recipe_chooses_the_reader_by_kind() -> None:
    inputs = TypeAdapter(InputConfig)
    chosen = inputs.validate_python({"kind": "warc", "path": "a.warc.gz", "limits": {"max_record_bytes": 4096}})
    assert chosen == WarcInput(path=Path("a.warc.gz"), limits=Limits(max_record_bytes=4096))
    with pytest.raises(ValidationError, match="'warc', 'wet', 'html', 'jsonl', 'parquet', 'code'"):
        inputs.validate_python({"kind": "csv", "path": "a.csv"})


def test_a_folder_without_what_is_looked_for_is_the_users_to_put_right(tmp_path: Path) -> None:
    for config in (HtmlInput(path=tmp_path), CodeInput(path=tmp_path), JsonlInput(path=tmp_path / "*.jsonl")):
        with pytest.raises(UserError, match=r"check (the )?path"):
            list(open_input(config))
