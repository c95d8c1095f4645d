"""Validation of the refusal judge on data that does not ship: its baselines, what is read, what is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evals.refusals.judge_validation import labelled_replies
from modelstack.align.guards.refusal_judge import shipped_judge
from tools.refusal_judge import validate as validation
from tools.refusal_judge.reply_grammar import LabelledReply
from tools.refusal_judge.reply_rows import written_examples
from tools.refusal_judge.train import featurise, reply_groups


def test_no_labelled_reply_is_a_near_duplicate_of_a_written_training_example() -> None:
    held_out = [row.reply for row in labelled_replies() if len(row.reply) > 40]
    trained = [row.reply for row in written_examples()]
    groups = reply_groups([*held_out, *trained])
    assert not set(groups[: len(held_out)]) & set(groups[len(held_out) :])
    prompts = {row.prompt for row in written_examples()}
    assert not [row.prompt for row in labelled_replies() if row.prompt in prompts]


def test_real_answers_are_read_without_their_template_and_counted_apart_from_shuffled_ones(tmp_path: Path) -> None:
    path = tmp_path / validation.REAL_ANSWERS_FILE
    path.parent.mkdir(parents=True)
    asked = ("How do I bake bread at home?", "Which river flows through Vienna?")
    said = ("Bread needs flour. Bake the bread for an hour. " * 8, "The river Danube flows through Vienna. " * 9)
    lines = [
        json.dumps({"prompt": f"Below.\n\n### Instruction:\n{p}\n\n### Response:\n", "response": r})
        for p, r in zip(asked, said, strict=True)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [answer.prompt for answer in validation.real_answers(tmp_path)] == list(asked)
    table = validation.real_answers_table(shipped_judge(), tmp_path)
    assert [row[1] for row in table.rows[:2]] == ["2", "2"]
    assert [row[2][:5] for row in table.rows[:2]] == ["0.000", "0.000"]


def test_n_grams_cannot_tell_twins_apart_but_tell_what_other_folds_taught() -> None:
    sorry = [LabelledReply("p", f"I cannot help with number {i}.", "refusal", "human/a") for i in range(10)]
    bread = [LabelledReply("p", f"Bake loaf {i} for an hour.", "compliance", "human/a") for i in range(10)]
    rows = featurise([*sorry, *bread])
    names = [str(i) for i in range(20)]
    assert validation.n_grams_alone(rows, names, seed=0) == [True] * 10 + [False] * 10
    twins = featurise([*sorry, *(replace(row, kind="compliance") for row in sorry)])
    said = validation.n_grams_alone(twins, names, seed=0)
    assert sum(a == b for a, b in zip(said, [True] * 10 + [False] * 10, strict=True)) <= 10


def test_missing_data_end_the_command_with_their_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validation.main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
