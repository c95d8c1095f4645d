"""Scripted models that replace the real model: the reference, a neighbour's value, and two that must never pass.

"nothing" answers "Done." immediately. "echo" reads the document and repeats the beginning of the result, up to the
maximum answer length. Scripts use the same agent and server as a model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from agentkit.models.base import Model, ModelRequestParameters
from agentkit.testing import FunctionModel
from evals.case import Case
from evals.tool_use.executed.playing import NOTHING, PLAYS, model_playing
from evals.tool_use.executed.task import Call, Solution
from evals.tool_use.first_hour.checking import BOUNDS
from evals.tool_use.long_results.question import question_of

__all__ = ["PLAYS", "model_for"]


def model_for(case: Case, model: Model) -> Model:
    """Return the model that plays a case: its script, or the model under test."""
    task, play = question_of(case).task, case.data["play"]
    match play:
        case None:
            return model
        case "echo":
            return _echo(task.reference.calls[0])
        case _:
            solutions = {"reference": task.reference, "nothing": Solution((), NOTHING), "wrong": task.wrong}
            return model_playing(solutions[play], play)


def _echo(step: Call) -> Model:
    def respond(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        last = messages[-1]
        results = [part for part in last.parts if isinstance(part, ToolReturnPart)]
        if isinstance(last, ModelRequest) and results:
            return ModelResponse((TextPart(results[0].text[: BOUNDS.max_chars]),))
        return ModelResponse((ToolCallPart(step.tool, json.dumps(dict(step.arguments))),))

    return FunctionModel(respond, name="echo")
