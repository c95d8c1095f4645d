"""Scripts in a model's place: the reference, an agent that does nothing, and the near miss.

They go through the same agent and the same servers as a real model, so they prove the whole path: a suite in
which the reference fails is broken, and one in which doing nothing passes measures nothing.
"""

from __future__ import annotations

import json
from typing import get_args

from agentkit.messages import ToolCallPart
from agentkit.models.model import Model
from agentkit.testing import ScriptedModel
from evals.case import Case
from evals.tool_use.executed.task import Play, Solution, Task, task_of

PLAYS: tuple[Play, ...] = get_args(Play)
NOTHING = "Done."


def reference_model(case: Case) -> ScriptedModel:
    """Return a model that solves the case."""
    return scripted_model(task_of(case), "reference")


def scripted_model(task: Task, play: Play) -> ScriptedModel:
    """Return a model that plays one of a task's scripts."""
    solution = {"reference": task.reference, "nothing": Solution((), NOTHING), "wrong": task.wrong}[play]
    calls = [ToolCallPart(step.tool, json.dumps(dict(step.arguments))) for step in solution.calls]
    return ScriptedModel([*calls, solution.answer], name=play)


def model_for(case: Case, model: Model) -> Model:
    """Return the model that a case is to be played by: its script, or the one under test."""
    play: Play | None = case.data["play"]
    return model if play is None else scripted_model(task_of(case), play)
