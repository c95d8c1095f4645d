"""A phase of document steps: what it keeps, drops and counts, and that a task is done whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from modelstack.data.documents import Broken, Document
from modelstack.data.pipeline.counting import Counts
from modelstack.data.pipeline.phases import FilterPhase, Item, NamedStep, Source
from modelstack.data.pipeline.records import read_documents
from modelstack.errors import UserError


class Listed(Source):
    """Documents that are made anew with each reading."""

    def __init__(self, *shards: Sequence[str | Broken]) -> None:
        self._shards = shards
        self.n_shards = len(shards)

    def read(self, shard: int) -> Iterator[Item]:
        for number, item in enumerate(self._shards[shard]):
            yield item if isinstance(item, Broken) else Document(f"{shard}/{number}", item, license="MIT")


def short(document: Document) -> str | None:
    document.metadata["n"] = len(document.text)
    return "short" if len(document.text) < 3 else None


def shouting(document: Document) -> str | None:
    if document.text == "raise":
        raise RuntimeError("of this document alone")
    document.text = document.text.lower()
    return "shouting" if document.text.endswith("!") else None


def phase(folder: Path, *shards: Sequence[str | Broken]) -> FilterPhase:
    steps = [NamedStep("short", short), NamedStep("shouting", shouting)]
    return FilterPhase("01-documents", folder, Listed(*shards), ["short", "shouting"], lambda task: steps)


def test_each_document_is_kept_or_dropped_with_the_first_reason(tmp_path: Path) -> None:
    made = phase(tmp_path, ["Hello", "a", "Hey!", Broken("r9", "truncated", "at byte 7"), "raise"])
    made.run(0)
    assert [(d.id, d.text, d.license, d.metadata) for d in read_documents(made.kept_path(0))] == [
        ("0/0", "hello", "MIT", {"n": 5})
    ]
    dropped = {d.id: d.text for d in read_documents(made.dropped_path(0))}
    assert dropped == {"0/1": "a", "0/2": "hey!", "r9": "", "0/4": "raise"}
    counts = made.counts()
    assert counts.dropped == {
        "short": {"short": 1},
        "shouting": {"shouting": 1, "error_RuntimeError": 1},
        "read": {"truncated": 1},
    }
    assert (counts.n_in, counts.n_out, counts.chars_in, counts.chars_out) == (5, 1, 15, 5)
    assert counts.by["license"] == {"MIT": 5}


def test_a_task_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    made = phase(tmp_path, ["Hello"])
    made.run(0)
    record = made.record_path(0).read_bytes()
    phase(tmp_path, ["Something else"]).run(0)
    assert made.record_path(0).read_bytes() == record
    assert [d.text for d in read_documents(made.kept_path(0))] == ["hello"]


def test_a_task_without_a_record_is_done_again_whatever_it_left(tmp_path: Path) -> None:
    made = phase(tmp_path, ["Hello", "World"])
    made.run(0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    made.record_path(0).unlink()
    made.kept_path(0).write_bytes(b"half of")
    made.run(0)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_nothing_is_left_of_a_task_whose_source_fails(tmp_path: Path) -> None:
    class Failing(Source):
        n_shards = 1

        def read(self, shard: int) -> Iterator[Item]:
            yield Document("a", "text")
            raise UserError("the disk is gone")

    made = FilterPhase("01", tmp_path, Failing(), [], lambda task: [])
    with pytest.raises(UserError, match="disk"):
        made.run(0)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_text_with_a_lone_surrogate_comes_back_as_it_was(tmp_path: Path) -> None:
    made = phase(tmp_path, ["caf\ud83d\u00e9 \u2028 line"])
    made.run(0)
    (document,) = read_documents(made.kept_path(0))
    assert document.text == "caf\ud83d\u00e9 \u2028 line"


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_later_phase_does_not_read_a_damaged_file(tmp_path: Path, damage: str) -> None:
    made = phase(tmp_path, ["Hello", "World"])
    made.run(0)
    path = made.kept_path(0)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-9] if damage == "cut" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(UserError, match=r"00000\.jsonl\.zst is missing or damaged"):
        list(made.kept.read(0))


def test_counts_of_tasks_add_up_in_any_order(tmp_path: Path) -> None:
    texts = [f"text number {i}" + "!" * (i % 3) for i in range(40)]
    whole, parts = phase(tmp_path / "whole", texts), phase(tmp_path / "parts", texts[:25], texts[25:])
    whole.run(0)
    for task in (1, 0):
        parts.run(task)
    added = Counts()
    for task in (1, 0):
        added.add(Counts(parts.record(task)))
    assert added.to_json() == parts.counts().to_json()
    one, other = whole.counts().to_json(), added.to_json()
    del one["samples"], other["samples"]  # ids differ with the shard, so the samples do
    assert one == other


def test_the_record_is_the_same_json_each_time(tmp_path: Path) -> None:
    texts = ["One thing", "b", "Another!", "a third thing"]
    first, second = phase(tmp_path / "1", texts), phase(tmp_path / "2", texts)
    first.run(0)
    second.run(0)
    assert first.record_path(0).read_bytes() == second.record_path(0).read_bytes()
    assert json.loads(first.record_path(0).read_bytes())["kept_sha256"]
