"""Suite `humaneval`: Python functions from their signature and docstring, judged by their tests (Chen et al.

2021).

`chat` asks for the whole function; a reply without it is read as the function's body. `raw` continues the prompt
as plain text up to the next top-level statement, with the paper's stop strings and some more. The tests call the
program from another process (`modelstack.sandbox`), so values are returned as data: two results are equal by their
content, independent of the program's own classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

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
from modelstack.reasoning.verifiers.code_answers import defines, fenced_code

NAME = "humaneval"
OPTIONS = {"data": "HumanEval.jsonl or HumanEval.jsonl.gz of openai/human-eval", "form": FORM_OPTION}
HOW_TO_GET = "The file HumanEval.jsonl.gz is in the repository openai/human-eval, folder data."
DEFAULTS = ModelSettings(temperature=0.0, max_tokens=640)
"""The longest reference solution has fewer than 400 tokens; signature and docstring may be repeated before it."""
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n@", "\n```")
INSTRUCTION = (
    "Complete this Python function. Reply with the whole function in one ```python block and nothing else."
)


def load(options: Mapping[str, str]) -> list[Case]:
    """Return one case per problem.

    Raises:
        UserError: an option is not known, the file is missing or malformed, or this machine has no sandbox.
    """
    check_options(NAME, options, OPTIONS)
    form = choice_of(NAME, options, "form", FORMS)
    path = file_option(NAME, options, "data", HOW_TO_GET)
    cases: list[Case] = []
    for number, record in enumerate(read_records(path), start=1):
        task, prompt, name, tests = (
            field(record, key, str, path, number) for key in ("task_id", "prompt", "entry_point", "test")
        )
        data = {
            "form": form,
            "entry_point": name,
            # Tests use functions that the prompt defines before the tested one.
            "helpers": prompt,
            "tests": [f"{tests}\ncheck({name})\n"],
            "names": [name],
        }
        # A line end and the next line's indent are one token; the model has never seen a text end between them.
        cases.append(Case(task, prompt.rstrip() if form == "raw" else prompt, data=data))
    require_sandbox()
    return cases


async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
    """Generate the function and judge it.

    Raises:
        UserError: the form is raw and the model is not local, or this machine has no sandbox.
    """
    settings = DEFAULTS.merged(settings)
    if case.data["form"] == "raw":
        text, usage = await continue_raw(case, model, settings, STOPS)
        run = Run(case.id, "completed", output=text, usage=usage)
        sources = [case.prompt + text]
    else:
        request = opening(f"{INSTRUCTION}\n\n```python\n{case.prompt.rstrip()}\n```")
        run = await ask_model(case, model, ModelRequestParameters(settings=settings), messages=[request])
        sources = program_of(case.prompt, case.data["entry_point"], str(run.output or ""))
    return replace(run, observed=await observe(case, sources))


def program_of(prompt: str, name: str, reply: str) -> list[str]:
    """Return the executed sources: the prompt with its imports and helpers, then the function or its body."""
    code = fenced_code(reply, name)
    code = reply if code is None else code
    if defines(code, name):
        return [prompt, code]
    return [prompt + code]


SUITE = Suite(
    name=NAME,
    version=1,
    description="Python functions from their docstrings, run in a sandbox; pass@k over epochs",
    load=load,
    solve=solve,
    score=score_program,
    options=OPTIONS,
    tables=pass_tables,
)
