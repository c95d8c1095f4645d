"""The corpus in the package: its licences, its counts, its mix, and that no evaluation is in it."""

from __future__ import annotations

import json
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from evals.data_pipeline.corpus_contamination import Contamination, contamination_of
from modelstack.commands.tokenizer import HELD_OUT
from modelstack.data.allowed_sources import AllowedSources
from modelstack.data.contamination import Decontaminate
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.pipeline.report import write_report
from modelstack.data.pipeline.run import run_recipe
from modelstack.data.quota import Quota
from modelstack.data.shipped_corpus import SHIPPED_CORPUS, SUFFIX, domain_file
from modelstack.recipe_file import read_recipe
from modelstack.shipped_recipes import shipped_recipe
from modelstack.tokenizer.documents import find_files, is_held_out, read_documents
from modelstack.zstd_files import open_unpacked
from tools.corpus.build import Record, build, license_name
from tools.corpus.credits import LICENSE_LINKS, SOURCES

REPOSITORY = Path(__file__).resolve().parents[3]
RECIPE = shipped_recipe("data/run/corpus").path
SHARED = REPOSITORY.parent / "shared" / "data"
"""Folder of the raw data, and of the evaluations that the corpus was held against."""
EVALUATIONS = (
    SHARED / "evals",
    *(SHARED / "posttrain/tools" / f"toolalpaca_eval_{kind}.json" for kind in ("real", "simulated")),
    SHARED / "posttrain/tools/when2call_test_llm_judge.jsonl",
    *(SHARED / "tooluse" / f"validation-{kind}.jsonl.zst" for kind in ("sgd", "open")),
    REPOSITORY / "evals",
)
"""What the shipped corpus was held against."""
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs the corpora in the folder `shared`")
MIX = {
    "stories": 30,
    "dialogues": 20,
    "definitions": 12,
    "textbooks": 12,
    "math": 10,
    "howto": 6,
    "prose": 4,
    "code": 3,
    "codedocs": 3,
}
"""Percent of the text, for a small model of simple English."""


def read_records(path: Path) -> list[Record]:
    with open_unpacked(path) as file:
        return [json.loads(line) for line in file.read().splitlines()]


@pytest.fixture(scope="module")
def records() -> dict[str, list[Record]]:
    return {domain: read_records(domain_file(domain)) for domain in MIX}


def test_the_files_are_small_enough_to_ship() -> None:
    files = sorted(SHIPPED_CORPUS.glob(f"*{SUFFIX}"))
    assert {file.name.removesuffix(SUFFIX) for file in files} == set(MIX)
    assert 4e6 < sum(file.stat().st_size for file in files) < 6e6


def recipe(*overrides: str) -> DataRecipe:
    return read_recipe(DataRecipe, RECIPE, overrides or ['evaluations=["unread"]'])


def test_the_recipe_and_the_pages_know_the_same_sources() -> None:
    names = {source.name for source in SOURCES}
    for step in recipe().steps:
        if isinstance(step, AllowedSources):
            assert step.licenses.keys() == names
        if isinstance(step, Quota):
            assert step.megabytes.keys() == names
    assert [step.kind for step in recipe().steps] == ["allowed_sources", "decontaminate", "exact", "quota"]


def test_each_record_has_a_licence_that_allows_redistribution(records: dict[str, list[Record]]) -> None:
    (allowed,) = (step for step in recipe().steps if isinstance(step, AllowedSources))
    for record in (record for of_domain in records.values() for record in of_domain):
        assert any(fnmatchcase(record["license"], one) for one in allowed.licenses[record["source"]])
        assert license_name(record["license"]) in LICENSE_LINKS
        assert record["source"] not in allowed.left_out_sources
        assert not any(part in record["url"] for part in allowed.left_out_urls)
    assert not any("NC" in license or "ND" in license for license in LICENSE_LINKS)


def test_the_page_of_sources_counts_what_is_there(records: dict[str, list[Record]]) -> None:
    page = (SHIPPED_CORPUS / "SOURCES.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    told = {(row[0], row[1]): (row[2], row[3]) for row in rows if len(row) == 8 and row[0] != "domain"}
    n_documents = Counter((domain, r["source"]) for domain, of_domain in records.items() for r in of_domain)
    n_bytes: Counter[tuple[str, str]] = Counter()
    for domain, of_domain in records.items():
        for record in of_domain:
            n_bytes[domain, record["source"]] += len(record["text"].encode())
    assert told == {key: (f"{n:,}", f"{n_bytes[key] / 1e6:.2f}") for key, n in n_documents.items()}
    assert set(told) == {(source.domain, source.name) for source in SOURCES}
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in page
    assert "Copyright (c) 2016-2022 The Algorithms" in page


def test_the_mix_is_that_of_a_small_model_of_simple_english(records: dict[str, list[Record]]) -> None:
    n_bytes = {domain: sum(len(r["text"].encode()) for r in of_domain) for domain, of_domain in records.items()}
    total = sum(n_bytes.values())
    assert {domain: 100 * n / total for domain, n in n_bytes.items()} == pytest.approx(MIX, abs=1)


def test_no_text_is_there_twice(records: dict[str, list[Record]]) -> None:
    texts = [record["text"] for of_domain in records.values() for record in of_domain]
    assert len(set(texts)) == len(texts)
    assert all(text.strip() for text in texts)


def test_each_domain_has_documents_that_are_held_out(records: dict[str, list[Record]]) -> None:
    for of_domain in records.values():
        n = sum(is_held_out(record["text"], HELD_OUT) for record in of_domain)
        expected = HELD_OUT * len(of_domain)
        # Four standard deviations of a count of rare events, and at least one document.
        assert max(1, expected - 4 * expected**0.5) <= n <= expected + 4 * expected**0.5


def test_the_tokenizers_reader_finds_the_same_documents(records: dict[str, list[Record]]) -> None:
    files = find_files([SHIPPED_CORPUS])
    for file in files:
        documents = list(read_documents(file))
        assert [d.text for d in documents] == [r["text"] for r in records[documents[0].domain]]
    assert len(files) == len(MIX)


def evaluations(*paths: Path) -> str:
    return f"evaluations={[str(path) for path in paths]}"


def contamination_by(records: dict[str, list[Record]], *paths: Path) -> Contamination:
    (step,) = (step for step in recipe(evaluations(*paths)).steps if isinstance(step, Decontaminate))
    texts = [(record["url"], record["text"]) for of_domain in records.values() for record in of_domain]
    contamination = contamination_of(texts, step)
    assert contamination.n_documents == len(texts)
    return contamination


def test_no_document_repeats_an_evaluation_of_the_package(records: dict[str, list[Record]]) -> None:
    contamination = contamination_by(records, REPOSITORY / "evals")
    assert contamination.found == {}
    assert sum(row.n_compared for row in contamination.rows) > 500


@pytest.mark.slow
@pytest.mark.timeout(1200)  # 10 and 40 s of a processor, which it may have to share
@needs_shared
def test_no_document_repeats_an_evaluation(records: dict[str, list[Record]]) -> None:
    contamination = contamination_by(records, *EVALUATIONS)
    assert contamination.found == {}
    assert sum(row.n_compared for row in contamination.rows) > 40_000


def made_by_the_recipe(folder: Path, source: Path, *paths: Path) -> dict[str, list[Record]]:
    """Return the documents that the recipe makes of a folder's."""
    made = recipe(f'inputs=[{{kind="jsonl", path="{source}"}}]', evaluations(*paths))
    write_report(made, folder / "run", run_recipe(made, folder / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tools.corpus.build.LEVEL", 1)  # unpacked again, where the level makes no difference
        build(folder / "run", folder / "out")
    # Documents and not bytes: those depend on zstd's version too.
    return {domain: read_records(folder / "out" / f"{domain}{SUFFIX}") for domain in MIX}


@pytest.mark.slow
def test_the_recipe_keeps_every_shipped_document(records: dict[str, list[Record]], tmp_path: Path) -> None:
    assert made_by_the_recipe(tmp_path, SHIPPED_CORPUS, REPOSITORY / "evals") == records


@pytest.mark.slow
@pytest.mark.timeout(1200)
@needs_shared
def test_the_recipe_gives_the_shipped_documents(records: dict[str, list[Record]], tmp_path: Path) -> None:
    assert made_by_the_recipe(tmp_path, SHARED / "corpus", *EVALUATIONS) == records
    assert all(set(record) == {"text", "source", "license", "url"} for each in records.values() for record in each)
