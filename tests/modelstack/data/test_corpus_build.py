"""Choosing the shipped corpus: quotas, licences, decontamination, the same bytes again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelstack.data.corpus_build import Record, build, choose, evaluation_files, packed_records, read_records
from modelstack.data.corpus_sources import Source
from modelstack.data.decontaminate import index_of
from modelstack.errors import UserError

STORIES = Source("stories", "tales", "MIT", 0.001, "nobody")
POEMS = Source("stories", "poems", "CC0-1.0", 1, "somebody")
LEAK = "how many eggs does the hen lay in a week if she rests on sundays"


def record(i: int, text: str | None = None, **changes: str) -> Record:
    return {
        "text": text or f"tale {i} " + "la " * 20,
        "source": "tales",
        "license": "MIT",
        "url": f"u{i:03}",
    } | changes


def write_corpus(folder: Path, records: list[Record]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "stories.jsonl.zst").write_bytes(packed_records(records))
    return folder


def test_a_source_gives_no_more_than_its_megabytes_and_in_the_order_of_urls() -> None:
    records = [record(i) for i in range(100)]
    chosen = choose(STORIES, records, frozenset())
    assert 900 < chosen.n_bytes <= 1000
    assert chosen.n_bytes == sum(len(r["text"].encode()) for r in chosen.records)
    urls = [r["url"] for r in chosen.records]
    assert urls == sorted(urls)
    assert urls != [r["url"] for r in records[: len(urls)]]
    assert choose(STORIES, records[::-1], frozenset()) == chosen


def test_a_record_that_repeats_an_evaluation_is_dropped_and_counted() -> None:
    records = [record(0), record(1, f"Q: {LEAK.title()}?"), record(2)]
    chosen = choose(STORIES, records, index_of([LEAK]))
    assert [r["url"] for r in chosen.records] == ["u000", "u002"]
    assert chosen.n_contaminated == 1


def test_a_licence_that_is_not_the_sources_is_refused() -> None:
    with pytest.raises(UserError, match="u001 has licence 'CC-BY-NC-4.0', tales 'MIT'"):
        choose(STORIES, [record(0), record(1, license="CC-BY-NC-4.0")], frozenset())
    assert choose(STORIES, [record(0, license="MIT (text: Ann)")], frozenset()).records


def test_a_url_that_is_left_out_is_not_taken() -> None:
    chosen = choose(STORIES, [record(0), record(1, url="github:standardebooks/a-a-milne_pooh")], frozenset())
    assert [r["url"] for r in chosen.records] == ["u000"]


def test_a_source_without_records_is_told(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", [record(0)])
    with pytest.raises(UserError, match="no record of source 'poems'"):
        build(corpus, [], tmp_path / "out", [STORIES, POEMS])


def test_a_corpus_is_the_same_bytes_when_built_again_from_records_in_another_order(tmp_path: Path) -> None:
    records = [record(i) for i in range(40)] + [
        record(i, source="poems", license="CC0-1.0") for i in range(40, 60)
    ]
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"question": LEAK}) + "\n", encoding="utf-8")
    for name, order in (("a", records), ("b", records[::-1])):
        corpus = write_corpus(tmp_path / f"corpus-{name}", order)
        build(corpus, [evaluation], tmp_path / name, [STORIES, POEMS])
    for file in ("stories.jsonl.zst", "SOURCES.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    written = list(read_records(tmp_path / "a" / "stories.jsonl.zst"))
    assert [r["source"] for r in written] == ["tales"] * (len(written) - 20) + ["poems"] * 20
    assert "| stories | poems | 20 | 0.00 | 0 | CC0-1.0 |" in (tmp_path / "a" / "SOURCES.md").read_text("utf-8")


def test_training_sets_among_the_evaluations_are_not_read_as_such(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("gsm8k_train.jsonl", "deep/gsm8k_test.jsonl", "HumanEval.jsonl.gz", "SOURCES.md"):
        (tmp_path / name).touch()
    assert [file.name for file in evaluation_files([tmp_path])] == ["HumanEval.jsonl.gz", "gsm8k_test.jsonl"]
    with pytest.raises(UserError, match="nowhere is not there"):
        evaluation_files([tmp_path / "nowhere"])


def test_a_missing_or_broken_file_names_its_path(tmp_path: Path) -> None:
    path = tmp_path / "stories.jsonl.zst"
    with pytest.raises(UserError, match="stories.jsonl.zst is not there"):
        list(read_records(path))
    path.write_bytes(b"no zstd")
    with pytest.raises(UserError, match="stories.jsonl.zst is broken"):
        list(read_records(path))
    path.write_bytes(packed_records([record(0), {"text": "no url"}]))
    with pytest.raises(UserError, match="line 2: a record needs the texts"):
        list(read_records(path))
