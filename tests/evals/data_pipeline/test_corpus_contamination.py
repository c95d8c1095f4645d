"""The table of evaluations in a corpus: each rule finds what was planted for it, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from evals.data_pipeline.corpus_contamination import Row, contamination_of, main, table
from modelstack.data.contamination import Decontaminate

LONG = [f"word{i}" for i in range(40)]
SHORT = "Which planet of the solar system has rings around it?"
CLEAN = "A text of several words that nobody has ever put into any test of anything at all, it seems."
CHANGED = [word if i % 13 != 12 else "other" for i, word in enumerate(LONG)]
"""Runs of 12 words of the long text: its longest, so by no rule but the fuzzy one."""


def evaluations(folder: Path) -> Path:
    (folder / "arc").mkdir(parents=True)
    (folder / "some_train").mkdir()
    files = {
        "gsm8k_test.jsonl": [" ".join(LONG), "18"],
        "arc/arc_easy.jsonl": [SHORT, SHORT, "Saturn"],
        "arc/arc_challenge.jsonl": [SHORT],
        "empty.jsonl": ["yes"],
        "some_train/rows.jsonl": [CLEAN],
    }
    for name, texts in files.items():
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        (folder / name).write_text("".join(lines), encoding="utf-8")
    return folder


def step(folder: Path) -> Decontaminate:
    return Decontaminate(evaluations=(evaluations(folder),), except_files=("*_train",), fuzzy_share=0.3)


def test_each_rule_finds_what_was_planted_for_it(tmp_path: Path) -> None:
    planted = [
        ("run", "It says: " + " ".join(LONG[5:18]).upper() + "."),
        ("short", f"A quiz! {SHORT} Who knows."),
        ("fuzzy", "It says: " + " ".join(CHANGED)),
        ("clean", CLEAN),
    ]
    found = contamination_of(planted, step(tmp_path))
    assert {row.name: row for row in found.rows} == {
        "gsm8k_test": Row("gsm8k_test", 2, 1, {"run": 1, "short_text": 0, "fuzzy": 1}),
        "arc_easy": Row("arc_easy", 3, 1, {"run": 0, "short_text": 1, "fuzzy": 0}),
        "arc_challenge": Row("arc_challenge", 1, 1, {"run": 0, "short_text": 1, "fuzzy": 0}),
        "empty": Row("empty", 1, 0, {"run": 0, "short_text": 0, "fuzzy": 0}),
    }
    assert found.found == {
        "run": ["gsm8k_test: run"],
        "short": ["arc_challenge: short_text", "arc_easy: short_text"],
        "fuzzy": ["gsm8k_test: fuzzy"],
    }
    assert (found.n_documents, found.n_found) == (4, 3)


def test_a_clean_corpus_has_a_table_of_nothing(tmp_path: Path) -> None:
    lines = table(contamination_of([("clean", CLEAN)], step(tmp_path))).splitlines()
    assert lines[0] == "1 documents, 0 repeat an evaluation"
    rows = [line.split() for line in lines[lines.index("") + 2 :]]
    assert sorted(row[0] for row in rows) == ["arc_challenge", "arc_easy", "empty", "gsm8k_test"]
    assert all(row[3:] == ["0", "0", "0"] for row in rows)


@pytest.mark.parametrize(("text", "code"), [(CLEAN, 0), (f"A quiz! {SHORT}", 1)])
def test_the_command_fails_where_a_document_is_found(tmp_path: Path, text: str, code: int) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"text": text, "url": "u1"}) + "\n", encoding="utf-8")
    app = Typer()
    app.command()(main)
    done = CliRunner().invoke(app, [str(evaluations(tmp_path / "sets")), "--corpus", str(corpus)])
    assert done.exit_code == code
    assert f"1 documents, {code} repeat an evaluation" in done.output
    assert ("u1: arc_challenge: short_text, arc_easy: short_text" in done.output) == bool(code)
