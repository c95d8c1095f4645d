"""Texts of evaluation files: which files are read, and how."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from modelstack.data.evaluation_texts import evaluation_files, texts_of_evaluation
from modelstack.errors import UserError


def test_training_sets_among_the_evaluations_are_not_read_as_such(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "some_train").mkdir()
    names = (
        "gsm8k_train.jsonl",
        "deep/gsm8k_test.jsonl",
        "some_train/x.jsonl",
        "HumanEval.jsonl.gz",
        "SOURCES.md",
    )
    for name in names:
        (tmp_path / name).touch()
    of_default = [file.name for file in evaluation_files([tmp_path])]
    assert of_default == ["HumanEval.jsonl.gz", "gsm8k_test.jsonl", "x.jsonl"]
    of_patterns = [file.name for file in evaluation_files([tmp_path], ("*_train", "gsm8k_*"))]
    assert of_patterns == ["HumanEval.jsonl.gz"]
    # What is above the folder that is named does not count.
    assert len(evaluation_files([tmp_path / "some_train"], ("*_train",))) == 1
    with pytest.raises(UserError, match="nowhere does not exist"):
        evaluation_files([tmp_path / "nowhere"])


def test_texts_are_read_of_json_of_lines_and_of_gzip_and_zstd(tmp_path: Path) -> None:
    records = [{"question": [{"content": "a"}], "n": 1}, {"question": "b", "options": ["c", {"label": "d"}]}]
    lines = "\n".join(json.dumps(record) for record in records)
    (tmp_path / "whole.json").write_text(json.dumps(records), encoding="utf-8")
    (tmp_path / "lines.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "lines.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    for path in tmp_path.iterdir():
        assert list(texts_of_evaluation(path)) == ["a", "b", "c", "d"]


def test_a_file_that_is_neither_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.jsonl"
    path.write_text('{"a": "b"}\n{oh\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 2: neither JSON nor JSONL"):
        list(texts_of_evaluation(path))
