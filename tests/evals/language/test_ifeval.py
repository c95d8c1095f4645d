"""IFEval's instructions, strict and loose, and the suite over them."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentkit.errors import UserError
from agentkit.messages import ModelResponse, TextPart
from agentkit.testing import FunctionModel
from evals.harness.evaluation import evaluate
from evals.harness.specification import Specification
from evals.language.ifeval import suite
from evals.language.ifeval.instructions import (
    INSTRUCTIONS,
    LANGUAGE_INSTRUCTIONS,
    check_arguments,
    follows,
    follows_loosely,
    loose_variants,
)

DATA = Path(__file__).resolve().parents[4] / "shared/data/evals/capability/ifeval_input_data.jsonl"

# Kind, arguments, replies that follow it, replies that do not.
EXAMPLES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["cat", "dog"]}, ["A CATalogue of dogs"], ["a cat"]),
    ("keywords:frequency", {"keyword": "as", "relation": "at least", "frequency": 3}, ["as as Asia"], ["as as"]),
    ("keywords:frequency", {"keyword": "as", "relation": "less than", "frequency": 2}, ["as"], ["as, as"]),
    ("keywords:forbidden_words", {"forbidden_words": ["cat", "dog"]}, ["catalogue"], ["a Dog."]),
    (
        "keywords:letter_frequency",
        {"letter": "!", "let_relation": "at least", "let_frequency": 2},
        ["a!!"],
        ["a!"],
    ),
    (
        "length_constraints:number_sentences",
        {"relation": "less than", "num_sentences": 3},
        ["A. B!"],
        ["A! B! C!"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***a***b***"],
        ["a", "a****** b"],
    ),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, ["a b c"], ["a b"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "President"},
        ["a\n\npresident, b", 'a\n\n"President" b'],
        ["a\n\nb\n\npresident", "president\n\na", "a\n\nthe president"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] [b c]"], ["[a]", "[a\nb] [c]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["x\nP. S. y", "p.s. y"], ["PS y"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["x p.p.s y"], ["P.S. y"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n- b", "  - a\n\n* b"],
        ["* a", "- a\n" * 3],
    ),
    ("detectable_format:constrained_response", {}, ["So: My answer is no."], ["my answer is no."]),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* *b*", "**a** *b*"],
        ["**a**", "* * *b*"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1 a\nSection 2 b"],
        ["Section a\nSection 2 b"],
    ),
    ("detectable_format:json_format", {}, ['```json\n{"a": 1}\n```', "[1]"], ["{'a': 1}", 'x {"a": 1}']),
    ("detectable_format:title", {}, ["<<A title>>\nx"], ["<< >>", "<A>"]),
    ("combination:two_responses", {}, ["a ****** b", "******a******b"], ["a ****** a", "a", "a****** ******b"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Why is it?"}, ["why IS it? So."], ["So. Why is it?"]),
    (
        "startend:end_checker",
        {"end_phrase": "The end."},
        ['x THE END."', '"x the end."'],
        ["the end. x", 'the end. "'],
    ),
    ("startend:quotation", {}, ['"a"', ' "a b" '], ['"', 'a"', '"a" b']),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        ["THE U.S."],
        ["THE end"],
    ),
    ("punctuation:no_comma", {}, ["a b"], ["a, b"]),
]


@pytest.mark.parametrize(("kind", "arguments", "right", "wrong"), EXAMPLES)
def test_a_reply_follows_an_instruction_or_not(
    kind: str, arguments: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    check_arguments(kind, arguments, "here")
    assert [reply for reply in right if not follows(reply, kind, arguments)] == []
    assert [reply for reply in wrong if follows(reply, kind, arguments)] == []


def test_every_kind_has_an_example() -> None:
    assert {kind for kind, *_ in EXAMPLES} | LANGUAGE_INSTRUCTIONS == set(INSTRUCTIONS)
    assert len(INSTRUCTIONS) == 25


def test_languages_are_told_apart() -> None:
    pytest.importorskip("langdetect", reason="needs langdetect")
    german = "Das Wetter ist heute sehr schön, und wir gehen in den Garten."
    english = "The weather is very fine today, and we are going to the garden."
    kind = "language:response_language"
    assert follows(german, kind, {"language": "de"})
    assert not follows(english, kind, {"language": "de"})
    assert follows("12345", kind, {"language": "de"})  # cannot be told
    assert follows(english.upper(), "change_case:english_capital", {})
    assert not follows(english, "change_case:english_capital", {})
    assert follows(english.lower(), "change_case:english_lowercase", {})
    assert not follows(german.lower(), "change_case:english_lowercase", {})


def test_a_blank_reply_follows_nothing() -> None:
    assert not follows(" \n", "punctuation:no_comma", {})
    assert not follows_loosely("", "punctuation:no_comma", {})


def test_the_loose_verdict_takes_eight_variants() -> None:
    reply = "Sure, here:\n*a* b\nBye, now"
    assert len(loose_variants(reply)) == 8
    assert set(loose_variants(reply)) == {
        reply, "*a* b\nBye, now", "Sure, here:\n*a* b", "*a* b",
        "Sure, here:\na b\nBye, now", "a b\nBye, now", "Sure, here:\na b", "a b",
    }  # fmt: skip
    assert not follows(reply, "punctuation:no_comma", {})
    assert follows_loosely(reply, "punctuation:no_comma", {})


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("keywords:none", {}, "no instruction 'keywords:none'"),
        ("keywords:frequency", {"keyword": "a", "relation": "at least"}, "needs 'frequency' as int"),
        ("keywords:frequency", {"keyword": "a", "relation": "around", "frequency": 1}, "relation='around'"),
        ("keywords:existence", {"keywords": ["("]}, r"'\(' is not a regular expression"),
        ("keywords:existence", {"keywords": [3]}, "3 is not a regular expression"),
        (
            "keywords:letter_frequency",
            {"letter": "ab", "let_relation": "at least", "let_frequency": 1},
            "one character",
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"},
            "nth_paragraph=2",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_named(kind: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^here: .*{message}"):
        check_arguments(kind, arguments, "here")


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


PROMPTS = (
    {
        "key": 7,
        "prompt": "No commas, and a title.",
        "instruction_id_list": ["punctuation:no_comma", "detectable_format:title"],
        "kwargs": [{}, {"num_words": None}],
    },
    {"key": 8, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
)


def test_the_four_accuracies_are_counted_by_prompt_and_by_instruction(tmp_path: Path) -> None:
    data = write(tmp_path / "i.jsonl", *PROMPTS)
    replies = iter(["Sure, here\n<<A>>", "no comma"])
    model = FunctionModel(lambda messages, parameters: ModelResponse((TextPart(next(replies)),)))
    done = evaluate(Specification("ifeval", "function", {"data": str(data)}), tmp_path / "run", model=model)
    assert [(s.case.id, s.score.value) for s in done.scored] == [("ifeval/7", 0.0), ("ifeval/8", 1.0)]
    assert done.scored[0].score.explanation == "not followed: punctuation:no_comma"
    assert done.scored[0].score.numbers == {
        "prompt_loose": 1.0,
        "instructions_strict": 0.5,
        "instructions_loose": 1.0,
    }
    assert [(row[0], row[1], row[2][:5]) for row in done.tables[0].rows] == [
        ("prompts, strict", "2", "0.500"),
        ("prompts, loose", "2", "1.000"),
        ("instructions, strict", "3", "0.667"),
        ("instructions, loose", "3", "1.000"),
    ]
    assert [row[0] for row in done.tables[1].rows] == ["detectable_format:title", "punctuation:no_comma"]


def test_a_failed_run_follows_nothing(tmp_path: Path) -> None:
    def broken(messages: object, parameters: object) -> ModelResponse:
        raise OSError("down")

    data = write(tmp_path / "i.jsonl", *PROMPTS)
    specification = Specification("ifeval", "function", {"data": str(data)})
    done = evaluate(specification, tmp_path / "run", model=FunctionModel(broken))
    assert [row[2][:5] for row in done.tables[0].rows] == ["0.000"] * 4


def test_a_malformed_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs its data.*google-research"):
        suite.load({})
    uneven = PROMPTS[1] | {"kwargs": []}
    with pytest.raises(UserError, match="record 1: the numbers of kwargs and instructions must be equal"):
        suite.load({"data": str(write(tmp_path / "i.jsonl", uneven))})


def test_a_missing_language_detector_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from evals.language.ifeval import language

    monkeypatch.setitem(sys.modules, "langdetect", None)
    language._langdetect.cache_clear()
    prompt = {
        "key": 1,
        "prompt": "In German.",
        "instruction_id_list": ["language:response_language"],
        "kwargs": [{"language": "de"}],
    }
    with pytest.raises(UserError, match="pip install langdetect"):
        suite.load({"data": str(write(tmp_path / "i.jsonl", prompt))})
    language._langdetect.cache_clear()


def test_the_real_prompts_are_understood_and_use_every_kind() -> None:
    if not DATA.exists():
        pytest.skip(f"needs {DATA}")
    pytest.importorskip("langdetect", reason="needs langdetect")
    cases = suite.load({"data": str(DATA)})
    kinds = Counter(kind for case in cases for kind, _ in case.data["instructions"])
    assert (len(cases), sum(kinds.values()), set(kinds)) == (541, 834, set(INSTRUCTIONS))


@pytest.mark.slow
def test_verdicts_are_the_originals() -> None:
    folder = os.environ.get("IFEVAL_ORIGINAL")
    if not folder or not DATA.exists():
        pytest.skip(
            "needs the original's folder in IFEVAL_ORIGINAL, and its prompts; see evals.language.ifeval.parity"
        )
    for name in ("nltk", "langdetect", "immutabledict", "absl"):
        pytest.importorskip(name, reason=f"the original needs {name}")
    from evals.language.ifeval.parity import compare, load_original, read_texts

    texts = read_texts(Path(__file__).parents[3] / "CHANGELOG.md")
    found = compare(load_original(Path(folder)), DATA, texts, 2)
    assert {kind.split(" ")[0] for kind in found.n} == set(INSTRUCTIONS)
    # The original draws a random letter in place of # and !.
    differing = {kind.split(" ")[0] for kind in found.differing} - {"keywords:letter_frequency"}
    assert differing == set(), found.differing
