"""GSM8K: two extractions of a number, and examples as earlier turns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from agentkit.errors import UserError
from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, SystemPromptPart, TextPart, UserPromptPart
from agentkit.models.base import ModelRequestParameters
from agentkit.testing import FunctionModel
from evals.case import Case, Run
from evals.harness.evaluation import evaluate
from evals.harness.specification import Specification
from evals.language import gsm8k
from evals.language.gsm8k import conversation, flexible_number, score_answer, strict_number
from modelstack.reasoning.verifiers.math_answers import as_number

DATA = Path(__file__).resolve().parents[4] / "shared/data/evals/capability"


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("So 3 + 4 = 7.\n#### 7", "7", "7"),
        ("#### 1,234.50", "1234.50", "1234.50"),
        ("#### -3.", "-3", "-3"),
        ("The answer is $1,000.", None, "1000"),
        ("It is 5 apples and 6 pears", None, "6"),
        ("#### 4\n#### 5", "4", "5"),
        ("####7", None, "7"),
        ("none", None, None),
        ("#### ...", None, None),
    ],
)
def test_a_number_stands_behind_the_mark_or_last(text: str, strict: str | None, flexible: str | None) -> None:
    assert strict_number(text) == (None if strict is None else Decimal(strict))
    assert flexible_number(text) == (None if flexible is None else Decimal(flexible))


def test_numbers_are_compared_as_numbers() -> None:
    assert as_number("18.00") == as_number("$18") == as_number("18.") == Decimal(18)
    assert as_number("1.2.3") is None
    assert as_number("9" * 10_000) is None


def test_the_score_is_the_strict_one_and_the_flexible_one_stands_beside_it() -> None:
    case = Case("gsm8k/0", "?", target="18")
    loose = score_answer(case, Run("gsm8k/0", "completed", output="It is $18.00."))
    assert (loose.value, loose.numbers, loose.answer) == (0.0, {"flexible": 1.0}, None)
    strict = score_answer(case, Run("gsm8k/0", "completed", output="#### 18\nOr 20."))
    assert (strict.value, strict.numbers, strict.answer) == (1.0, {"flexible": 0.0}, "18")
    assert score_answer(case, Run("gsm8k/0", "timed_out")).value == 0.0


def write(path: Path, *pairs: tuple[str, str]) -> Path:
    lines = [json.dumps({"question": question, "answer": answer}) for question, answer in pairs]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_examples_are_earlier_turns_without_the_calculators_marks(tmp_path: Path) -> None:
    train = write(
        tmp_path / "train.jsonl", *((f"q{i}", f"{i}+1=<<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}") for i in range(9))
    )
    data = write(tmp_path / "test.jsonl", ("2+2?", "It is 4\n#### 4"), ("3+3?", "#### 6"))
    options = {"data": str(data), "train": str(train), "few_shot": "3"}
    first, second = gsm8k.load(options)
    assert gsm8k.load(options) == [first, second]
    assert first.data != second.data
    messages = conversation(first)
    assert [type(message) for message in messages] == [ModelRequest, ModelResponse] * 3 + [ModelRequest]
    text = "".join(str(getattr(part, "content", "")) for message in messages for part in message.parts)
    assert "<<" not in text
    assert sum(isinstance(part, SystemPromptPart) for message in messages for part in message.parts) == 1
    last = messages[-1].parts
    assert [part.content for part in last if isinstance(part, UserPromptPart)] == ["2+2?"]


def test_without_examples_the_question_stands_alone(tmp_path: Path) -> None:
    data = write(tmp_path / "test.jsonl", ("2+2?", "#### 4"), ("3+3?", "#### 6"))
    seen: list[Sequence[ModelMessage]] = []

    def model(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        seen.append(messages)
        assert parameters.settings.max_tokens == 400
        return ModelResponse((TextPart("#### 4"),))

    specification = Specification("gsm8k", "function", {"data": str(data), "few_shot": "0"})
    done = evaluate(specification, tmp_path / "run", model=FunctionModel(model))
    assert [s.score.value for s in done.scored] == [1.0, 0.0]
    assert len(seen[0]) == 1


def test_what_is_missing_or_malformed_is_named(tmp_path: Path) -> None:
    data = str(write(tmp_path / "test.jsonl", ("2+2?", "4")))
    with pytest.raises(UserError, match="--option data=PATH.*grade-school-math"):
        gsm8k.load({})
    with pytest.raises(UserError, match="--option train=PATH"):
        gsm8k.load({"data": data})
    with pytest.raises(UserError, match="few_shot='many' must be a whole number from 0 to 50"):
        gsm8k.load({"data": data, "few_shot": "many"})
    with pytest.raises(UserError, match="record 1: the answer must end with ####"):
        gsm8k.load({"data": data, "few_shot": "0"})


def test_every_reference_answer_scores_by_both_extractions() -> None:
    if not (DATA / "gsm8k_test.jsonl").exists():
        pytest.skip("needs GSM8K")
    cases = gsm8k.load({"data": str(DATA / "gsm8k_test.jsonl"), "few_shot": "0"})
    lines = (DATA / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(cases) == 1319
    for case, line in zip(cases, lines, strict=True):
        score = score_answer(case, Run(case.id, "completed", output=json.loads(line)["answer"]))
        assert (score.value, score.numbers["flexible"]) == (1.0, 1.0), case.id
