"""The shipped corpus of a run: choice by the recipe's steps, the files, the pages, the same bytes again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.pipeline.report import write_report
from modelstack.data.pipeline.run import run_recipe
from modelstack.errors import UserError
from modelstack.recipe_file import checked_recipe
from modelstack.zstd_files import open_unpacked
from tools.corpus.build import Record, build, packed_records
from tools.corpus.credits import Source

SOURCES = (Source("stories", "tales", "nobody"), Source("stories", "poems", "somebody"))
LEAK = "how many eggs does the hen lay in a week if she rests on sundays"


def record(i: int, text: str | None = None, **changes: str) -> Record:
    return {
        "text": text or f"tale {i} " + "la " * 20,
        "source": "tales",
        "license": "MIT",
        "url": f"u{i:03}",
    } | changes


def run(folder: Path, records: list[Record], megabytes: float = 1) -> Path:
    """Run the kinds of steps that recipes/data/run/corpus.toml has."""
    folder.mkdir()
    (folder / "stories.jsonl.zst").write_bytes(packed_records(records))
    (folder / "evaluation.json").write_text(json.dumps([LEAK]), encoding="utf-8")
    steps: list[dict[str, Any]] = [
        {
            "kind": "allowed_sources",
            "licenses": {"tales": ["MIT"], "poems": ["CC0-1.0"]},
            "left_out_urls": {"a-a-milne": "protected outside the United States"},
        },
        {"kind": "decontaminate"},
        {"kind": "exact"},
        {"kind": "quota", "megabytes": {"tales": megabytes}, "salt": "corpus"},
    ]
    content = {
        "name": "corpus",
        "inputs": [{"kind": "jsonl", "path": folder / "stories.jsonl.zst"}],
        "evaluations": [folder / "evaluation.json"],
        "steps": steps,
    }
    recipe = checked_recipe(DataRecipe, content)
    write_report(recipe, folder / "run", run_recipe(recipe, folder / "run"))
    return folder / "run"


def records_of_two_sources() -> list[Record]:
    tales = [record(i) for i in range(100)]
    poems = [record(i, source="poems", license="CC0-1.0") for i in range(100, 120)]
    return [*tales, *poems, record(200, f"Q: {LEAK.title()}?"), record(201, tales[3]["text"])]


def test_a_domain_has_what_the_steps_left_by_source_and_url(tmp_path: Path) -> None:
    raw = [*records_of_two_sources(), record(202, url="github:standardebooks/a-a-milne_pooh")]
    build(run(tmp_path / "in", raw, megabytes=0.003), tmp_path / "out", SOURCES)
    with open_unpacked(tmp_path / "out" / "stories.jsonl.zst") as file:
        written = [json.loads(line) for line in file.read().splitlines()]
    tales = [r for r in written if r["source"] == "tales"]
    assert written == [*tales, *(r for r in written if r["source"] == "poems")]
    assert len(written) - len(tales) == 20
    assert 2_900 < sum(len(r["text"]) for r in tales) <= 3_000
    assert [r["url"] for r in tales] == sorted(r["url"] for r in tales)
    assert all(r in raw for r in written)
    assert not any(LEAK in r["text"].lower() or "a-a-milne" in r["url"] for r in written)


def test_the_pages_tell_sources_exclusions_evaluations_and_files(tmp_path: Path) -> None:
    build(run(tmp_path / "in", records_of_two_sources()), tmp_path / "out", SOURCES)
    page = (tmp_path / "out" / "SOURCES.md").read_text(encoding="utf-8")
    assert "| stories | poems | 20 | 0.00 | CC0-1.0 | https://creativecommons.org/publicdomain/zero/1.0/ |" in page
    assert "- a-a-milne: protected outside the United States." in page
    card = (tmp_path / "out" / "card.md").read_text(encoding="utf-8")
    assert "made of 122 documents by recipes/data/run/corpus.toml." in card
    assert "| decontaminate | in&#95;evaluation | 1 |" in card
    assert "| exact | duplicate | 1 |" in card
    assert "## Evaluations that no document repeats" in card
    assert "| stories.jsonl.zst |" in card


def test_the_same_documents_give_the_same_bytes_whatever_their_order_and_place(tmp_path: Path) -> None:
    for name, order in (("a", records_of_two_sources()), ("b", records_of_two_sources()[::-1])):
        # Of two with one text the first stays, so that pair alone keeps its order.
        raw = [r for r in order if r["url"] != "u201"]
        build(run(tmp_path / f"in-{name}", raw, megabytes=0.002), tmp_path / name, SOURCES)
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert files == ["SOURCES.md", "card.md", "stories.jsonl.zst"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_sources_that_are_not_known_or_not_there_are_told(tmp_path: Path) -> None:
    made = run(tmp_path / "in", records_of_two_sources())
    with pytest.raises(UserError, match="is of source 'poems', which SOURCES"):
        build(made, tmp_path / "out", SOURCES[:1])
    with pytest.raises(UserError, match="no document of source 'songs'"):
        build(made, tmp_path / "out", [*SOURCES, Source("stories", "songs", "nobody")])
    assert not (tmp_path / "out").exists()


def test_a_run_that_has_not_ended_or_was_changed_is_refused(tmp_path: Path) -> None:
    made = run(tmp_path / "in", records_of_two_sources())
    (kept,) = made.glob("*-quota/documents/00000.jsonl.zst")
    kept.write_bytes(packed_records([record(0)]))
    with pytest.raises(UserError, match=r"00000\.jsonl\.zst is missing or was changed since the run"):
        build(made, tmp_path / "out", SOURCES)
    (made / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        build(made, tmp_path / "out", SOURCES)
