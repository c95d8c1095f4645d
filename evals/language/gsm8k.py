"""Suite `gsm8k`: grade-school word problems, scored on the final number (Cobbe et al. 2021).

Two extractions are reported: strict takes the number after "####", as the data set writes answers; flexible takes
the last number of the reply. The patterns are those of lm-evaluation-harness. Numbers are compared as numbers,
without commas, dollar signs and a final full stop, so "18.00" equals 18.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from agentkit.errors import UserError
from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from agentkit.models.base import Model, ModelRequestParameters, ModelSettings
from evals.case import Case, Run, Score, failed_score
from evals.harness.solving import ask_model, opening
from evals.harness.suite import Suite, check_options
from evals.language.records import field, file_option, read_records, whole_number
from modelstack.reasoning.verifiers.math_answers import as_number, last_number_text

NAME = "gsm8k"
OPTIONS = {
    "data": "JSON-lines file of questions and answers (test.jsonl of openai/grade-school-math)",
    "train": "file of the same form from which examples are drawn; required unless few_shot=0",
    "few_shot": "solved examples before each question, as earlier turns of the conversation; default 8",
}
HOW_TO_GET = "The files test.jsonl and train.jsonl are in the repository openai/grade-school-math."
DEFAULT_FEW_SHOT = 8
FEW_SHOT_SEED = 1234
DEFAULTS = ModelSettings(temperature=0.0, max_tokens=400)
"""Long enough for the longest reference solution (below 350 tokens)."""
SYSTEM_PROMPT = (
    "Solve the problem step by step. End your reply with a line of #### and the final number, like: #### 42"
)

STRICT = re.compile(r"#### (-?[0-9.,]+)")
CALCULATOR = re.compile(r"<<[^<>]*>>")
"""Annotations of arithmetic in the data set, which a model is not expected to write."""


def strict_number(text: str) -> Decimal | None:
    """Return the number after the first "#### ", or None."""
    match = STRICT.search(text)
    return as_number(match.group(1)) if match else None


def flexible_number(text: str) -> Decimal | None:
    """Return the last number of a text, or None."""
    found = last_number_text(text)
    return None if found is None else as_number(found)


def load(options: Mapping[str, str]) -> list[Case]:
    """Return one case per question; its examples are drawn from the train file, seeded by its index.

    Raises:
        UserError: an option is not known or not valid, or a file is missing or malformed.
    """
    check_options(NAME, options, OPTIONS)
    path = file_option(NAME, options, "data", HOW_TO_GET)
    few_shot = whole_number(NAME, options, "few_shot", DEFAULT_FEW_SHOT, low=0, high=50)
    examples = _examples(file_option(NAME, options, "train", HOW_TO_GET)) if few_shot else []
    cases: list[Case] = []
    for index, record in enumerate(read_records(path)):
        question, answer = _question_and_answer(record, path, index + 1)
        chosen = random.Random(FEW_SHOT_SEED + index).sample(examples, min(few_shot, len(examples)))
        target = str(strict_number(answer))
        cases.append(Case(f"{NAME}/{index}", question, target=target, data={"examples": chosen}))
    return cases


def _examples(path: Path) -> list[list[str]]:
    pairs = [_question_and_answer(record, path, i) for i, record in enumerate(read_records(path), start=1)]
    return [[question, CALCULATOR.sub("", answer)] for question, answer in pairs]


def _question_and_answer(record: Mapping[str, Any], path: Path, number: int) -> tuple[str, str]:
    question, answer = field(record, "question", str, path, number), field(record, "answer", str, path, number)
    if strict_number(answer) is None:
        raise UserError(f"{path}, record {number}: the answer must end with #### and a number.")
    return question, answer


async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
    """Ask the question after the examples, which the model sees as earlier turns."""
    parameters = ModelRequestParameters(settings=DEFAULTS.merged(settings))
    return await ask_model(case, model, parameters, messages=conversation(case))


def conversation(case: Case) -> list[ModelMessage]:
    """Return the examples as turns, then the question."""
    examples: Sequence[Sequence[str]] = case.data["examples"]
    if not examples:
        return [opening(case.prompt, SYSTEM_PROMPT)]
    messages: list[ModelMessage] = []
    for i, (question, answer) in enumerate(examples):
        messages.append(opening(question, SYSTEM_PROMPT if i == 0 else None))
        messages.append(ModelResponse((TextPart(answer),)))
    messages.append(ModelRequest((UserPromptPart(case.prompt),)))
    return messages


def score_answer(case: Case, run: Run) -> Score:
    """Compare the final number; the score uses the strict extraction, `numbers` holds the flexible one."""
    if failed := failed_score(run):
        return failed
    text = str(run.output or "")
    strict, flexible, wanted = strict_number(text), flexible_number(text), Decimal(case.target)
    return Score(
        float(strict == wanted),
        f"wanted {wanted}, found {strict} behind ####, {flexible} as the last number",
        answer=None if strict is None else str(strict),
        numbers={"flexible": float(flexible == wanted)},
    )


SUITE = Suite(
    name=NAME,
    version=1,
    description="grade-school word problems; final number, strict and flexible extraction",
    load=load,
    solve=solve,
    score=score_answer,
    options=OPTIONS,
)
