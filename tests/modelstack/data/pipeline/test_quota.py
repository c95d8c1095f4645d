"""Quotas of sources: what is taken, whatever the order of documents, the files, interruptions; what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.data.pipeline.phases import FilterPhase
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.pipeline.records import read_documents
from modelstack.data.pipeline.run import run_recipe
from modelstack.data.quota import Smallest, rank_of
from modelstack.errors import UserError
from modelstack.recipe_file import checked_recipe

KILOBYTE = 0.001


def texts(n: int, kind: str = "tale") -> list[str]:
    return [f"{kind} {i} " + "la " * (i % 7 + 3) for i in range(n)]


def files(folder: Path, *shards: Sequence[tuple[str, str]]) -> Path:
    folder.mkdir()
    for number, shard in enumerate(shards):
        lines = [json.dumps({"text": text, "source": source}) + "\n" for source, text in shard]
        (folder / f"{number}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def recipe(folder: Path, **quota: Any) -> DataRecipe:
    inputs = [{"kind": "jsonl", "path": folder}]
    return checked_recipe(DataRecipe, {"name": "q", "inputs": inputs, "steps": [{"kind": "quota"} | quota]})


def kept(made: DataRecipe, out: Path) -> list[tuple[str, str]]:
    last = run_recipe(made, out)[-1]
    assert isinstance(last, FilterPhase)
    return [(d.source, d.text) for task in range(last.n_tasks) for d in read_documents(last.kept_path(task))]


def expected(of_source: Sequence[str], n_bytes: int, salt: str = "") -> list[str]:
    """Return what the rule says, in the plainest way."""
    taken: list[str] = []
    for text in sorted(of_source, key=lambda text: rank_of(text, salt)):
        if sum(len(other.encode()) for other in [*taken, text]) > n_bytes:
            break
        taken.append(text)
    return taken


def test_the_smallest_hashes_are_taken_until_one_does_not_fit(tmp_path: Path) -> None:
    tales, poems, songs = texts(100), texts(30, "poém"), texts(5, "song")
    folder = files(tmp_path / "raw", [("tales", t) for t in tales] + [("poems", t) for t in poems])
    files(tmp_path / "more", [("songs", t) for t in songs])
    (tmp_path / "more" / "0.jsonl").rename(folder / "1.jsonl")
    found = kept(recipe(folder, megabytes={"tales": KILOBYTE, "poems": KILOBYTE / 2}), tmp_path / "out")
    assert sorted(t for s, t in found if s == "tales") == sorted(expected(tales, 1000))
    assert sorted(t for s, t in found if s == "poems") == sorted(expected(poems, 500))
    assert [t for s, t in found if s == "songs"] == songs  # has no quota
    assert 900 < sum(len(t.encode()) for s, t in found if s == "tales") <= 1000


def test_other_sources_have_the_quota_of_others(tmp_path: Path) -> None:
    folder = files(tmp_path / "raw", [("tales", t) for t in texts(50)] + [("songs", t) for t in texts(50)])
    found = kept(recipe(folder, megabytes={"tales": KILOBYTE}, others=0), tmp_path / "out")
    assert {source for source, _ in found} == {"tales"}


def test_the_choice_is_the_same_whatever_the_order_and_the_files(tmp_path: Path) -> None:
    documents = [("tales", t) for t in texts(200)]
    shuffled = random.Random(3).sample(documents, len(documents))
    one = kept(recipe(files(tmp_path / "a", documents), megabytes={"tales": KILOBYTE}), tmp_path / "one")
    parts = files(tmp_path / "b", shuffled[:20], shuffled[20:25], [], shuffled[25:])
    made = recipe(parts, megabytes={"tales": KILOBYTE})
    assert sorted(kept(made, tmp_path / "four")) == sorted(one) != []
    run_recipe(made, tmp_path / "workers", n_workers=2)
    assert kept(made, tmp_path / "workers") == kept(made, tmp_path / "four")


def test_another_salt_is_another_choice(tmp_path: Path) -> None:
    folder = files(tmp_path / "raw", [("tales", t) for t in texts(200)])
    first, second = (
        kept(recipe(folder, megabytes={"tales": KILOBYTE}, salt=salt), tmp_path / f"out{salt}") for salt in "ab"
    )
    assert set(first) != set(second)


def test_a_run_goes_on_from_any_task(tmp_path: Path) -> None:
    documents = [("tales", t) for t in texts(90)]
    made = recipe(files(tmp_path / "raw", documents[:40], documents[40:]), megabytes={"tales": KILOBYTE})
    whole = kept(made, tmp_path / "out")
    step = tmp_path / "out" / "02-quota"
    for record in sorted(step.rglob("0*.json")):
        content = record.read_bytes()
        record.unlink()
        assert kept(made, tmp_path / "out") == whole
        assert record.read_bytes() == content


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = files(tmp_path / "raw", [("tales", "a tale")])
    with pytest.raises(UserError, match="source 'poems' has no documents"):
        run_recipe(recipe(folder, megabytes={"tales": 1, "poems": 1}), tmp_path / "out")


@pytest.mark.parametrize("quota", [{"megabytes": {"a": -1}}, {"others": float("inf")}, {"salt": "x" * 17}])
def test_a_quota_that_cannot_be_is_refused(tmp_path: Path, quota: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(quota))):
        recipe(tmp_path, **quota)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=30), min_size=1, max_size=4),
    st.integers(0, 60),
)
def test_the_limit_of_parts_is_that_of_the_whole(shards: list[list[tuple[int, int]]], quota: int) -> None:
    # Equal texts have equal hashes and sizes.
    sizes = {rank: size for shard in shards for rank, size in shard}
    whole, merged = Smallest(quota), Smallest(quota)
    for shard in shards:
        part = Smallest(quota)
        for rank, _ in shard:
            part.add(rank, sizes[rank])
            whole.add(rank, sizes[rank])
        for rank, size in zip(*(array.tolist() for array in part.arrays()), strict=True):
            merged.add(rank, size)
    ranks = sorted(rank for shard in shards for rank, _ in shard)
    plain = next((r for i, r in enumerate(ranks) if sum(sizes[q] for q in ranks[: i + 1]) > quota), None)
    assert whole.limit() == merged.limit() == plain
