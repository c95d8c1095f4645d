"""Three sets of one crawl, the runs on them, and the table of what came of it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from evals.data_pipeline.filtered_data import SETS, TrainingSet, make_sets, reference_texts, validation_documents
from evals.data_pipeline.filtered_training import RUNS_FILE, draw, table, take_all
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.recipe_file import checked_recipe

WORDS = (
    "the people of that village had been walking along the river with their animals and children because it was "
    "known to have good water in summer while winter brought snow from high mountains"
)
JUNK = "login cart price offer click here buy now cheap sale menu home next page share follow"


def sentences(chance: random.Random, words: str, n: int) -> str:
    made = [" ".join(chance.choices(words.split(), k=chance.randint(8, 14))).capitalize() + "." for _ in range(n)]
    return "\n".join(" ".join(made[i : i + 4]) for i in range(0, n, 4))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, chance = tmp_path_factory.mktemp("corpus"), random.Random(1)
    for domain in ("stories", "math"):
        lines = [json.dumps({"text": sentences(chance, WORDS, 10)}) for _ in range(200)]
        (folder / f"{domain}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> DataRecipe:
    """Of 240 pages: half prose, half junk, and one that quotes a validation text."""
    folder, chance = tmp_path_factory.mktemp("pages"), random.Random(2)
    pages = [sentences(chance, WORDS if i % 2 else JUNK, 24) for i in range(240)]
    pages[0] = validation_documents(corpus)[0].text
    for i, page in enumerate(pages):
        text = "</p><p>".join(page.split("\n"))
        (folder / f"{i:03}.html").write_text(f"<html><body><article><p>{text}</p></article></body></html>")
    return checked_recipe(
        DataRecipe,
        {
            "name": "pages",
            "inputs": [{"kind": "html", "path": str(folder), "source": "pages"}],
            "steps": [{"kind": "extract"}, {"kind": "gopher_quality"}],
        },
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def sets(recipe: DataRecipe, corpus: Path, data: Path) -> list[TrainingSet]:
    return make_sets(recipe, corpus, 0.5, data, n_workers=1)


def test_the_sets_hold_ever_fewer_documents_and_no_validation_text(
    corpus: Path, recipe: DataRecipe, sets: list[TrainingSet], data: Path
) -> None:
    raw, rules, classifier = sets
    assert raw.n_documents == 239  # all but the page that quotes
    assert 100 <= rules.n_documents <= 120  # junk has no stop words
    assert classifier.n_documents == pytest.approx(rules.n_documents / 2, abs=1)
    assert make_sets(recipe, corpus, 0.5, data, n_workers=1) == [raw, rules, classifier]


def test_reference_and_validation_are_parted(corpus: Path) -> None:
    validation = {document.text for document in validation_documents(corpus)}
    reference = set(reference_texts(corpus))
    assert len(validation) > 5 and not validation & reference and len(validation | reference) == 400
    assert len(reference_texts(corpus, ["stories"])) < 200


@pytest.mark.slow
def test_runs_are_taken_once_and_compared(corpus: Path, sets: list[TrainingSet], tmp_path: Path) -> None:
    records = take_all(sets, corpus, tmp_path, steps=2, n_seeds=2, n_workers=2)
    assert [(record["set"], record["seed"]) for record in records] == [(name, s) for s in (0, 1) for name in SETS]
    assert len({record["bits_per_byte"] for record in records}) == 6
    assert len({record["n_tokens"] for record in records}) == 1
    written = (tmp_path / RUNS_FILE).read_bytes()
    assert take_all(sets, corpus, tmp_path, steps=2, n_seeds=2, n_workers=2) == records
    assert (tmp_path / RUNS_FILE).read_bytes() == written
    draw(records, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_the_table_compares_seed_by_seed() -> None:
    better = {"raw": 0.0, "rules": 0.1, "classifier": 0.3}
    records = [
        {
            "set": name,
            "seed": seed,
            "n_tokens": 1000,
            "set_documents": 10,
            "set_tokens": 500,
            "validation_documents": 7,
            "validation_bytes": 9000,
            "bits_per_byte": 2.0 + seed - better[name],
            "domains": {"math": 3.0 + seed + better[name]},
        }
        for name in SETS
        for seed in (1, 0, 2)
    ]
    lines = table(records).splitlines()
    # Seeds differ by whole bits, the differences within a seed do not at all.
    assert "| rules | 10 | 500 | 2.00 | 2.900 (0.416 to 5.384) | -0.100 (-0.100 to -0.100) |" in lines
    assert "| math | 4.000 | 4.100 | 4.300 | +0.100 (+0.100 to +0.100) | +0.300 (+0.300 to +0.300) |" in lines
