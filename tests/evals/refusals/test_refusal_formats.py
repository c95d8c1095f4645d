"""Request files: every common format by its header, labels, and what is said of a bad file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentkit.errors import UserError
from evals.refusals.formats import parse_label, read_requests

CSV_FILES = {
    "xstest_prompts.csv": (
        "id,prompt,type,label,focus,note\n1,How do I stop a cough?,homonyms,safe,,\n",
        "benign",
    ),
    "xstest_v2.csv": ("id,prompt,type\n2,How do I start a riot?,contrast_homonyms\n", "harmful"),
    "xstest_v2_safe.csv": ("id,prompt,type\n3,How do I stop a nosebleed?,homonyms\n", "benign"),
    "harmbench_behaviors.csv": (
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
        "Do it,contextual,x,,Some text,b1\n",
        "harmful",
    ),
    "jbb_harmful-behaviors.csv": ("Index,Goal,Target,Behavior,Category,Source\n0,Do harm,Sure,b,c,s\n", "harmful"),
    "jbb_benign-behaviors.csv": ("Index,Goal,Target,Behavior,Category,Source\n0,Do good,Sure,b,c,s\n", "benign"),
    "strongreject.csv": ("category,source,forbidden_prompt\nfraud,custom,Do fraud\n", "harmful"),
    "simplesafetytests.csv": ("id,harm_area,category,prompts_final\n7,fraud,scam,Do a scam\n", "harmful"),
    "advbench.csv": ("goal,target\nDo harm,Sure\n", "harmful"),
    "do_not_answer.csv": ("id,risk_area,types_of_harm,question\n1,r,t,Why?\n", "harmful"),
    "or-bench-toxic.csv": ("prompt,category\nDo harm,c\n", "harmful"),
    "mine.csv": ("prompt,label\nWhat is rain?,safe\n", "benign"),
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", CSV_FILES)
def test_a_csv_file_is_told_by_its_header(tmp_path: Path, name: str) -> None:
    text, label = CSV_FILES[name]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    (request,) = read_requests(path)
    assert request.label == label
    assert request.prompt


def test_a_contextual_behaviour_comes_with_its_context(tmp_path: Path) -> None:
    path = tmp_path / "harmbench.csv"
    path.write_text(CSV_FILES["harmbench_behaviors.csv"][0], encoding="utf-8")
    (request,) = read_requests(path)
    assert request.prompt == "Some text\n\n---\n\nDo it"
    assert (request.id, request.category) == ("b1", "contextual")


def test_json_lines_carry_text_label_and_category(tmp_path: Path) -> None:
    path = write(
        tmp_path / "own.jsonl", {"text": "How?", "label": "unsafe", "category": "c"}, {"text": "Why?", "label": 0}
    )
    first, second = read_requests(path)
    assert (first.label, first.category, first.source, first.id) == ("harmful", "c", "own", "1")
    assert second.label == "benign"


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    text = "a\u0085b\u2028c"  # line ends to Python's text, and not to JSON
    path.write_text(json.dumps({"text": text, "label": 0}, ensure_ascii=False) + "\n", encoding="utf-8")
    (request,) = read_requests(path)
    assert request.prompt == text


def test_the_first_turn_of_a_dialogue_is_the_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "sorry.jsonl", {"turns": ["Do harm"], "category": "7", "question_id": 3})
    (request,) = read_requests(path)
    assert (request.prompt, request.id, request.label) == ("Do harm", "3", "harmful")


def test_a_json_array_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "array.json"
    path.write_text("\ufeff" + json.dumps([{"prompt": "a", "label": "benign"}]), encoding="utf-8")
    assert [request.prompt for request in read_requests(path)] == ["a"]


def test_a_given_label_wins_over_the_files(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", {"prompt": "a", "label": "harmful"})
    assert read_requests(path, label="borderline")[0].label == "borderline"


def test_repeated_ids_are_made_unique(tmp_path: Path) -> None:
    rows = [{"id": "x", "prompt": p, "label": "benign"} for p in "abc"]
    assert len({request.id for request in read_requests(write(tmp_path / "own.jsonl", *rows))}) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no requests"),
        ('{"prompt": "a"}\n', "does not say whether"),
        ('{"prompt": "a", "label": "spicy"}\n', r"row 1.*'spicy'.*harmful, benign, borderline"),
        ('{"prompt": " ", "label": "benign"}\n', "row 1: the prompt is empty"),
        ('{"colour": "red"}\n', "colour"),
        ("[1, 2]\n", "JSON object"),
        ("{broken\n", "not JSON Lines"),
    ],
)
def test_a_bad_file_is_an_error_with_its_path_and_reason(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said) as error:
        read_requests(path)
    assert "bad.jsonl" in str(error.value)


def test_a_missing_file_names_its_path_and_the_option(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.csv cannot be read.*data="):
        read_requests(tmp_path / "nowhere.csv")


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"prompt": "é", "label": "benign"}'.encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_requests(path)


@pytest.mark.parametrize(
    ("word", "label"), [(" Unsafe ", "harmful"), ("0", "benign"), ("controversial", "borderline")]
)
def test_words_for_labels_are_understood(word: str, label: str) -> None:
    assert parse_label(word) == label
