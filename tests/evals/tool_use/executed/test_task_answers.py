"""What counts as an answer: whole tokens, nothing denied, no other candidate, no dump."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.tool_use.executed.answers import MAX_ANSWER_CHARS, answer_problem, tokens_of
from evals.tool_use.executed.task import NumberAnswer, WordsAnswer

TWELVE = NumberAnswer(12, forbidden=(11, 13))
SUM = NumberAnswer(1240.5, forbidden=(318,))
ONE = NumberAnswer(1, forbidden=(2,))
BERLIN = WordsAnswer((("Berlin",),), ("Bern", "Paris"))
FILES = WordsAnswer((("src/a.py", "a.py"), ("src/b.py", "b.py")), ("c.py", "src/c.py"))
PROMPT = "How many of the 40 are there?"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (TWELVE, "12"),
        (TWELVE, "There are 12."),
        (TWELVE, "There are **12** lines (of 40)."),
        (TWELVE, "twelve"),
        (NumberAnswer(42, forbidden=()), "There are forty-two."),
        (NumberAnswer(30, forbidden=()), "Thirty."),
        (TWELVE, "12 lines: 5 open and 7 done"),
        (TWELVE, "12.0"),
        (TWELVE, "It took 12ms."),
        (TWELVE, "No, only 12."),
        (SUM, "1,240.50 EUR"),
        (SUM, "€1240.5"),
        (ONE, "Just one."),
        (BERLIN, "berlin!"),
        (BERLIN, "It's Berlin's office."),
        (BERLIN, "It is not far: Berlin."),
        (FILES, "`src/b.py` and `a.py`"),
    ],
)
def test_right_answers_pass(answer: NumberAnswer | WordsAnswer, text: str) -> None:
    assert answer_problem(answer, text, PROMPT) is None


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (TWELVE, ""),
        (TWELVE, "  \n"),
        (TWELVE, "112"),
        (TWELVE, "120"),
        (TWELVE, "12.5"),
        (TWELVE, "-12"),
        (TWELVE, "P-12"),
        (TWELVE, "2026-12-01"),
        (TWELVE, "12:30"),
        (TWELVE, "1,200"),
        (TWELVE, "10.0.0.12"),
        (TWELVE, "12-13"),
        (TWELVE, "not 12"),
        (TWELVE, "There aren't really 12."),
        (TWELVE, "more than 12"),
        (TWELVE, "at least 12"),
        (TWELVE, "12 or 14"),
        (TWELVE, "14 or 12"),
        (TWELVE, "12, or perhaps 14"),
        (TWELVE, "12, not 13"),
        (TWELVE, "It is 12. It is not 12."),
        (TWELVE, "8 9 10 12 14 15"),
        (TWELVE, "Done."),
        (SUM, "1240"),
        (SUM, "240.50"),
        (BERLIN, "Berliner"),
        (BERLIN, "Berlin/Ulm"),
        (BERLIN, "not in Berlin"),
        (BERLIN, "Ulm instead of Berlin"),
        (BERLIN, "Berlin or Ulm"),
        (BERLIN, "Berlin, Bern"),
        (FILES, "a.py"),
        (FILES, "lib/a.py and b.py"),
        (FILES, "a.py, b.py, c.py"),
        (FILES, "a.py, b.py, lib/c.py"),
        (FILES, "a.py\n\nb.py\n1\n2\n3\n4"),
        (TWELVE, "12 " + "very " * 100),
    ],
)
def test_wrong_answers_fail(answer: NumberAnswer | WordsAnswer, text: str) -> None:
    assert answer_problem(answer, text, PROMPT) is not None


def test_numbers_of_the_prompt_are_not_counted_as_guesses() -> None:
    assert answer_problem(TWELVE, "12 (1 2 3 4)", "") is None
    assert answer_problem(TWELVE, "12 (1 2 3 4 5)", "") is not None
    assert answer_problem(TWELVE, "12 (1 2 3 4 5)", "one of 5") is None


def test_no_answer_is_needed_where_none_is_asked() -> None:
    assert answer_problem(None, "", PROMPT) is None


@given(st.text(max_size=MAX_ANSWER_CHARS))
def test_any_text_splits_into_folded_tokens(text: str) -> None:
    assert all(token.text == token.text.casefold() and token.text.strip() for token in tokens_of(text))
    assert isinstance(answer_problem(TWELVE, text, text), str | None)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_number_is_found_in_no_other_number(stated: int, wanted: int) -> None:
    problem = answer_problem(NumberAnswer(wanted, forbidden=()), f"There are {stated:,}.", "")
    assert (problem is None) == (stated == wanted)


@given(st.lists(st.integers(0, 99), min_size=8, max_size=60, unique=True))
def test_a_list_of_all_candidates_is_no_answer(candidates: list[int]) -> None:
    text = ", ".join(map(str, candidates))
    assert answer_problem(NumberAnswer(candidates[0], forbidden=()), text, "") is not None
