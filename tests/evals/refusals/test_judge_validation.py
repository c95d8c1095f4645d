"""The command that validates the refusal judge: its figures, its labelled replies, what it prints."""

from __future__ import annotations

from collections import Counter

import pytest

from evals.cli import print_tables
from evals.refusals import judge_validation as validation
from modelstack.align.guards.refusal_judge import shipped_judge


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


def test_the_judge_is_better_than_the_string_match_on_the_labelled_replies() -> None:
    replies = validation.labelled_replies()
    refused = [row.kind != "compliance" for row in replies]
    judged = [shipped_judge().judge(row.prompt, row.reply).kind != "compliance" for row in replies]
    matched = [validation.refuses_by_prefix(row.reply) for row in replies]
    by_judge, by_match = validation.figures(refused, judged), validation.figures(refused, matched)
    assert by_judge.accuracy.low > by_match.accuracy.value
    assert by_judge.false_positive_rate.value <= by_match.false_positive_rate.value


def test_a_precision_without_any_other_class_is_not_shown() -> None:
    assert validation.class_row("x", [True, True], [True, False])[3:] == (
        "0.500 (0.095 to 0.905)",
        "-",
        "0.500 (0.095 to 0.905)",
        "-",
    )


def test_the_command_prints_both_kinds_of_refusal_calibration_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    for table in validation.shipped_tables():
        print_tables(table)
    printed = capsys.readouterr().out
    for words in ("our own labelled replies", "partial", "precision", "recall", "ece", "p99_ms"):
        assert words in printed
