"""Scripts in a model's place: the reference, the near miss, and two agents that should never be right.

"nothing" answers at once. "echo" looks around once and gives the user's own sentence back: a call that succeeded
and an answer with every word of the question must not be enough.

They go through the same agent and the same servers as a real model, so they prove the whole path: a suite in
which the reference fails is broken, and one in which doing nothing passes measures nothing.
"""

from __future__ import annotations

import json
from typing import get_args

from agentkit.messages import ToolCallPart
from agentkit.models.base import Model
from agentkit.testing import ScriptedModel
from evals.case import Case
from evals.tool_use.executed.task import Play, Server, Solution, Task, call, task_of

PLAYS: tuple[Play, ...] = get_args(Play)
NOTHING = "Done."
LOOKING: dict[Server, str] = {"filesystem": "list_directory", "sqlite": "list_tables", "time": "current_time"}
"""A tool of each server that needs no argument."""


def reference_model(case: Case) -> ScriptedModel:
    """Return a model that solves the case."""
    return scripted_model(task_of(case), "reference")


def scripted_model(task: Task, play: Play) -> ScriptedModel:
    """Return a model that plays one of a task's scripts."""
    solution = {
        "reference": task.reference,
        "nothing": Solution((), NOTHING),
        "echo": Solution((call(LOOKING[task.servers[0]]),), task.prompt),
        "wrong": task.wrong,
    }[play]
    return model_playing(solution, play)


def model_playing(solution: Solution, name: str) -> ScriptedModel:
    """Return a model that makes the calls of a solution, one a turn, and answers."""
    calls = [ToolCallPart(step.tool, json.dumps(dict(step.arguments))) for step in solution.calls]
    return ScriptedModel([*calls, solution.answer], name=name)


def model_for(case: Case, model: Model) -> Model:
    """Return the model that a case is to be played by: its script, or the one under test."""
    play: Play | None = case.data["play"]
    return model if play is None else scripted_model(task_of(case), play)
