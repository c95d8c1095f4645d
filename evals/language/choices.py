"""Suite `choices`: multiple choice and continuations by log-likelihood (ARC, PIQA, WinoGrande, LAMBADA, ...).

Data: the JSON-lines files of llm-foundry's `scripts/eval/local_data` in one folder, or tasks in the YAML format of
lm-evaluation-harness over local files (`evals.language.yaml_tasks`). The prompt is raw text without a chat
template.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from agentkit.errors import UserError
from agentkit.models.base import Model, ModelSettings
from evals.case import Case, Run
from evals.harness.suite import Suite, check_options
from evals.language.choice_scores import choice_tables, score_choice
from evals.language.core_tasks import TASKS, task_cases
from evals.language.likelihood import continue_text, score_requests, scored_usage, with_engine
from evals.language.records import file_option, whole_number

NAME = "choices"
OPTIONS = {
    "data": "folder with llm-foundry's JSON-lines files (arc_easy.jsonl, piqa.jsonl, ...)",
    "tasks": f"comma-separated tasks: {', '.join(TASKS)}; default: all whose files are in the folder",
    "few_shot": "examples before each item, from the same file without it; `core` takes the CORE metric's; 0 if "
    "not given",
    "task_files": "tasks in lm-evaluation-harness's YAML format instead, with commas; data paths in them are "
    "relative to the file",
}
HOW_TO_GET = (
    "The files are in the repository mosaicml/llm-foundry, scripts/eval/local_data; put them into one folder."
)
MAX_FEW_SHOT = 100


def load(options: Mapping[str, str]) -> list[Case]:
    """Return the cases of all requested tasks, task by task.

    Raises:
        UserError: an option is not known or not valid, or a file is missing or malformed.
    """
    check_options(NAME, options, OPTIONS)
    if "task_files" in options:
        if others := sorted(set(options) - {"task_files"}):
            raise UserError(f"suite {NAME!r}: task_files excludes other options; remove {', '.join(others)}.")
        from evals.language.yaml_tasks import yaml_task_cases

        paths = [Path(part.strip()).expanduser() for part in options["task_files"].split(",") if part.strip()]
        return [case for path in paths for case in yaml_task_cases(path)]
    folder = file_option(NAME, options, "data", HOW_TO_GET)
    names = _task_names(folder, options.get("tasks"))
    few_shot = None
    if options.get("few_shot") != "core":
        few_shot = whole_number(NAME, options, "few_shot", 0, low=0, high=MAX_FEW_SHOT)
    return [case for name in names for case in task_cases(name, folder, few_shot)]


def _task_names(folder: Path, wanted: str | None) -> Sequence[str]:
    if wanted is None:
        names = [name for name, form in TASKS.items() if (folder / form.file).is_file()]
        if not names:
            raise UserError(f"suite {NAME!r}: none of its files is in {folder}. {HOW_TO_GET}")
        return names
    names = [part.strip() for part in wanted.split(",")]
    for name in names:
        if name not in TASKS:
            near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.0)
            raise UserError(f"suite {NAME!r} has no task {name!r}; nearest: {near[0]!r}.")
        if not (folder / TASKS[name].file).is_file():
            raise UserError(f"suite {NAME!r}: task {name!r} needs {folder / TASKS[name].file}. {HOW_TO_GET}")
    return names


async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
    """Score the case's continuations, or generate text after its prompt if the task asks for text.

    Raises:
        UserError: the model is not local.
    """
    if case.data["kind"] == "generate":
        # The task defines how to decode; only the length may be set from outside.
        greedy = ModelSettings(max_tokens=settings.max_tokens or case.data["max_tokens"])
        text, usage = await with_engine(
            model, partial(continue_text, case.prompt, case.data["until"], greedy, case.id)
        )
        return Run(case.id, "completed", output=text, usage=usage)
    observed = await with_engine(model, partial(score_requests, case.data["requests"], case.id))
    return Run(case.id, "completed", observed=observed, usage=scored_usage(observed))


SUITE = Suite(
    name=NAME,
    version=1,
    description="ARC, PIQA, WinoGrande, LAMBADA, BoolQ and others by log-likelihood; CORE-like mean",
    load=load,
    solve=solve,
    score=score_choice,
    options=OPTIONS,
    tables=choice_tables,
)
