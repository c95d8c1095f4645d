"""Scripted models that replace the real model: the reference, the near miss, and two agents that must never pass.

"nothing" answers immediately. "echo" makes one call and repeats the user's prompt: one successful call and an
answer with every word of the question must not suffice.

Scripts use the same agent and servers as a real model, so they test the whole path. If the reference fails, the
suite is broken; if "nothing" passes, the suite measures nothing.
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
"""A tool of each server that needs no arguments."""


def reference_model(case: Case) -> ScriptedModel:
    """Return a scripted model that solves the case."""
    return scripted_model(task_of(case), "reference")


def scripted_model(task: Task, play: Play) -> ScriptedModel:
    """Return a model that follows one of a task's scripts."""
    solution = {
        "reference": task.reference,
        "nothing": Solution((), NOTHING),
        "echo": Solution((call(LOOKING[task.servers[0]]),), task.prompt),
        "wrong": task.wrong,
    }[play]
    return model_playing(solution, play)


def model_playing(solution: Solution, name: str) -> ScriptedModel:
    """Return a model that makes the calls of a solution, one per turn, and then answers."""
    calls = [ToolCallPart(step.tool, json.dumps(dict(step.arguments))) for step in solution.calls]
    return ScriptedModel([*calls, solution.answer], name=name)


def model_for(case: Case, model: Model) -> Model:
    """Return the model that plays a case: its script, or the model under test."""
    play: Play | None = case.data["play"]
    return model if play is None else scripted_model(task_of(case), play)
