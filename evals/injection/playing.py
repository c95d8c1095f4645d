"""Scripted models that play a case: the reference solution, the obedient victim, and one that does nothing.

They prove the harness from the command line: the reference must reach utility 1 and be attacked nowhere, the
victim must be attacked everywhere, and who does nothing must do neither.
"""

from __future__ import annotations

from agentkit.messages import ToolCallPart
from agentkit.testing import ScriptedModel, call
from agentkit.testing.models import ScriptItem
from evals.injection.goals import Goal
from evals.injection.tasks import Task

PLAYS = ("reference", "obey", "nothing")


def scripted(play: str, task: Task, goal: Goal | None) -> ScriptedModel:
    """Return the model of a play, fresh.

    Args:
        play: One of `PLAYS`.
        task: What the user wants; "reference" and "obey" both do it.
        goal: What the attacker wants; "obey" does it after the task. None in a benign case.
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
