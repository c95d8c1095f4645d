"""Evaluations in training data: what is found, what is not, and which evaluation it is said to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelstack.data.contamination import ContaminationIndex, Decontaminate, Found
from modelstack.data.documents import Document
from modelstack.data.evaluation_texts import word_runs
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.errors import UserError
from modelstack.recipe_file import checked_recipe

QUESTION = (
    "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her "
    "friends every day with four. How much does she make at the market?"
)
SHORT = "Which planet of the solar system has rings?"
WORDS = QUESTION.split()


def index() -> ContaminationIndex:
    return ContaminationIndex.of([("gsm8k", QUESTION), ("arc", SHORT), ("arc", "too short to tell")])


def test_a_run_of_thirteen_words_is_found_whatever_stands_between_the_words() -> None:
    copied = "Look: " + " ...\n".join(WORDS[4:17]).upper() + ", they said."
    assert index().find(copied, None) == Found("gsm8k", "run")


def test_twelve_words_in_common_are_not_enough() -> None:
    assert index().find("Look: " + " ".join(WORDS[4:16]) + ", they said.", None) is None


def test_a_short_text_is_found_whole_and_only_whole() -> None:
    assert index().find(f"Quiz! {SHORT} Saturn.", None) == Found("arc", "short_text")
    assert index().find("Which planet of the solar system has the most moons?", None) is None


def test_a_text_in_which_some_words_were_changed_is_found_by_its_shorter_runs() -> None:
    words = list(WORDS)
    words[11] = "lunch"  # of 25 words ("Janet's" is two) it parts twelve from twelve
    changed = " ".join(words[:24])
    assert index().find(changed, None) is None
    assert index().find(changed, 0.3) == Found("gsm8k", "fuzzy")
    assert index().find(changed, 0.9) is None


def test_runs_in_common_are_found_without_their_evaluation() -> None:
    thirteen, eight = " ".join(WORDS[4:17]), " ".join(WORDS[4:12])
    assert index().repeat_run([thirteen], 13) and index().repeat_run([thirteen], 8)
    assert index().repeat_run(["", eight], 8) and not index().repeat_run([eight], 13)
    assert not index().repeat_run(thirteen.split(), 8), "a run lies within one text"
    assert not ContaminationIndex.of([]).repeat_run([thirteen], 13)


def test_a_run_that_a_text_repeats_counts_once_in_the_share() -> None:
    refrain = " ".join(["one two three four five six seven eight"] * 6)
    verses = " ".join(f"word{n}" for n in range(12))
    rules = {found.rule for found in ContaminationIndex.of([("e", f"{refrain} {verses}")]).find_all(refrain, 0.5)}
    assert rules == {"run"}, "8 of 20 distinct runs"


def test_a_clean_text_is_clean() -> None:
    assert index().find("A text about ducks, eggs and planets that nobody has put into a test. " * 20, 0.5) is None
    assert index().find("", 0.5) is None
    assert ContaminationIndex.of([]).find(QUESTION, 0.5) is None


def test_the_step_names_the_evaluation(tmp_path: Path) -> None:
    (tmp_path / "gsm8k_test.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "18"}) + "\n")
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": "one two three " * 9}) + "\n")
    step = Decontaminate(evaluations=(tmp_path,), except_files=("train.jsonl",)).build()
    document = Document("a", f"Exam: {QUESTION}")
    assert step(document) == "in_gsm8k_test"
    assert document.metadata["contamination"] == {"evaluation": "gsm8k_test", "rule": "run"}
    assert step(Document("b", "one two three " * 9)) is None


def test_files_of_one_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    for folder, text in (("easy", QUESTION), ("hard", "alpha beta gamma delta " * 8)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.json").write_text(json.dumps([text]))
    step = Decontaminate(evaluations=(tmp_path,)).build()
    assert step(Document("a", "alpha beta gamma delta " * 8)) == "in_hard_test"


def test_all_that_a_text_repeats_is_found_with_each_rule_and_evaluation() -> None:
    several = ContaminationIndex.of([("gsm8k", QUESTION), ("arc", SHORT), ("arc again", SHORT), ("arc", SHORT)])
    both = f"{QUESTION} {SHORT}"
    runs = {Found("gsm8k", "run"), Found("gsm8k", "fuzzy")}
    assert several.find_all(both, 0.9) == runs | {Found("arc", "short_text"), Found("arc again", "short_text")}
    assert several.find(both, 0.9) == Found("gsm8k", "run")
    assert several.find_all(QUESTION, None) == {Found("gsm8k", "run")}
    assert several.find_all("nothing of that", 0.9) == set()
    assert [several.n_texts(name) for name in ("gsm8k", "arc", "arc again", "other")] == [1, 1, 1, 0]


def test_a_recipe_gives_its_evaluations_to_the_step_that_names_none(tmp_path: Path) -> None:
    content = {"name": "r", "inputs": [{"kind": "jsonl", "path": tmp_path}], "evaluations": [tmp_path / "a.json"]}
    steps = [{"kind": "decontaminate"}, {"kind": "decontaminate", "evaluations": ["b.json"]}]
    made = checked_recipe(DataRecipe, content | {"steps": steps})
    given = [step.evaluations for step in made.steps if isinstance(step, Decontaminate)]
    assert given == [(tmp_path / "a.json",), (Path("b.json"),)]
    assert DataRecipe.model_validate_json(made.model_dump_json()) == made
    with pytest.raises(UserError, match=r"steps\.0\.decontaminate\.evaluations"):
        checked_recipe(DataRecipe, content | {"evaluations": [], "steps": steps})


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        Decontaminate(evaluations=(tmp_path / "nowhere",)).build()
    with pytest.raises(UserError, match="no JSON file"):
        Decontaminate(evaluations=(tmp_path,)).build()


@given(st.lists(st.sampled_from("abcde"), max_size=60), st.lists(st.sampled_from("abcde"), max_size=60))
def test_a_hashed_run_is_found_where_the_words_themselves_are_shared(one: list[str], other: list[str]) -> None:
    item, text = " ".join(one), " ".join(other)
    found = ContaminationIndex.of([("e", item)]).find(text, None)
    shared = {*word_runs(item, 13)} & {*word_runs(text, 13)}
    assert (found is not None and found.rule == "run") == bool(shared)
