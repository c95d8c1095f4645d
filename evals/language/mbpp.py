"""Suite `mbpp`: small Python programs from one sentence and three assertions (Austin et al. 2021).

The test split is tasks 11 to 510. The three examples before each task are tasks 2, 3 and 4, with the paper's
wording and its [BEGIN] and [DONE]: as plain text for `raw`, as earlier turns for `chat`. The assertions run in a
different process from the program (`modelstack.sandbox`), where proxies replace the functions that they call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentkit.errors import UserError
from agentkit.messages import ModelMessage, ModelResponse, TextPart
from agentkit.models.base import Model, ModelRequestParameters, ModelSettings
from evals.case import Case, Run
from evals.harness.solving import ask_model, opening
from evals.harness.suite import Suite, check_options, choice_of
from evals.language.programs import (
    FORM_OPTION,
    FORMS,
    continue_raw,
    observe,
    pass_tables,
    require_sandbox,
    score_program,
)
from evals.language.records import field, file_option, read_records
from modelstack.reasoning.verifiers.code_answers import fenced_code, tested_names

NAME = "mbpp"
OPTIONS = {"data": "mbpp.jsonl of google-research, with all its tasks", "form": FORM_OPTION}
HOW_TO_GET = "The file is in the repository google-research/google-research, folder mbpp."
TEST_IDS = range(11, 511)
EXAMPLE_IDS = (2, 3, 4)
DEFAULTS = ModelSettings(temperature=0.0, max_tokens=384)
"""The longest reference solution has fewer than 350 tokens."""
BEGIN, DONE = "[BEGIN]", "[DONE]"
_MARKED = re.compile(rf"{re.escape(BEGIN)}\r?\n(.*?)(?:{re.escape(DONE)}|\Z)", re.DOTALL)


def load(options: Mapping[str, str]) -> list[Case]:
    """Return one case per task of the test split.

    Raises:
        UserError: an option is not known, the file is missing, malformed or without the examples, or this machine
            has no sandbox.
    """
    check_options(NAME, options, OPTIONS)
    form = choice_of(NAME, options, "form", FORMS)
    path = file_option(NAME, options, "data", HOW_TO_GET)
    tasks = {task["id"]: task for task in (_task(r, path, i) for i, r in enumerate(read_records(path), start=1))}
    if missing := [i for i in EXAMPLE_IDS if i not in tasks]:
        raise UserError(f"{path} lacks task {missing[0]}; tasks 2, 3 and 4 are the examples. {HOW_TO_GET}")
    examples = [[_question(tasks[i]), tasks[i]["code"]] for i in EXAMPLE_IDS]
    cases = [_case(task, examples, form) for number, task in sorted(tasks.items()) if number in TEST_IDS]
    if not cases:
        raise UserError(f"{path} has no task from 11 to 510, the test split. {HOW_TO_GET}")
    require_sandbox()
    return cases


def _task(record: Mapping[str, Any], path: Path, number: int) -> dict[str, Any]:
    tests = field(record, "test_list", list, path, number)
    setup = record.get("test_setup_code") or ""
    if not tests or not all(isinstance(test, str) for test in (*tests, setup)):
        raise UserError(f"{path}, record {number}: 'test_list' must be a list of assertions.")
    return {
        "id": field(record, "task_id", int, path, number),
        "text": field(record, "text", str, path, number),
        "code": field(record, "code", str, path, number).replace("\r\n", "\n"),
        "tests": tests,
        "setup": setup,
        "where": f"{path}, record {number}",
    }


def _question(task: Mapping[str, Any]) -> str:
    tests = "\n".join(task["tests"])
    return (
        f"You are an expert Python programmer, and here is your task: {task['text']} "
        f"Your code should pass these tests:\n\n{tests}\n"
    )


def _case(task: Mapping[str, Any], examples: Sequence[Sequence[str]], form: str) -> Case:
    question = _question(task)
    shots = "".join(f"{asked}{BEGIN}\n{code}\n{DONE}\n\n" for asked, code in examples)
    data: dict[str, Any] = {
        "form": form,
        "tests": task["tests"],
        "setup": task["setup"],
        "names": names_of(task),
    }
    if form == "raw":
        return Case(f"{NAME}/{task['id']}", f"{shots}{question}{BEGIN}\n", data=data)
    return Case(f"{NAME}/{task['id']}", question, data={**data, "examples": examples})


def names_of(task: Mapping[str, Any]) -> list[str]:
    """Return the globals of the program that the assertions use.

    Raises:
        UserError: the task's code is not Python.
    """
    try:
        return tested_names(task["tests"], f"{task['code']}\n{task['setup']}")
    except SyntaxError as error:
        raise UserError(f"{task['where']}: its tests or its code are not Python ({error}).") from error


async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
    """Generate the program and judge it.

    Raises:
        UserError: the form is raw and the model is not local, or this machine has no sandbox.
    """
    settings = DEFAULTS.merged(settings)
    if case.data["form"] == "raw":
        text, usage = await continue_raw(case, model, settings, (DONE,))
        run = Run(case.id, "completed", output=text, usage=usage)
        code = text
    else:
        parameters = ModelRequestParameters(settings=settings)
        run = await ask_model(case, model, parameters, messages=conversation(case))
        code = code_of(str(run.output or ""))
    return replace(run, observed=await observe(case, sources_of(case, code)))


def conversation(case: Case) -> list[ModelMessage]:
    """Return the examples as turns, then the task."""
    messages: list[ModelMessage] = []
    for asked, code in case.data["examples"]:
        messages += [opening(asked), ModelResponse((TextPart(f"{BEGIN}\n{code}\n{DONE}"),))]
    return [*messages, opening(case.prompt)]


def code_of(reply: str) -> str:
    """Return the code of a reply: between the marks, in a fenced block, or the whole reply."""
    marked = _MARKED.search(reply)
    code = marked.group(1) if marked else reply.partition(DONE)[0]
    fenced = fenced_code(code)
    return code if fenced is None else fenced


def sources_of(case: Case, code: str) -> list[str]:
    """Return the sources that the program's process executes: the code, then the tests' setup values."""
    return [code, case.data["setup"]] if case.data["setup"] else [code]


SUITE = Suite(
    name=NAME,
    version=1,
    description="small Python programs from one sentence and three assertions, in a sandbox; pass@k over epochs",
    load=load,
    solve=solve,
    score=score_program,
    options=OPTIONS,
    tables=pass_tables,
)
