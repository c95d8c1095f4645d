"""Formats, lengths and repetition, held against trl.rewards; and answers that speak to the grader."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.errors import UserError
from modelstack.reasoning.verifiers.formats import StrictJson, ThinkFormat
from modelstack.reasoning.verifiers.lengths import (
    CosineLength,
    Repetition,
    SoftOverlong,
    cosine_scaled,
    repeated_share,
    soft_overlong,
)
from modelstack.reasoning.verifiers.quoting import QuotesNoGrader
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, Verifier

ITEM: Item[Any] = Item("x", None)


def value(verifier: Verifier[Any], text: str, n_tokens: int = 0) -> float | None:
    return verifier.score(ITEM, Completion(text, tuple(range(n_tokens)))).value


@pytest.mark.parametrize(("n_tokens", "penalty"), [(0, 0.0), (80, 0.0), (90, -0.5), (100, -1.0), (101, -1.0)])
def test_the_overlong_penalty_grows_within_the_last_tokens(n_tokens: int, penalty: float) -> None:
    assert value(SoftOverlong(max_tokens=100, cache_tokens=20), "x" * n_tokens, n_tokens) == penalty


def test_lengths_and_repetition_are_those_of_trl() -> None:
    trl = pytest.importorskip("trl.rewards")
    overlong = trl.get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    lengths = list(range(0, 130, 3))
    assert [soft_overlong(n, 100, 20) for n in lengths] == overlong([[1] * n for n in lengths])
    completions = [[1, 2, 3, 4], [5] * 7, [1, 2, 1, 2, 1, 2, 3], [1], []]
    for n in (1, 2, 3):
        theirs = trl.get_repetition_penalty_reward(ngram_size=n, max_penalty=-0.5)(completions)
        ours = [Repetition(n=n, largest=-0.5).score(ITEM, Completion("", tuple(ids))).value for ids in completions]
        assert ours == pytest.approx(theirs)


def test_the_cosine_is_that_of_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl.rewards")
    from trl.rewards import accuracy_rewards

    right = [True, False] * 8
    monkeypatch.setattr(accuracy_rewards, "accuracy_reward", lambda completions, solution: right)
    ids = [[1] * (8 * i) for i in range(16)]
    theirs = accuracy_rewards.get_cosine_scaled_reward(max_len=100)([], [], ids)
    ours = [
        cosine_scaled(len(each), 100, *((1.0, 0.5) if is_right else (-1.0, -0.5)))
        for each, is_right in zip(ids, right, strict=True)
    ]
    assert ours == pytest.approx(theirs)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["<think>", "</think>", "a", "\n", " "]), max_size=8).map("".join))
def test_a_format_is_never_accepted_that_trl_refuses_and_differs_in_two_ways_only(text: str) -> None:
    trl = pytest.importorskip("trl.rewards")
    (theirs,) = trl.think_format_reward([[{"content": text}]])
    has_answer = bool(text.rpartition("</think>")[2].strip())
    assert value(ThinkFormat(), text) == theirs * has_answer * (text.count("</think>") == 1)


class Right:
    """Judges by a word."""

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        return Reward(None if "?" in completion.text else float("right" in completion.text))


def test_short_and_right_is_best_and_short_and_wrong_is_worst() -> None:
    cosine = CosineLength(Right(), max_tokens=100)
    assert value(cosine, "right", 1) == pytest.approx(1.0, abs=1e-3)
    assert value(cosine, "right", 300) == pytest.approx(0.5)
    assert value(cosine, "wrong", 1) == pytest.approx(-1.0, abs=1e-3)
    assert value(cosine, "wrong", 50) == pytest.approx(-0.75)
    assert value(cosine, "?", 5) is None


@pytest.mark.parametrize(
    "verifier",
    [SoftOverlong(max_tokens=10, cache_tokens=2), Repetition(), CosineLength(Right(), max_tokens=10)],
    ids=["overlong", "repetition", "cosine"],
)
def test_text_without_its_tokens_has_no_length(verifier: Verifier[Any]) -> None:
    assert value(verifier, "right") is None


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match="max_tokens=10, cache_tokens=20"):
        SoftOverlong(max_tokens=10, cache_tokens=20)
    with pytest.raises(UserError, match="largest=1"):
        Repetition(largest=1.0)
    with pytest.raises(UserError, match="max_tokens=0"):
        CosineLength(Right(), max_tokens=0)
    with pytest.raises(UserError, match="an empty mark"):
        QuotesNoGrader(["a", " "])


def test_shares_of_repeated_n_grams() -> None:
    assert repeated_share((1, 2, 3, 4), 2) == 0.0
    assert repeated_share((5, 5, 5, 5, 5), 2) == 0.75
    assert repeated_share((5,), 2) == 0.0


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "s": {"type": "string", "pattern": "^(a+)+$"}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ('{"n": 1}', 1.0),
        (' {"n": 1, "s": "aa"}\n', 1.0),
        ('<think>hm</think>{"n": 1}', 1.0),
        ('```json\n{"n": 1}\n```', 0.0),
        ('Here: {"n": 1}', 0.0),
        ('{"n": 1} {"n": 1}', 0.0),
        ('{"n": 1, "n": 2}', 0.0),
        ('{"n": "1"}', 0.0),
        ('{"n": 1, "x": 2}', 0.0),
        ('{"n": NaN}', 0.0),
        ("[" * 100_000, 0.0),
        ('{"n": 1, "s": "' + "a" * 5_000 + '!"}', 0.0),
        ("<think>{}", 0.0),
        ("", 0.0),
    ],
)
def test_json_is_the_whole_answer_and_fits_the_schema(text: str, reward: float) -> None:
    assert value(StrictJson(lambda item: SCHEMA), text) == reward


def test_a_schema_that_is_none_is_an_error() -> None:
    with pytest.raises(UserError, match="an item's schema is invalid"):
        value(StrictJson(lambda item: {"type": "no type"}), "{}")


def test_an_answer_that_quotes_the_grader_is_refused() -> None:
    assert value(QuotesNoGrader(), "I add 2 and 3.\n#### 5") == 1.0
    assert value(QuotesNoGrader(), 'print({"Passed":\n TRUE})  "passed":\n\ttrue') == 0.0
    assert value(QuotesNoGrader(["rubric"]), "as the Rubric says") == 0.0
