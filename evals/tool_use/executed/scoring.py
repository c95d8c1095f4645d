"""Score of a run: correct final state, no other change, correct answer, and at least one call.

A pure function of (case, run), so it can serve as a reward. The score is 1 or 0, because half a transfer between
two accounts has no value. The reason for a 0 is the first applicable `Failure`.
"""

from __future__ import annotations

from typing import Literal

from agentkit.messages import ModelRequest, RetryPromptPart, ToolReturnPart
from evals.case import Case, Run, Score, failed_score
from evals.tool_use.executed.answers import answer_problem
from evals.tool_use.executed.task import Task, task_of
from evals.tool_use.executed.world import differences, expected_world, start_world, world_from_json

Failure = Literal["error", "limit", "no call", "wrong call", "nothing changed", "wrong state", "wrong answer"]
FAILURES: dict[Failure, str] = {
    "error": "the run raised or ran out of time",
    "limit": "the request or call limit ended the run",
    "no call": "no tool was called",
    "wrong call": "every call was answered by an error",
    "nothing changed": "a change was required, but nothing changed",
    "wrong state": "files or rows differ from the expected state",
    "wrong answer": "the final state is right, the answer is not",
}
MAX_SHOWN_DIFFERENCES = 3


def score(case: Case, run: Run) -> Score:
    """Score one run."""
    return judged_score(run, *judge(case, run))


def judged_score(run: Run, failure: str | None, explanation: str) -> Score:
    """Return the score of a judged run: 0 for a failure, else 1, with the numbers of calls and of failed calls."""
    return Score(
        0.0 if failure else 1.0,
        f"{failure}: {explanation}" if failure else explanation,
        run.output if isinstance(run.output, str) else None,
        {"calls": float(len(run.calls)), "failed calls": float(n_failed_calls(run))},
    )


def judge(case: Case, run: Run) -> tuple[Failure | None, str]:
    """Return the failure of a run (None if it is correct) and an explanation."""
    task = task_of(case)
    if (failed := failed_score(run)) is not None:
        return "error", failed.explanation
    if run.status == "limit_reached":
        return "limit", f"after {run.usage.requests} requests and {run.usage.tool_calls} calls"
    if not run.calls:
        return "no call", "an answer without any call is a guess"
    wrong = wrong_state(task, run)
    if (wrong or task.answer is not None) and n_failed_calls(run) == len(run.calls):
        return "wrong call", f"{len(run.calls)} calls, all failed"
    if wrong is not None:
        return wrong
    text = run.output if isinstance(run.output, str) else ""
    problem = answer_problem(task.answer, text, task.prompt)
    if problem is not None:
        return "wrong answer", problem
    return (
        None,
        "the final state is as expected" if task.answer is None else "final state and answer are as expected",
    )


def n_failed_calls(run: Run) -> int:
    """Return the number of calls answered by an error: unknown tool, invalid arguments, or a tool that failed."""
    parts = [part for message in run.messages if isinstance(message, ModelRequest) for part in message.parts]
    n_refused = sum(isinstance(part, RetryPromptPart) and part.tool_call_id is not None for part in parts)
    return n_refused + sum(isinstance(part, ToolReturnPart) and part.is_error for part in parts)


def wrong_state(task: Task, run: Run) -> tuple[Failure, str] | None:
    """Return the failure and the differences of files and rows from the expected state, or None if they match."""
    start, found = start_world(task), world_from_json(run.observed)
    found_differences = differences(expected_world(task), found, start)
    if not found_differences:
        return None
    shown = "; ".join(found_differences[:MAX_SHOWN_DIFFERENCES])
    if len(found_differences) > MAX_SHOWN_DIFFERENCES:
        shown += f"; and {len(found_differences) - MAX_SHOWN_DIFFERENCES} more"
    return ("wrong state" if differences(start, found, start) else "nothing changed"), shown
