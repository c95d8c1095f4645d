"""The rule for final answers: whole words, without case and a few signs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentkit.errors import UserError
from evals.tool_use.bfcl.agentic import check_answer, load_answers


@pytest.mark.parametrize(
    ("answer", "acceptable", "right"),
    [
        ("It was Zhang Yiming, I think.", ["Zhang Yiming"], True),
        ("ZHANG YIMING", ["Zhang Yiming"], True),
        ("on 2024/10/25", ["2024-10-25"], True),
        ("thirty-five", ["35", "thirty five"], False),  # the hyphen goes, the space of the key stays
        ("She is 35.", ["35", "thirty five"], True),
        ("She is 350.", ["35"], False),
        ("Finneas O'Connell", ['Finneas O"Connell'], True),
        ("It costs $49.99", ["$49.99"], False),  # no word begins between a space and the sign
        ("It costs US$49.99", ["$49.99"], True),
    ],
)
def test_an_answer_counts_where_it_stands_as_whole_words(answer: str, acceptable: list[str], right: bool) -> None:
    verdict = check_answer(answer, acceptable)
    assert verdict.valid is right
    assert verdict.error_type == ("" if right else "agentic:answer_not_found")


@pytest.mark.parametrize("answer", [None, ""])
def test_no_message_is_wrong_and_named_so(answer: str | None) -> None:
    assert check_answer(answer, ["35"]).error_type == "agentic:no_last_message"


def test_a_key_that_is_no_list_of_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "possible_answer" / "BFCL_v4_memory.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"id": "memory_0", "ground_truth": [35]}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="key of 'memory_0' is \\[35\\]"):
        load_answers(tmp_path, "memory")
