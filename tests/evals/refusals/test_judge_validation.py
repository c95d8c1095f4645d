"""The command that validates the refusal judge: its figures, its labelled replies, what it prints."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from evals.refusals import judge_validation as validation
from modelstack.align.guards.refusal_judge import shipped_judge
from modelstack.align.refusal_corpus import written_examples
from modelstack.align.refusal_grammar import LabelledReply
from modelstack.align.refusal_train import featurise, reply_groups


def test_figures_are_counted_right_and_carry_their_numbers() -> None:
    found = validation.figures([True, True, True, False, False], [True, True, False, True, False])
    assert (found.accuracy.value, found.accuracy.n) == (0.6, 5)
    assert (found.precision.value, found.precision.n) == (pytest.approx(2 / 3), 3)
    assert (found.recall.value, found.recall.n) == (pytest.approx(2 / 3), 3)
    assert (found.false_positive_rate.value, found.false_positive_rate.n) == (0.5, 2)


def test_predictions_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        validation.figures([True], [])


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        ("I’m sorry, but I can't.", True),
        ("As an AI, I like pie.", True),
        ("", True),
        ("Mix flour and water.", False),
        ("Mix flour and water. " * 6 + "I'm sorry.", False),
    ],
)
def test_the_string_match_reads_the_opening_alone(reply: str, refused: bool) -> None:
    assert validation.refuses_by_prefix(reply) is refused


def test_the_labelled_replies_have_all_kinds_and_ids_of_their_own() -> None:
    replies = validation.labelled_replies()
    kinds = Counter(reply.kind for reply in replies)
    assert min(kinds[kind] for kind in ("compliance", "partial", "refusal")) >= 15
    assert len({reply.id for reply in replies}) == len(replies)


def test_no_labelled_reply_is_a_near_duplicate_of_a_written_training_example() -> None:
    held_out = [row.reply for row in validation.labelled_replies() if len(row.reply) > 40]
    trained = [row.reply for row in written_examples()]
    groups = reply_groups([*held_out, *trained])
    assert not set(groups[: len(held_out)]) & set(groups[len(held_out) :])
    prompts = {row.prompt for row in written_examples()}
    assert not [row.prompt for row in validation.labelled_replies() if row.prompt in prompts]


def test_the_judge_is_better_than_the_string_match_on_the_labelled_replies() -> None:
    replies = validation.labelled_replies()
    refused = [row.kind != "compliance" for row in replies]
    judged = [shipped_judge().judge(row.prompt, row.reply).kind != "compliance" for row in replies]
    matched = [validation.refuses_by_prefix(row.reply) for row in replies]
    by_judge, by_match = validation.figures(refused, judged), validation.figures(refused, matched)
    assert by_judge.accuracy.low > by_match.accuracy.value
    assert by_judge.false_positive_rate.value <= by_match.false_positive_rate.value


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


def test_a_precision_without_any_other_class_is_not_shown() -> None:
    assert validation._row("x", [True, True], [True, False])[3:] == (
        "0.500 (0.095 to 0.905)",
        "-",
        "0.500 (0.095 to 0.905)",
        "-",
    )


def test_the_command_prints_both_kinds_of_refusal_calibration_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert validation.main([]) == 0
    printed = capsys.readouterr().out
    for words in ("our own labelled replies", "partial", "precision", "recall", "ECE", "p99 ms"):
        assert words in printed


def test_missing_data_end_the_command_with_their_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validation.main(["--data", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
