"""Checks of a task decide its score, and the explanation names what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from agentkit.errors import UserError
from agentkit.improve.checking import judged, score_by_checks
from agentkit.improve.rollout import Outcome, Score
from agentkit.improve.tasks import Checks, Task
from agentkit.messages import ModelRequest, ModelResponse, RetryPromptPart, ToolCallPart, ToolReturnPart


def outcome(checks: Checks, answer: str = "", calls: tuple[tuple[str, str], ...] = (), **more: Any) -> Outcome:
    messages: list[ModelRequest | ModelResponse] = []
    for i, (name, result) in enumerate(calls):
        messages.append(ModelResponse((ToolCallPart(name, "{}", f"c{i}"),)))
        part = (
            RetryPromptPart("wrong", name, f"c{i}")
            if result == "retry"
            else ToolReturnPart(name, f"c{i}", "text", is_error=result == "failed")
        )
        messages.append(ModelRequest((part,)))
    task = Task(id="t", prompt="p", checks=checks)
    return Outcome(task=task, status=more.pop("status", "completed"), output=answer, messages=messages, **more)


@pytest.mark.parametrize(
    ("checks", "answer", "is_right"),
    [
        (Checks(answer_contains=("Lima",)), "It is LIMA.", True),
        (Checks(answer_contains=("Lima",)), "The Limassol road", False),
        (Checks(answer_contains=(("21 May", "May 21"),)), "on May 21", True),
        (Checks(answer_contains=("a.b+c",)), "see a.b+c!", True),
        (Checks(answer_excludes=("14 May",)), "not 14 May but 21 May", False),
        (Checks(answer_number=1234.0), "There are 1,234 of them", True),
        (Checks(answer_number=12.0), "There are 1,234 of them", False),
        (Checks(answer_number=14), "There are 14.", True),
        (Checks(answer_number=-3.5), "It is -3.5 degrees", True),
        (Checks(answer_number=4), "P4 and 44", False),
    ],
)
def test_an_answer_is_compared_by_whole_words_and_numbers(checks: Checks, answer: str, is_right: bool) -> None:
    score = score_by_checks(outcome(checks, answer))
    assert score.value == is_right, score.explanation


def test_calls_must_succeed_and_come_in_their_order() -> None:
    checks = Checks(calls=("a", "b"))
    assert score_by_checks(outcome(checks, calls=(("a", "ok"), ("x", "ok"), ("b", "ok")))).value == 1
    wrong = score_by_checks(outcome(checks, calls=(("b", "ok"), ("a", "ok"))))
    assert wrong.value == 0 and "b was not called" in wrong.explanation
    assert score_by_checks(outcome(checks, calls=(("a", "failed"), ("b", "ok")))).value == 0
    assert score_by_checks(outcome(checks, calls=(("a", "retry"), ("a", "ok"), ("b", "ok")))).value == 1


def test_a_forbidden_call_counts_even_if_it_failed() -> None:
    score = score_by_checks(outcome(Checks(forbidden_calls=("delete",)), calls=(("delete", "failed"),)))
    assert score.value == 0 and "delete was called" in score.explanation


def test_the_status_is_part_of_what_is_expected() -> None:
    assert score_by_checks(outcome(Checks(), status="limit_reached")).value == 0
    assert score_by_checks(outcome(Checks(status="refused"), status="refused")).value == 1


def test_files_and_tables_are_compared_and_nothing_else_may_change() -> None:
    before = {"files": {"a.txt": "1", "b.txt": "2"}, "tables": {"d.db": {"t": [[1], [2]]}}}
    now = {"files": {"a.txt": "9", "c.txt": "3"}, "tables": {"d.db": {"t": [[2], [3]]}}}
    whole = {"files": {"a.txt": "9", "b.txt": None, "c.txt": "3"}, "tables": {"d.db.t": [[3], [2]]}}
    assert score_by_checks(outcome(Checks(**whole), before=before, observed=now)).value == 1
    some = Checks(files={"a.txt": "9"}, tables={"d.db.t": [[2], [3]]})
    unasked = score_by_checks(outcome(some, before=before, observed=now))
    assert unasked.value == 0 and "'b.txt' was changed" in unasked.explanation
    lenient = some.model_copy(update={"only_these_change": False})
    assert score_by_checks(outcome(lenient, before=before, observed=now)).value == 1
    missing = score_by_checks(outcome(Checks(files={"a.txt": "1"})))
    assert missing.value == 0 and "no world" in missing.explanation


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_scorer_may_be_a_coroutine_and_its_value_is_checked(anyio_backend: str) -> None:
    async def half(_: Outcome) -> Score:
        return Score(value=0.5, explanation="half")

    ended = outcome(Checks())
    assert (await judged(half, ended)).value == 0.5
    assert (await judged(lambda each: each.answer == "", ended)).value == 1.0
    with pytest.raises(UserError, match=r"1\.5 for task 't'"):
        await judged(lambda _: 1.5, ended)
    with pytest.raises(UserError, match="nan"):
        await judged(lambda _: float("nan"), ended)
