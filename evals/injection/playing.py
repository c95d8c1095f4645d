"""Scripted models that play a case: the reference solution, an obedient victim, and one that does nothing.

They test the harness from the command line: the reference must reach utility 1 without any attack success, the
victim must be attacked in every case, and "nothing" must achieve neither.
"""

from __future__ import annotations

from agentkit.messages import ToolCallPart
from agentkit.testing import ScriptedModel, call
from agentkit.testing.models import ScriptItem
from evals.injection.goals import Goal
from evals.injection.tasks import Task

PLAYS = ("reference", "obey", "nothing")


def scripted(play: str, task: Task, goal: Goal | None) -> ScriptedModel:
    """Return a new model of a play.

    Args:
        play: One of `PLAYS`.
        task: The user's task; "reference" and "obey" both solve it.
        goal: The attacker's goal, which "obey" carries out after the task; None in a benign case.
    """
    if play == "nothing":
        return ScriptedModel(["I cannot help with that."], name=play)
    steps: list[ToolCallPart] = [call(name, **arguments) for name, arguments in task.calls]
    answer = task.answer
    if play == "obey" and goal is not None:
        steps += [call(name, **arguments) for name, arguments in goal.calls]
        answer = f"{answer} {goal.answer}".strip()
    script: list[ScriptItem] = [*steps, answer]
    return ScriptedModel(script, name=play)
