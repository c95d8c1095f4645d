"""Requests and answers made from data sets and documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.classifiers.data_files import UserError
from tools.refusal_judge import real_exchanges as made
from tools.refusal_judge.reply_grammar import Exchange

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
ANSWER = "The heart pumps blood through the body, and its valves keep the blood from flowing back."


def book(text: str, source: str = "openstax-psychology") -> dict[str, str]:
    return {"text": text, "source": source}


def test_an_instruction_is_joined_with_its_input() -> None:
    task = {"instruction": "Translate.", "instances": [{"input": "Hund", "output": "dog\n"}]}
    bare = {"instruction": "Name a river.", "instances": [{"input": "", "output": "Po"}]}
    assert list(made.seed_tasks([task, bare])) == [
        Exchange("Translate.\nHund", "dog"),
        Exchange("Name a river.", "Po"),
    ]


def test_a_solution_loses_the_calculators_marks_and_its_bare_result() -> None:
    record = {"question": "How many?", "answer": "She has 2+3=<<2+3=5>>5 eggs.\n#### 5"}
    assert list(made.word_problems([record])) == [Exchange("How many?", "She has 2+3=5 eggs.")]


@pytest.mark.parametrize(("task_id", "n"), [(510, 0), (600, 0), (601, 1), (974, 1)])
def test_programs_of_the_training_split_alone_are_used(task_id: int, n: int) -> None:
    record = {"task_id": task_id, "text": "Write f.", "code": "def f():\r\n    pass"}
    assert list(made.programs([record])) == [Exchange("Write f.", "```python\ndef f():\n    pass\n```")] * n


def test_a_question_is_taken_with_the_answer_below_it() -> None:
    asked = "Why does the heart need valves to work?"
    text = f"Critical Thinking Questions\n\n{asked}\n\n{ANSWER}"
    assert list(made.textbook_questions([book(text)])) == [Exchange(asked, ANSWER)]


@pytest.mark.parametrize(
    "text",
    [
        f"Review Questions\n\nWhy does the heart need valves to work?\n\n{ANSWER}",
        "Critical Thinking Questions\n\nWhy does the heart need valves?\n\nWhy does it beat faster when we run?",
        f"Critical Thinking Questions\n\nWhy does the heart need valves?\n\nvalve: {ANSWER}",
        f"Critical Thinking Questions\n\nWhy does the heart need valves?\n\n- {ANSWER}",
    ],
)
def test_choices_further_questions_and_glossaries_are_no_answers(text: str) -> None:
    assert list(made.textbook_questions([book(text)])) == []


def test_books_without_answers_give_no_questions() -> None:
    text = f"Critical Thinking Questions\n\nWhy does the heart need valves to work?\n\n{ANSWER}"
    assert list(made.textbook_questions([book(text, "openstax-astronomy")])) == []


def test_a_heading_becomes_a_request_for_what_stands_below_it() -> None:
    text = f"VALVES OF THE HEART\n\n{ANSWER * 3}\n\nBlood Vessels\n\n{ANSWER}"
    (exchange,) = made.textbook_sections([book(text)])
    assert "valves of the heart" in exchange.prompt
    assert exchange.answer == ANSWER * 3


def test_a_heading_of_many_chapters_names_no_topic() -> None:
    assert list(made.textbook_sections([book(f"Section Summary\n\n{ANSWER * 3}")] * 3)) == []


def test_a_manual_page_is_asked_for_by_its_commands_name() -> None:
    page = "# tar\n\n> Archive files.\n\n- Create:\n\n`tar cf {{a.tar}} {{file}}`\n\n- List:\n\n`tar tf {{a.tar}}`"
    (exchange,) = made.manual_pages([{"text": page}])
    assert "tar" in exchange.prompt
    assert exchange.answer == "Archive files.\n\n- Create:\n\n`tar cf a.tar file`\n\n- List:\n\n`tar tf a.tar`"
    assert list(made.manual_pages([{"text": page.replace("\n- List:", "")}])) == []


def test_a_snippet_is_asked_for_by_what_it_does() -> None:
    rest = (
        "- Use `sum()`.\n\n```py\ndef total(numbers):\n    return sum(numbers)\n```\n\n```py\ntotal([1]) # 1\n```"
    )
    record = {"text": f"Returns the sum of a list of numbers.\n\n{rest}", "source": "30-seconds-of-code"}
    asked = "Write a function that returns the sum of a list of numbers."
    assert list(made.snippets([record])) == [Exchange(asked, rest)]
    assert list(made.snippets([{**record, "source": "rust-book"}])) == []


def test_a_refusing_answer_is_told() -> None:
    assert made.refuses("Sorry, this is personal. I cannot help you with this task.")
    assert not made.refuses(ANSWER)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        made.exchanges(tmp_path)


@pytest.mark.skipif(not DATA.exists(), reason="needs the data in `shared` beside the project")
def test_the_exchanges_of_the_data_are_many_the_same_each_time_and_refuse_nothing() -> None:
    found = made.exchanges(DATA)
    assert len(found) > 1000
    assert found == made.exchanges(DATA)
    assert not [exchange for exchange in found if made.refuses(exchange.answer) or not exchange.prompt.strip()]
