"""Recipes from raw files to documents and report: what goes, and that a killed run ends as one that was not."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from modelstack.data.documents import Document
from modelstack.data.pipeline.phases import FilterPhase
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.pipeline.records import read_documents
from modelstack.data.pipeline.report import write_report
from modelstack.data.pipeline.run import run_recipe
from modelstack.errors import UserError
from modelstack.recipe_file import checked_recipe

# No digits: near-duplicate search takes all numbers for the same.
WORDS = ["".join(letters) for letters in itertools.product("bdk", "aeio", "lmnrst", "aeiou")]
STEPS = (
    {"kind": "exact"},
    {"kind": "minhash"},
    {"kind": "lines", "min_chars": 10},
    {"kind": "substring", "n_words": 30},
    {"kind": "privacy"},
)


def sentence(rng: random.Random, n: int) -> str:
    return " ".join(rng.choices(WORDS, k=n)) + "."


def corpus(folder: Path, n_files: int = 3, n_documents: int = 40) -> Path:
    """Write documents of which some are copies, nearly copies, or have paragraphs and long spans in common."""
    rng = random.Random(7)
    menu, span = "Home | About us | Contact and imprint", sentence(rng, 40)
    folder.mkdir()
    texts: list[str] = []
    for number in range(n_files * n_documents):
        text = "\n\n".join(sentence(rng, 60) for _ in range(3))
        if number % 5 == 1:
            text = texts[-1]
        elif number % 5 == 2:
            text = texts[-1] + " " + sentence(rng, 2)
        elif number % 5 == 3:
            text = f"{menu}\n\n{text}"
        elif number % 5 == 4:
            text = f"{text} {span} Write to user{number}@somewhere.org."
        texts.append(text)
    for file in range(n_files):
        lines = [json.dumps({"text": text, "license": "CC0-1.0"}) for text in texts[file::n_files]]
        (folder / f"part-{file}.jsonl").write_text("\n".join([*lines, "{broken"]) + "\n")
    return folder


def recipe(folder: Path, *steps: Mapping[str, object]) -> DataRecipe:
    inputs = [{"kind": "jsonl", "path": folder, "source": "made"}]
    return checked_recipe(DataRecipe, {"name": "test", "inputs": inputs, "steps": list(steps)})


def kept(out: Path, made: DataRecipe) -> list[Document]:
    last = run_recipe(made, out)[-1]
    assert isinstance(last, FilterPhase)
    return [document for task in range(last.n_tasks) for document in read_documents(last.kept_path(task))]


def hashes(out: Path) -> dict[str, str]:
    files = sorted(path for path in out.rglob("*.zst"))
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_copies_go_and_the_rest_stays(tmp_path: Path) -> None:
    made = recipe(corpus(tmp_path / "raw"), *STEPS)
    documents = kept(tmp_path / "out", made)
    manifest = write_report(made, tmp_path / "out", run_recipe(made, tmp_path / "out"))
    assert manifest["dropped"]["01-documents"] == {"read": {"not_json": 3}}
    assert manifest["dropped"]["02-exact"] == {"exact": {"duplicate": 24}}
    assert manifest["dropped"]["03-minhash"] == {"minhash": {"duplicate": 24}}
    assert len(documents) == 72
    text = "\n".join(document.text for document in documents)
    assert text.count("Home | About us") == 1
    assert "@somewhere.org" not in text
    assert manifest["chars_by"]["license"].keys() == {"CC0-1.0"}
    assert max(document.metadata.get("n_copies", 1) for document in documents) == 2


def test_the_report_shows_counts_reasons_and_samples(tmp_path: Path) -> None:
    made = recipe(corpus(tmp_path / "raw"), *STEPS)
    phases = run_recipe(made, tmp_path / "out")
    write_report(made, tmp_path / "out", phases)
    page = (tmp_path / "out" / "report.md").read_text()
    assert "123 documents were read, 72 (58.5%)" in page
    assert "| | | | minhash | duplicate | 24 | 25.0% |" in page
    assert "## Dropped by 02-exact" in page
    assert (tmp_path / "out" / "report.png").stat().st_size > 10_000
    assert "| CC0-1.0 |" in (tmp_path / "out" / "card.md").read_text()


def test_several_processes_write_the_same_files_as_one(tmp_path: Path) -> None:
    made = recipe(corpus(tmp_path / "raw"), *STEPS)
    run_recipe(made, tmp_path / "one")
    run_recipe(made, tmp_path / "two", n_workers=2)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two") != {}


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(tmp_path: Path) -> None:
    raw = corpus(tmp_path / "raw", n_files=4, n_documents=150)
    made = recipe(raw, *STEPS)
    (tmp_path / "recipe.json").write_text(made.model_dump_json())
    run_recipe(made, tmp_path / "whole")
    program = (
        "import sys; from pathlib import Path; from modelstack.data.pipeline.recipe import DataRecipe; "
        "from modelstack.data.pipeline.run import run_recipe; "
        "run_recipe(DataRecipe.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "recipe.json"), str(tmp_path / "killed")]
    n_killed = 0
    for n_records in (1, 3, 6, 9, 14, 18, 23, 29):  # killed once so many tasks are done, somewhere in the next one
        process = subprocess.Popen(command)
        while process.poll() is None and len(list((tmp_path / "killed").rglob("0*.json"))) < n_records:
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            n_killed += 1
        process.wait()
    assert subprocess.run(command, check=False).returncode == 0
    assert n_killed >= 5
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole") != {}


def test_a_worker_that_is_killed_ends_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    made = recipe(corpus(tmp_path / "raw"), *STEPS)
    of_others = {child.pid for child in multiprocessing.active_children()}

    def workers() -> set[int]:
        return {child.pid for child in multiprocessing.active_children() if child.pid} - of_others

    def kill(name: str, done: int, total: int) -> None:
        if name == "02-exact/keys" and done == 1:
            os.kill(min(workers()), signal.SIGKILL)

    with pytest.raises(UserError, match="was killed, perhaps for lack of memory"):
        run_recipe(made, tmp_path / "killed", n_workers=2, progress=kill)
    assert workers() == set()
    run_recipe(made, tmp_path / "killed")
    run_recipe(made, tmp_path / "whole")
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole") != {}


def test_a_dump_is_compared_with_the_one_before(tmp_path: Path) -> None:
    raw = corpus(tmp_path / "raw")
    first = recipe(raw, {"kind": "minhash"})
    run_recipe(first, tmp_path / "first")
    again = recipe(raw, {"kind": "minhash", "earlier": [tmp_path / "first" / "02-minhash" / "keys"]})
    assert kept(tmp_path / "again", again) == []


def test_a_folder_of_another_recipe_is_left_alone(tmp_path: Path) -> None:
    raw = corpus(tmp_path / "raw")
    run_recipe(recipe(raw, {"kind": "exact"}), tmp_path / "out")
    with pytest.raises(UserError, match="holds the run of another recipe"):
        run_recipe(recipe(raw, {"kind": "minhash"}), tmp_path / "out")


def test_a_run_whose_files_have_changed_is_not_continued(tmp_path: Path) -> None:
    raw = corpus(tmp_path / "raw")
    made = recipe(raw, {"kind": "exact"})
    run_recipe(made, tmp_path / "out")
    (raw / "part-0a.jsonl").write_text('{"text": "came later"}\n')
    with pytest.raises(UserError, match=r"first new file: .*part-0a\.jsonl"):
        run_recipe(made, tmp_path / "out")


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        run_recipe(recipe(corpus(tmp_path / "raw"), {"kind": "exact"}), tmp_path)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"kind": "minhahs"}], "minhahs"),
        ([{"kind": "minhash", "n_bucket": 3}], "n_bucket"),
        ([{"kind": "minhash", "n_buckets": 0}], "n_buckets"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path: Path, steps: list[dict[str, object]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(tmp_path, *steps)


def test_an_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        run_recipe(recipe(tmp_path / "nowhere", {"kind": "exact"}), tmp_path / "out")
